"""Law 5: the locks of each builder are those the paper states, and they are right on schedules that nobody named.

An update U(k,t) that reaches back, through its stage's earlier actions and through what they wait for, to an earlier
stage's F of its own step is locked forward; to a later stage's F, update; to a later stage's S, B or I, backward.
Jaderberg et al. 2016, arXiv:1608.05343, section 1.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind, format_actions, parse_actions
from synthgrad.core.combined import eager
from synthgrad.core.errors import ScheduleError
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.plan import Declaration, Lock, Plan, locks, stage_locks, validate
from synthgrad.core.schedules import (
    Schedule,
    backprop,
    error_broadcast,
    forward_unlocked,
    from_text,
    sporadic,
    update_unlocked,
)

FORWARD, UPDATE, BACKWARD = frozenset({Lock.FORWARD}), frozenset({Lock.UPDATE}), frozenset({Lock.BACKWARD})
FREE: frozenset[Lock] = frozenset()
MAKES_A_GRADIENT = (Kind.S, Kind.B, Kind.I)
LAST = Declaration(synthesizer=False, feedback=frozenset())
# Direct feedback alignment: a fixed random matrix applied to the error at the model's output. Nothing to learn.
FEEDBACK_ALIGNMENT = Declaration(needs=frozenset({"error"}), feedback=frozenset())


def plan_of(schedule: Schedule, stages: int = 3) -> Plan:
    predicts = any(action.kind is Kind.P for action in schedule.actions(stages, 0))
    declared = [Declaration(input_synthesizer=predicts and stage > 0) for stage in range(stages)]
    declared[-1] = replace(LAST, input_synthesizer=predicts and stages > 1)
    return Plan(schedule, tuple(declared))


def chain(first: frozenset[Lock], inner: frozenset[Lock], last: frozenset[Lock], stages: int) -> list[frozenset[Lock]]:
    """The locks of a first stage, the inner ones and a last; a single stage has nobody to wait for."""
    return [FREE] if stages == 1 else [first, *[inner] * (stages - 2), last]


# ---- the builders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", range(1, 6))
@pytest.mark.parametrize(
    "schedule",
    [backprop(), backprop(teach=True), gpipe(1), gpipe(3), one_f_one_b(1), one_f_one_b(4), eager(backprop(teach=True))],
    ids=lambda schedule: schedule.name,
)
def test_back_propagation_is_locked_three_times_however_it_is_pipelined(schedule: Schedule, stages: int) -> None:
    expected = chain(UPDATE | BACKWARD, FORWARD | UPDATE | BACKWARD, FORWARD, stages)
    assert list(stage_locks(plan_of(schedule, stages))) == expected
    assert locks(plan_of(schedule, stages)) == (FORWARD | UPDATE | BACKWARD if stages > 1 else FREE)


UPDATE_UNLOCKED = [update_unlocked(delay, microbatches=parts) for delay in (0, 1, 3) for parts in (1, 3)]


@pytest.mark.parametrize("stages", range(1, 6))
@pytest.mark.parametrize(
    "schedule",
    [*UPDATE_UNLOCKED, *map(eager, UPDATE_UNLOCKED), sporadic(1.0), sporadic(1.0, seed=3, delay=2)],
    ids=lambda schedule: schedule.name,
)
def test_with_synthetic_gradients_a_stage_waits_for_its_input_alone(schedule: Schedule, stages: int) -> None:
    assert list(stage_locks(plan_of(schedule, stages))) == chain(FREE, FORWARD, FORWARD, stages)
    assert locks(plan_of(schedule, stages)) == (FORWARD if stages > 1 else FREE)


FORWARD_UNLOCKED = [forward_unlocked(delay, microbatches=parts) for delay in (0, 1, 3) for parts in (1, 3)]


@pytest.mark.parametrize("stages", range(1, 6))
@pytest.mark.parametrize(
    "schedule", [*FORWARD_UNLOCKED, *map(eager, FORWARD_UNLOCKED)], ids=lambda schedule: schedule.name
)
def test_with_predicted_inputs_too_a_stage_waits_for_nobody(schedule: Schedule, stages: int) -> None:
    assert list(stage_locks(plan_of(schedule, stages))) == [FREE] * stages
    assert locks(plan_of(schedule, stages)) == FREE


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_in_sporadic_training_whoever_takes_part_waits_for_its_input_alone(p: float, seed: int) -> None:
    plan = plan_of(sporadic(p, seed), 4)
    took_part = {action.stage for action in plan.run_of(9) if action.kind is Kind.U}
    expected = [FORWARD if stage > 0 and stage in took_part else FREE for stage in range(4)]
    assert list(stage_locks(plan, steps=9)) == expected


def test_where_nobody_updates_nothing_is_locked() -> None:
    assert locks(plan_of(sporadic(0.0))) == FREE


# ---- declared needs count --------------------------------------------------------------------------------------------


def test_direct_feedback_alignment_is_update_locked_for_it_needs_the_outputs_error() -> None:
    schedule = from_text("0F0 1F0 2F0 2B0 2U0 0S0 0U0 1S0 1U0")
    plan = Plan(schedule, (FEEDBACK_ALIGNMENT, FEEDBACK_ALIGNMENT, LAST))
    validate(plan)
    assert list(stage_locks(plan)) == [UPDATE, FORWARD | UPDATE, FORWARD]
    unlocked = Plan(schedule, (Declaration(), Declaration(), LAST))  # the same actions, with learned synthesizers
    assert list(stage_locks(unlocked)) == [FREE, FORWARD, FORWARD]


BROADCAST = [error_broadcast(microbatches=parts) for parts in (1, 3)]


@pytest.mark.parametrize("stages", range(1, 6))
@pytest.mark.parametrize("schedule", [*BROADCAST, *map(eager, BROADCAST)], ids=lambda schedule: schedule.name)
def test_where_the_error_is_broadcast_nobody_waits_for_a_backward_pass(schedule: Schedule, stages: int) -> None:
    plan = Plan(schedule, (*[FEEDBACK_ALIGNMENT] * (stages - 1), LAST))
    validate(plan)
    assert list(stage_locks(plan)) == chain(UPDATE, FORWARD | UPDATE, FORWARD, stages)
    assert locks(plan) == (FORWARD | UPDATE if stages > 1 else FREE)


@pytest.mark.parametrize("stages", range(2, 6))
@pytest.mark.parametrize("schedule", BROADCAST, ids=lambda schedule: schedule.name)
def test_a_learned_synthesizer_under_the_broadcast_waits_for_its_input_alone(schedule: Schedule, stages: int) -> None:
    for learned in range(stages - 1):
        declared = [FEEDBACK_ALIGNMENT] * (stages - 1) + [LAST]
        declared[learned] = Declaration()
        expected = chain(UPDATE, FORWARD | UPDATE, FORWARD, stages)
        expected[learned] -= UPDATE
        plan = Plan(schedule, tuple(declared))
        validate(plan)
        assert list(stage_locks(plan)) == expected


@pytest.mark.parametrize("schedule", [update_unlocked(), sporadic(1.0)], ids=lambda schedule: schedule.name)
def test_a_schedule_that_asks_for_the_error_too_early_is_told_of_the_broadcast(schedule: Schedule) -> None:
    with pytest.raises(ScheduleError, match=r"0S0: stands before 2F0, which it needs; .* use error_broadcast\(\)"):
        validate(Plan(schedule, (FEEDBACK_ALIGNMENT, FEEDBACK_ALIGNMENT, LAST)))
    with pytest.raises(ScheduleError, match="0S0: stands before 0F0, which it needs\n"):  # no error in the case
        validate(Plan(from_text("0S0 0F0 0U0 1F0 1B0 1U0"), (Declaration(), LAST)))


@pytest.mark.parametrize("stages", range(2, 6))
@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_stage_that_needs_the_error_locks_itself_and_leaves_the_others_free(delay: int, stages: int) -> None:
    for locked in range(stages - 1):
        declared = [Declaration()] * (stages - 1) + [LAST]
        declared[locked] = FEEDBACK_ALIGNMENT
        expected = chain(FREE, FORWARD, FORWARD, stages)
        expected[locked] |= UPDATE
        assert list(stage_locks(Plan(update_unlocked(delay), tuple(declared)))) == expected


def test_in_microbatches_a_stage_that_needs_the_error_locks_those_above_it_too() -> None:
    """0S0 waits for 2F0, and 1F1, by way of 0F1, for 0S0; and 2F1 stands behind 2B0."""
    plan = Plan(update_unlocked(microbatches=2), (FEEDBACK_ALIGNMENT, Declaration(), LAST))
    assert list(stage_locks(plan)) == [UPDATE | BACKWARD, FORWARD | UPDATE, FORWARD]


def test_a_target_of_another_step_is_no_lock() -> None:
    lesson_late = Schedule(
        "late",
        lambda _, step: (
            list(parse_actions(f"0F{step} 1F{step} 1B{step} 1U{step}" + f" 0T{step - 1}" * (step > 0)))
            + list(parse_actions(f"0S{step} 0U{step}"))
        ),
        lateness=1,
    )
    lesson_now = from_text("0F0 1F0 1B0 1U0 0T0 0S0 0U0")
    assert list(stage_locks(plan_of(lesson_late, 2))) == [FREE, FORWARD]
    assert list(stage_locks(plan_of(lesson_now, 2))) == [UPDATE | BACKWARD, FORWARD]


# ---- schedules that nobody named -------------------------------------------------------------------------------------


def waits_for(action: Action, plan: Plan, present: set[Action]) -> list[Action]:
    """The table of letters in DESIGN.md, section 3, written down a second time."""
    stage, kind, part = action
    last, declared = len(plan.stages) - 1, plan.stages[stage]
    candidates: list[Action] = []
    if kind in (Kind.F, Kind.Q):
        candidates = [Action(stage - 1, Kind.F, part)]
    elif kind is Kind.S and "error" in declared.needs:
        candidates = [Action(last, Kind.F, part)]
    elif kind in (Kind.B, Kind.I) or (kind is Kind.T and declared.feedback):
        candidates = [Action(stage + 1, maker, part) for maker in MAKES_A_GRADIENT]
    return [other for other in candidates if other in present]


def locks_by_closure(plan: Plan, steps: int) -> list[frozenset[Lock]]:
    """The definition, on the transitive closure of the whole run's graph as a matrix."""
    run = plan.run_of(steps)
    number = {action: row for row, action in enumerate(run)}
    reaches = np.eye(len(run), dtype=np.float32)  # reaches[a, b]: a comes after b, or is b
    for stage in range(len(plan.stages)):
        program = [number[action] for action in run if action.stage == stage]
        reaches[program[1:], program[:-1]] = 1
    for action in run:
        for other in waits_for(action, plan, set(run)):
            reaches[number[action], number[other]] = 1
    for _ in range(len(run).bit_length()):  # paths twice as long each time
        reaches = np.minimum(reaches @ reaches, 1)
    found: list[set[Lock]] = [set() for _ in plan.stages]
    parts = plan.schedule.microbatches
    for update in run:
        for other in run:
            same_step = other.microbatch // parts == update.microbatch // parts
            if update.kind is Kind.U and same_step and reaches[number[update], number[other]]:
                if other.kind is Kind.F and other.stage < update.stage:
                    found[update.stage].add(Lock.FORWARD)
                if other.kind is Kind.F and other.stage > update.stage:
                    found[update.stage].add(Lock.UPDATE)
                if other.kind in MAKES_A_GRADIENT and other.stage > update.stage:
                    found[update.stage].add(Lock.BACKWARD)
    return [frozenset(each) for each in found]


def linear_extension(before: dict[Action, set[Action]], wish: list[Action]) -> list[Action]:
    """The actions in an order that keeps `before`; among those ready, the first of the wish list goes first."""
    done: list[Action] = []
    while len(done) < len(wish):
        done.append(next(a for a in wish if a not in done and before[a].issubset(done)))
    return done


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A valid plan as a person might write it, with lessons in their own step or up to two steps later."""
    stages, parts, lateness = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    before: dict[Action, set[Action]] = {}
    late: set[Action] = set()
    declared: list[Declaration] = []
    maker: dict[tuple[int, int], Action] = {}
    for stage in reversed(range(stages)):
        last = stage == stages - 1
        way = draw(st.sampled_from(["B", "IW"] if last else ["S", "S", "B", "IW", "skip"]))
        if not last and (stage + 1, 0) not in maker and way in ("B", "IW"):
            way = "S"
        predicts = stage > 0 and draw(st.booleans())
        needs = frozenset({"error"} if draw(st.integers(0, 3)) == 0 else ())
        feedback = frozenset({"gradient"} if draw(st.integers(0, 3)) else ())
        declaration = Declaration(True, needs, feedback, predicts)
        declared.insert(0, replace(LAST, input_synthesizer=predicts) if last else declaration)
        can_teach = not last and ((stage + 1, 0) in maker or not feedback)
        teaches, teaches_input = can_teach and draw(st.booleans()), predicts and draw(st.booleans())
        early_update = parts == 2 and draw(st.booleans())
        for part in range(parts):
            mine = {kind: Action(stage, kind, part) for kind in Kind}
            received = {maker[stage + 1, part]} if (stage + 1, part) in maker else set()
            upstream = {Action(stage - 1, Kind.F, part)} if stage > 0 else set()
            learn = mine[Kind.P if predicts else Kind.F]
            before[mine[Kind.F]] = set(upstream)
            before[learn] = set() if predicts else before[learn]
            if way == "S":
                error = {Action(stages - 1, Kind.F, part)} if needs else set()
                before[mine[Kind.S]] = {learn} | error
            elif way == "B":
                before[mine[Kind.B]] = {learn} | received
            elif way == "IW":
                before[mine[Kind.I]] = {learn} | received
                before[mine[Kind.W]] = {mine[Kind.I]}
            if way != "skip":
                maker[stage, part] = mine[Kind(way[0])]
                ended = mine[Kind(way[-1])]
                if early_update or part == parts - 1:
                    # No update between a forward pass and its backward pass: either all of them are over, or none open.
                    before[mine[Kind.U]] = {ended} | {Action(stage, Kind(way[-1]), p) for p in range(part)}
                if early_update and part == 1:
                    before[learn] = before[learn] | {Action(stage, Kind.U, 0)}
            for lesson, wanted in ((Kind.T, teaches), (Kind.Q, teaches_input)):
                if wanted:
                    target = upstream if lesson is Kind.Q else received if feedback else set()
                    before[mine[lesson]] = set() if lateness else {learn} | target
                    before[mine[lesson]] |= {
                        Action(stage, lesson, p) for p in range(part)
                    }  # the last one ends the step
                    late.add(mine[lesson])
    order = linear_extension(before, draw(st.permutations(sorted(before))))
    written = from_text(format_actions(order), microbatches=parts)
    if lateness:

        def shifted(count: int, step: int) -> list[Action]:
            return [a._replace(microbatch=(step - lateness) * parts + a.microbatch) if a in late
                    else a._replace(microbatch=step * parts + a.microbatch) for a in order]  # fmt: skip

        written = Schedule("shifted", shifted, parts, lateness)
    return Plan(written, tuple(declared))


@given(plans())
def test_a_schedule_written_by_hand_is_found_valid(plan: Plan) -> None:
    validate(plan)


@given(plans())
def test_the_locks_of_any_schedule_are_those_of_the_definition(plan: Plan) -> None:
    expected = locks_by_closure(plan, steps=plan.schedule.lateness + 2)
    assert list(stage_locks(plan, steps=plan.schedule.lateness + 2)) == expected
    assert list(stage_locks(plan)) == expected  # a schedule that repeats shows its locks at once
    assert locks(plan) == frozenset().union(*expected)


@given(plans(), st.sampled_from(["backprop()", "forward_unlocked(delay=0)", ""]))
def test_locks_do_not_depend_on_the_schedules_name(plan: Plan, name: str) -> None:
    renamed = Plan(replace(plan.schedule, name=name), plan.stages)
    assert stage_locks(renamed) == stage_locks(plan)


@given(plans(), st.data())
def test_locks_do_not_depend_on_which_rank_holds_which_stage(plan: Plan, data: st.DataObject) -> None:
    ranks = tuple(data.draw(st.integers(0, 2)) for _ in plan.stages)
    assert stage_locks(Plan(plan.schedule, plan.stages, ranks)) == stage_locks(plan)


@pytest.mark.parametrize("stages", range(1, 5))
@pytest.mark.parametrize(
    "schedule",
    [
        *(backprop(teach=True), gpipe(3), one_f_one_b(3), sporadic(0.5, seed=7)),
        *(*UPDATE_UNLOCKED, *FORWARD_UNLOCKED, *BROADCAST),
    ],
    ids=lambda schedule: schedule.name,
)
def test_the_locks_of_the_builders_too_are_those_of_the_definition(schedule: Schedule, stages: int) -> None:
    steps = schedule.lateness + 3
    plan = plan_of(schedule, stages)
    assert list(stage_locks(plan, steps)) == locks_by_closure(plan, steps)


def test_schedules_drawn_here_show_every_set_of_locks_that_a_stage_can_have() -> None:
    """Else the law above would say less than it seems to."""
    seen: set[frozenset[Lock]] = set()
    late: set[int] = set()

    @given(plans())
    def collect(plan: Plan) -> None:
        seen.update(stage_locks(plan))
        late.add(plan.schedule.lateness)

    collect()
    assert {FREE, FORWARD, UPDATE, FORWARD | UPDATE, UPDATE | BACKWARD, FORWARD | UPDATE | BACKWARD} <= seen
    assert late == {0, 1, 2}
