"""Schedules put together from others: every step is one of either part's, and at the seams no lesson is lost."""

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad.core.actions import Action, Kind
from synthgrad.core.combined import eager, teach_every, true_every, warm_up
from synthgrad.core.errors import ScheduleError
from synthgrad.core.pipelines import gpipe
from synthgrad.core.plan import Declaration, Lock, Plan, locks, stage_locks, validate
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, from_text, sporadic, update_unlocked
from synthgrad.engines.local import LocalEngine

STAGES, STEPS = st.integers(1, 4), st.integers(0, 6)
PARTS = st.builds(
    lambda parts, seed: [update_unlocked(microbatches=parts), sporadic(0.6, seed), gpipe(parts)],
    st.integers(1, 3),
    st.integers(0, 20),
).flatmap(st.sampled_from)
COMBINED: st.SearchStrategy[Schedule] = st.one_of(
    st.builds(warm_up, STEPS, PARTS),
    st.builds(true_every, st.integers(1, 4), PARTS),
    st.builds(warm_up, STEPS, st.builds(true_every, st.integers(1, 4), PARTS)),
)


def taught(stages: int, step: int, parts: int) -> list[Action]:
    """Back-propagation of a batch in parts, with a lesson for every synthesizer before the updates."""
    own = range(step * parts, (step + 1) * parts)
    actions = [Action(stage, Kind.F, part) for part in own for stage in range(stages)]
    actions += [Action(stage, Kind.B, part) for part in own for stage in reversed(range(stages))]
    actions += [Action(stage, Kind.T, part) for stage in range(stages - 1) for part in own]
    return actions + [Action(stage, Kind.U, own[-1]) for stage in range(stages)]


def plan_of(schedule: Schedule, stages: int) -> Plan:
    return Plan(schedule, (*[Declaration()] * (stages - 1), Declaration(False, feedback=frozenset())))


# ---- fewer lessons ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.one_of(PARTS, st.builds(forward_unlocked, st.integers(0, 2))), STAGES, STEPS)
def test_lessons_of_every_kth_step_stay_and_nothing_else_changes(
    k: int, schedule: Schedule, stages: int, steps: int
) -> None:
    def split(run: list[Action]) -> tuple[list[Action], list[Action]]:
        lessons = [action for action in run if action.kind in (Kind.T, Kind.Q)]
        return lessons, [action for action in run if action.kind not in (Kind.T, Kind.Q)]

    def run_of(one: Schedule) -> list[Action]:
        return [action for step in range(steps) for action in one.actions(stages, step)] + list(
            one.flush(stages, steps)
        )

    lessons, others = split(run_of(schedule))
    left, same = split(run_of(teach_every(k, schedule)))
    assert same == others
    assert left == [action for action in lessons if schedule.step_of(action) % k == 0]


@given(st.integers(1, 5), st.builds(update_unlocked, st.integers(0, 3), microbatches=st.integers(1, 2)), STAGES)
def test_a_schedule_that_teaches_every_kth_step_repeats_after_k(k: int, schedule: Schedule, stages: int) -> None:
    form = teach_every(k, schedule)
    plan, each = plan_of(form, stages), plan_of(replace(form, period=0), stages)
    assert form.period == k and eval(form.name).text(stages, 5) == form.text(stages, 5)
    validate(plan)
    assert [plan.lines(step) for step in range(3 * k + 2)] == [each.lines(step) for step in range(3 * k + 2)]
    assert stage_locks(plan) == stage_locks(plan_of(schedule, stages))


# ---- which step is whose ---------------------------------------------------------------------------------------------


@given(STEPS, PARTS, STAGES, st.integers(0, 8))
def test_a_warm_up_is_back_propagation_first_and_then_the_schedule(
    steps: int, schedule: Schedule, stages: int, step: int
) -> None:
    expected = (
        taught(stages, step, schedule.microbatches) if step < steps else list(eager(schedule).actions(stages, step))
    )
    assert list(warm_up(steps, schedule).actions(stages, step)) == expected


@given(st.integers(1, 4), PARTS, STAGES, st.integers(0, 8))
def test_every_kth_step_is_back_propagation_beginning_with_the_first(
    k: int, schedule: Schedule, stages: int, step: int
) -> None:
    expected = eager(schedule).actions(stages, step)
    expected = expected if step % k else tuple(taught(stages, step, schedule.microbatches))
    assert true_every(k, schedule).actions(stages, step) == expected


@given(STAGES, STEPS)
def test_every_step_true_is_back_propagation_that_teaches(stages: int, step: int) -> None:
    assert true_every(1, update_unlocked()).actions(stages, step) == backprop(teach=True).actions(stages, step)


@given(COMBINED, STAGES, STEPS)
def test_no_lesson_is_lost_or_given_twice_and_none_comes_late(schedule: Schedule, stages: int, steps: int) -> None:
    run = [(step, action) for step in range(steps) for action in schedule.actions(stages, step)]
    assert not schedule.flush(stages, steps) and schedule.lateness == 0
    assert all(schedule.step_of(action) == step for step, action in run)
    counts = Counter(action for _, action in run)
    assert set(counts.values()) <= {1}
    made = {(a.stage, a.microbatch) for a in counts if a.kind in (Kind.S, Kind.B) and a.stage > 0}
    lessons = {(a.stage + 1, a.microbatch) for a in counts if a.kind is Kind.T}
    gpiped = "gpipe" in schedule.name  # which teaches nobody, but in the true steps
    assert lessons == made or (gpiped and lessons <= made)


@given(COMBINED, STAGES)
def test_they_can_be_executed(schedule: Schedule, stages: int) -> None:
    validate(plan_of(schedule, stages), steps=9)


@given(COMBINED, STAGES, st.permutations(range(6)))
def test_a_step_does_not_depend_on_what_was_asked_before(schedule: Schedule, stages: int, asked: list[int]) -> None:
    in_order = {step: schedule.actions(stages, step) for step in range(6)}
    assert {step: schedule.actions(stages, step) for step in asked} == in_order
    assert not schedule.period and eager(schedule).text(stages, 6) == schedule.text(stages, 6)


@given(COMBINED)
def test_they_are_called_what_builds_them(schedule: Schedule) -> None:
    assert eval(schedule.name).text(3, 5) == schedule.text(3, 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: warm_up(-1, update_unlocked()), "warm_up: steps=-1"),
        (lambda: true_every(0, update_unlocked()), "true_every: k=0"),
        (lambda: teach_every(0, update_unlocked()), "teach_every: k=0"),
        (lambda: warm_up(3, update_unlocked(1)), r"warm_up\(3, update_unlocked\(delay=1\)\): .* 1 steps late.*delay=0"),
        (lambda: true_every(3, sporadic(0.5, delay=2)), "2 steps late"),
        (lambda: true_every(3, forward_unlocked(1)), "1 steps late"),
    ],
)
def test_what_cannot_be_put_together_is_refused(build: partial, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        build()


# ---- locks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize(
    "schedule",
    [warm_up(1, update_unlocked()), warm_up(500, update_unlocked()), true_every(5, update_unlocked())],
    ids=lambda schedule: schedule.name,
)
def test_the_locks_of_the_whole_are_those_of_back_propagation(schedule: Schedule, stages: int) -> None:
    assert stage_locks(plan_of(schedule, stages)) == stage_locks(plan_of(backprop(), stages))
    assert set(locks(plan_of(schedule, stages))) == set(Lock)


def test_the_locks_behind_a_warm_up_are_those_of_the_schedule_alone() -> None:
    assert stage_locks(plan_of(warm_up(0, update_unlocked()), 3)) == stage_locks(plan_of(update_unlocked(), 3))
    *_, behind = warm_up(500, update_unlocked()).parts
    assert locks(plan_of(behind, 3)) == {Lock.FORWARD}


# ---- in training -----------------------------------------------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 5), torch.randint(0, 3, (8,))


def net_of(schedule: Schedule) -> sg.Decoupled:
    torch.manual_seed(0)
    return sg.decouple(
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)),
        at=["1", "3"],
        sample=batch(),
        loss=functional.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=3),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        schedule=schedule,
    )


def train(net: sg.Decoupled, steps: int, seed: int = 1) -> sg.Decoupled:
    torch.manual_seed(seed)
    for _ in range(steps):
        x, y = batch()
        net.step(x, target=y)
    net.flush()
    return net


def same(ours: sg.Decoupled, theirs: sg.Decoupled) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_warm_up_trains_as_one_run_behind_the_other(steps: int, parts: int) -> None:
    schedule = update_unlocked(microbatches=parts)
    whole, first = train(net_of(warm_up(steps, schedule)), 7), net_of(warm_up(steps, schedule))
    teaching = from_text(" ".join(map(str, taught(3, 0, parts))), microbatches=parts)
    torch.manual_seed(1)
    for count, then in ((steps, teaching), (7 - steps, eager(schedule))):
        engine = LocalEngine(first.stages, Plan(then, first.plan.stages))
        engine.steps = engine.since = first.engine.steps
        first.engine = engine
        for _ in range(count):
            x, y = batch()
            first.step(x, target=y)
    assert same(whole, first)


def test_without_a_warm_up_and_with_nothing_else_it_trains_as_the_parts_do() -> None:
    unlocked, locked = train(net_of(update_unlocked()), 5), train(net_of(backprop(teach=True)), 5)
    assert same(train(net_of(warm_up(0, update_unlocked())), 5), unlocked)
    assert same(train(net_of(warm_up(5, update_unlocked())), 5), locked)
    assert same(train(net_of(true_every(1, update_unlocked())), 5), locked)
    assert not same(train(net_of(true_every(2, update_unlocked())), 5), locked) and not same(unlocked, locked)


def test_a_copy_goes_on_where_the_schedule_stands() -> None:
    net = train(net_of(warm_up(4, update_unlocked())), 2)
    twin = copy.deepcopy(net)
    assert same(train(net, 4, seed=2), train(twin, 4, seed=2))


@pytest.mark.parametrize("wrong", ["0F0 1F0 2F0 2B0 0S0 0U0 1U0 2U0", "0F0 0S0 0U0 1F0 1B0 1U0"])
def test_what_comes_behind_a_long_warm_up_is_looked_at_before_it_begins(wrong: str) -> None:
    with pytest.raises(ScheduleError):
        net_of(warm_up(1000, from_text(wrong)))


def test_with_predicted_inputs_there_is_no_back_propagation_to_begin_with() -> None:
    with pytest.raises(ScheduleError, match="input synthesizer"):
        sg.decouple(
            nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
            at=["1"],
            sample=batch(),
            loss=functional.cross_entropy,
            synthesizer=sg.LinearSynthesizer,
            input_synthesizer=sg.MLPInputSynthesizer,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            schedule=warm_up(3, forward_unlocked()),
        )
