"""The clock against closed forms, against bounds, and against a second simulator that knows nothing of the first.

Times here are whole numbers or halves, so sums are exact and equality is meant.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind, parse_actions
from synthgrad.core.combined import eager
from synthgrad.core.errors import DeadlockError, LinkError, ScheduleError
from synthgrad.core.links import Link
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, from_text, sporadic, update_unlocked
from synthgrad.core.simulate import UNIT_COSTS, Timeline, simulate, simulate_replicas

MAKES_A_GRADIENT = (Kind.S, Kind.B, Kind.I)
LAST = Declaration(synthesizer=False, feedback=frozenset())
F, B = 1, 2  # UNIT_COSTS: a backward pass takes twice as long as a forward pass


def plan_of(schedule: Schedule, stages: int, ranks: tuple[int, ...] = ()) -> Plan:
    predicts = any(action.kind is Kind.P for action in schedule.actions(stages, 0))
    declared = [Declaration(input_synthesizer=predicts and stage > 0) for stage in range(stages)]
    declared[-1] = replace(LAST, input_synthesizer=predicts and stages > 1)
    return Plan(schedule, tuple(declared), ranks)


def as_listed(schedule: Schedule, order: Callable[[int, int], list[Action]], lateness: int = 0) -> Schedule:
    return replace(schedule, name="by hand", order=order, lateness=lateness)


# ---- closed forms ----------------------------------------------------------------------------------------------------

PIPELINES = [gpipe, one_f_one_b]


@pytest.mark.parametrize("stages", range(1, 7))
@pytest.mark.parametrize("microbatches", [1, 2, 4, 8])
@pytest.mark.parametrize("builder", PIPELINES)
def test_a_pipeline_is_idle_for_stages_minus_one_of_its_microbatches_and_those(
    builder: Callable[[int], Schedule], microbatches: int, stages: int
) -> None:
    timeline = simulate(plan_of(builder(microbatches), stages))
    assert timeline.makespan == (microbatches + stages - 1) * (F + B)
    assert timeline.idle_share == pytest.approx((stages - 1) / (microbatches + stages - 1), abs=1e-15)  # a division


@pytest.mark.parametrize("stages", range(1, 7))
@pytest.mark.parametrize("microbatches", [1, 3, 8])
def test_activations_held_are_those_of_the_table(microbatches: int, stages: int) -> None:
    for stage in range(stages):
        held = {
            gpipe: simulate(plan_of(gpipe(microbatches), stages)).activations_held(stage),
            one_f_one_b: simulate(plan_of(one_f_one_b(microbatches), stages)).activations_held(stage),
            backprop: simulate(plan_of(backprop(), stages), steps=3).activations_held(stage),
            update_unlocked: simulate(plan_of(update_unlocked(), stages), steps=6).activations_held(stage),
            forward_unlocked: simulate(plan_of(forward_unlocked(), stages), steps=6).activations_held(stage),
        }
        assert held == {
            gpipe: microbatches,
            one_f_one_b: min(microbatches, stages - stage),
            backprop: 1,
            update_unlocked: 1,
            forward_unlocked: 1,
        }


@pytest.mark.parametrize("stages", range(1, 6))
def test_back_propagation_of_single_batches_takes_turns(stages: int) -> None:
    timeline = simulate(plan_of(backprop(), stages), steps=4)
    assert timeline.makespan == 4 * stages * (F + B)
    assert timeline.idle_share == pytest.approx(1 - 1 / stages, abs=1e-15)


@pytest.mark.parametrize("latency", [0, 1, 5])
@pytest.mark.parametrize("stages", range(1, 6))
def test_back_propagation_pays_the_latency_both_ways_in_each_step(stages: int, latency: int) -> None:
    """A stage goes on to the next batch after its B, so steps overlap only where the first stage is idle: nowhere."""
    timeline = simulate(plan_of(backprop(), stages), steps=4, links=latency)
    assert timeline.makespan == 4 * (stages * (F + B) + 2 * (stages - 1) * latency)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 4), st.integers(0, 6), st.integers(1, 3), st.integers(1, 6))
def test_update_unlocked_hides_latency_that_the_delay_covers(
    stages: int, steps: int, delay: int, halves: int, forward: int, backward: int
) -> None:
    """N(F+B)+(P-1)(F+L), B with synthesis, where 2L <= delay (F+B): a target is two hops late, and has that time.

    The flushed lessons wait for one hop more, after the last batch has passed.
    """
    work = forward + backward
    latency = min(halves / 2, delay * work / 2)
    costs = {**UNIT_COSTS, Kind.F: forward, Kind.S: backward, Kind.B: backward}
    timeline = simulate(plan_of(update_unlocked(delay), stages), steps=steps, costs=costs, links=latency)
    passed = max(end for action, end in timeline.end.items() if action.kind is Kind.U)
    assert passed == steps * work + (stages - 1) * (forward + latency)
    assert timeline.makespan == passed + (latency if stages > 1 else 0)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 3), st.integers(0, 5), st.integers(0, 5))
def test_without_latency_synthesizers_cost_their_own_work_and_nothing_else(
    stages: int, steps: int, delay: int, synthesis: int, lesson: int
) -> None:
    """The first stage is never held up: N(F+B+S), and its lessons, though the last stage has less to do than it."""
    costs = {**UNIT_COSTS, Kind.S: B + synthesis, Kind.T: lesson}
    timeline = simulate(plan_of(update_unlocked(delay), stages), steps=steps, costs=costs)
    firsts = [end for action, end in timeline.end.items() if action.stage == 0 and action.kind is Kind.U]
    lessons = max(0, steps - 1 - delay) if stages > 1 else 0  # those that fall into the steps themselves
    assert max(firsts) == steps * (F + B + (synthesis if stages > 1 else 0)) + lessons * lesson


def period(schedule: Schedule, stages: int, latency: float, early: int = 60, more: int = 30) -> float:
    """Time per step once the pipeline is full; `more` is a multiple of how often the pattern repeats."""
    timeline = simulate(plan_of(schedule, stages), steps=early + more, links=latency)
    last = stages - 1
    return (timeline.end[Action(last, Kind.U, early + more - 1)] - timeline.end[Action(last, Kind.U, early - 1)]) / more


@pytest.mark.parametrize("latency", [0, 0.5, 1, 3])
@pytest.mark.parametrize("stages", [2, 3, 5])
def test_with_no_delay_a_target_that_comes_too_late_costs_what_one_f_one_b_pays(stages: int, latency: float) -> None:
    """F+B+2(P-1)L/P: a batch goes down the chain, its targets come up one step later each, and round again."""
    expected = F + B + 2 * (stages - 1) * latency / stages
    assert period(update_unlocked(0), stages, latency) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("latency", [0, 0.5, 1, 3])
@pytest.mark.parametrize("delay", [1, 2, 4])
@pytest.mark.parametrize("stages", [2, 3])
def test_each_step_of_delay_pays_for_a_step_of_latency(stages: int, delay: int, latency: float) -> None:
    """The slowest of the rounds down j stages and back up: (j+1)(F+B)+2jL over j(1+delay)+1 steps; no round: F+B."""
    rounds = [((j + 1) * (F + B) + 2 * j * latency) / (j * (1 + delay) + 1) for j in range(stages)]
    steps = 1
    for j in range(stages):
        steps *= j * (1 + delay) + 1
    measured = period(update_unlocked(delay), stages, latency, early=100, more=steps * 2)
    assert measured == pytest.approx(max(rounds), rel=1e-12)


@pytest.mark.parametrize("latency", [0, 1, 3])
@pytest.mark.parametrize("stages", [2, 4, 8])
def test_one_f_one_b_pays_the_latency_in_every_microbatch(stages: int, latency: int) -> None:
    def makespan(microbatches: int) -> float:
        return simulate(plan_of(one_f_one_b(microbatches), stages), links=latency).makespan

    many, more = 20 * stages, 21 * stages
    assert makespan(more) - makespan(many) == stages * (F + B) + 2 * (stages - 1) * latency


def test_eight_stages_with_a_latency_of_one_take_4_75_instead_of_3() -> None:
    """The numbers of reference/pipelines.md, section 2, fact 3."""
    run = [simulate(plan_of(one_f_one_b(m), 8), links=1.0).makespan for m in (160, 168)]
    assert (run[1] - run[0]) / 8 == 4.75
    assert period(update_unlocked(1), 8, 1.0) == 3.0
    assert period(update_unlocked(0), 8, 1.0, early=64, more=32) == 4.75


def lesson_first(stages: int, step: int) -> list[Action]:
    """`update_unlocked()`, but for T, which stands before the next F instead of after it."""
    actions = list(update_unlocked().order(stages, step))
    for stage in range(stages - 1):
        lesson = Action(stage, Kind.T, step - 1)
        actions.remove(lesson)
        actions.insert(actions.index(Action(stage, Kind.F, step)), lesson)
    return actions


@pytest.mark.parametrize("latency", [0, 1, 3])
@pytest.mark.parametrize("stages", [2, 3, 5])
def test_a_lesson_before_the_next_forward_loses_a_quarter_of_the_time_and_more(stages: int, latency: int) -> None:
    """The stage above starts F later than this one, so its answer is F away when this one would go on."""
    early = as_listed(update_unlocked(), lesson_first, lateness=1)
    # 2F+B+2L: no step begins before the target of the last is back.
    assert period(early, stages, latency) == pytest.approx(2 * F + B + 2 * latency, rel=1e-12)
    assert period(update_unlocked(), stages, latency) < period(early, stages, latency)
    if latency == 0:
        assert period(update_unlocked(), stages, 0) == 0.75 * period(early, stages, 0)


def test_without_predicted_inputs_the_last_stage_waits_for_the_first_batch_to_come_down_and_with_them_it_does_not() -> (
    None
):
    costs = {**UNIT_COSTS, Kind.F: 0, Kind.Q: 0}  # P takes the time of a forward pass
    timeline = simulate(plan_of(forward_unlocked(), 4), steps=1, costs=costs)
    assert [timeline.end[Action(stage, Kind.U, 0)] for stage in range(4)] == [2, 3, 3, 3]
    locked = simulate(plan_of(update_unlocked(), 4), steps=1)
    assert [locked.end[Action(stage, Kind.U, 0)] for stage in range(4)] == [3, 4, 5, 6]


# ---- against a second simulator --------------------------------------------------------------------------------------


def waits_for(action: Action, plan: Plan, present: set[Action]) -> list[Action]:
    """The table of letters in DESIGN.md, section 3, written down a second time."""
    stage, kind, part = action
    candidates: list[Action] = []
    if kind in (Kind.F, Kind.Q):
        candidates = [Action(stage - 1, Kind.F, part)]
    elif kind in (Kind.B, Kind.I, Kind.T):
        candidates = [Action(stage + 1, maker, part) for maker in MAKES_A_GRADIENT]
    return [other for other in candidates if other in present]


def graph(plan: Plan, steps: int) -> dict[Action, list[tuple[Action, bool]]]:
    """What comes directly before each action, and whether it must travel from another rank."""
    run = plan.run_of(steps)
    before: dict[Action, list[tuple[Action, bool]]] = {action: [] for action in run}
    for rank in set(plan.ranks):
        for one, other in pairwise(action for action in run if plan.ranks[action.stage] == rank):
            before[other].append((one, False))
    for action in run:
        for other in waits_for(action, plan, set(run)):
            before[action].append((other, plan.ranks[other.stage] != plan.ranks[action.stage]))
    return before


def fixed_point(
    plan: Plan, steps: int, cost: Callable[[Action], float], latency: Callable[[int, int], float]
) -> dict[Action, float]:
    """When each action starts: begin with zero everywhere, and put off what stands too early until nothing does."""
    before = graph(plan, steps)
    start = dict.fromkeys(before, 0.0)
    while True:
        moved = {
            action: max(
                (
                    start[o] + cost(o) + (latency(plan.ranks[o.stage], plan.ranks[action.stage]) if travels else 0.0)
                    for o, travels in before[action]
                ),
                default=0.0,
            )
            for action in before
        }
        if moved == start:
            return start
        start = moved


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any builder in either form on up to four stages, on ranks of their own or shared."""
    delays, parts = st.integers(0, 2), st.integers(1, 3)
    schedule = draw(
        st.one_of(
            st.builds(backprop, teach=st.booleans()),
            st.builds(gpipe, parts),
            st.builds(one_f_one_b, parts),
            st.builds(update_unlocked, delays, microbatches=parts),
            st.builds(forward_unlocked, delays, microbatches=parts),
            st.builds(sporadic, st.just(0.6), st.integers(0, 20), delay=delays),
        )
    )
    stages = draw(st.integers(1, 4))
    ranks = draw(st.sampled_from([(), tuple(range(stages)), (0,) * stages, tuple(k // 2 for k in range(stages)),
                                  tuple(k % 2 for k in range(stages))]))  # fmt: skip
    return plan_of(eager(schedule) if draw(st.booleans()) else schedule, stages, ranks)


COSTS = st.fixed_dictionaries({kind: st.integers(0, 5) for kind in Kind})
POSITIVE = st.fixed_dictionaries({kind: st.integers(1, 5) for kind in Kind})
STEPS = st.integers(1, 4)


def uneven(seed: int) -> Callable[[Action], float]:
    """A cost for each action of its own, in quarters."""
    return lambda action: Random(f"{seed} {action}").randrange(0, 12) / 4


def crooked(source: int, target: int) -> float:
    """A latency for each direction of each link of its own."""
    return 0.5 + source + 2 * target


@given(plans(), STEPS, st.integers(0, 10**6))
def test_every_action_starts_when_the_second_simulator_says(plan: Plan, steps: int, seed: int) -> None:
    cost = uneven(seed)
    timeline = simulate(plan, steps=steps, costs=cost, links=crooked)
    assert timeline.start == fixed_point(plan, steps, cost, crooked)
    assert timeline.end == {action: start + cost(action) for action, start in timeline.start.items()}
    assert timeline.makespan == max(timeline.end.values(), default=0.0)


@given(plans(), STEPS, COSTS, st.integers(0, 4))
def test_costs_and_links_may_be_numbers_or_functions(
    plan: Plan, steps: int, costs: dict[Kind, int], latency: int
) -> None:
    as_numbers = simulate(plan, steps=steps, costs=costs, links=latency)
    as_functions = simulate(plan, steps=steps, costs=lambda action: costs[action.kind], links=lambda *_: latency)
    assert as_numbers == as_functions


def test_two_ranks_that_wait_for_one_action_both_go_on_when_it_is_done() -> None:
    """Direct feedback alignment: the error at the output goes to every stage at once."""
    aligned = Declaration(needs=frozenset({"error"}), feedback=frozenset())
    schedule = from_text("0F0 1F0 2F0 2B0 2U0 0S0 0U0 1S0 1U0")
    timeline = simulate(Plan(schedule, (aligned, aligned, LAST)), steps=2, links=lambda a, b: 10 * abs(a - b))
    first = {stage: timeline.start[Action(stage, Kind.S, 0)] for stage in (0, 1)}
    assert timeline.end[Action(2, Kind.F, 0)] == 3 * F + 20
    assert first == {0: 3 * F + 20 + 20, 1: 3 * F + 20 + 10}


# ---- bounds ----------------------------------------------------------------------------------------------------------


def longest_path(plan: Plan, timeline: Timeline, steps: int, latency: float) -> float:
    """What not even infinitely many workers could do sooner: the stages' programs do not count, only what waits."""
    run = plan.run_of(steps)
    ends: dict[Action, float] = {}
    for action in run:
        arrivals = [
            ends[o] + latency * (plan.ranks[o.stage] != plan.ranks[action.stage])
            for o in waits_for(action, plan, set(run))
        ]
        ends[action] = max(arrivals, default=0.0) + timeline.end[action] - timeline.start[action]
    return max(ends.values(), default=0.0)


@given(plans(), STEPS, COSTS, st.integers(0, 4))
def test_no_run_is_shorter_than_its_longest_chain_or_its_busiest_rank_nor_longer_than_one_after_the_other(
    plan: Plan, steps: int, costs: dict[Kind, int], latency: int
) -> None:
    timeline = simulate(plan, steps=steps, costs=costs, links=latency)
    run = plan.run_of(steps)
    assert set(timeline.start) == set(timeline.end) == set(run)
    work = {rank: sum(costs[a.kind] for a in run if plan.ranks[a.stage] == rank) for rank in plan.ranks}
    assert timeline.makespan >= max(longest_path(plan, timeline, steps, latency), *work.values())
    assert timeline.makespan <= sum(work.values()) + latency * len(run)
    assert 0 <= timeline.idle_share < 1
    if timeline.makespan:
        share = sum(work.values()) / (timeline.makespan * len(work))
        assert timeline.idle_share == pytest.approx(1 - share, abs=1e-12)


@given(plans(), STEPS, COSTS, st.integers(0, 4))
def test_nothing_starts_before_what_it_waits_for_has_ended_and_arrived(
    plan: Plan, steps: int, costs: dict[Kind, int], latency: int
) -> None:
    timeline = simulate(plan, steps=steps, costs=costs, links=latency)
    for action, before in graph(plan, steps).items():
        assert all(timeline.start[action] >= timeline.end[o] + latency * travels for o, travels in before)


@given(plans(), STEPS, COSTS, st.integers(0, 4), st.integers(1, 9))
def test_time_has_no_unit(plan: Plan, steps: int, costs: dict[Kind, int], latency: int, scale: int) -> None:
    timeline = simulate(plan, steps=steps, costs=costs, links=latency)
    scaled = simulate(plan, steps=steps, costs={k: c * scale for k, c in costs.items()}, links=latency * scale)
    assert scaled.start == {action: start * scale for action, start in timeline.start.items()}
    assert scaled.makespan == timeline.makespan * scale
    assert scaled.idle_share == pytest.approx(timeline.idle_share, abs=1e-12)  # a division


@given(plans(), STEPS, COSTS, st.integers(0, 4), st.sampled_from(Kind))
def test_nothing_is_done_sooner_for_being_slower(
    plan: Plan, steps: int, costs: dict[Kind, int], latency: int, slower: Kind
) -> None:
    timeline = simulate(plan, steps=steps, costs=costs, links=latency)
    more = simulate(plan, steps=steps, costs={**costs, slower: costs[slower] + 1}, links=latency + 1)
    assert all(more.end[action] >= end for action, end in timeline.end.items())


@given(plans(), STEPS, POSITIVE, st.integers(0, 4))
def test_a_rank_never_does_two_things_at_once(plan: Plan, steps: int, costs: dict[Kind, int], latency: int) -> None:
    timeline = simulate(plan, steps=steps, costs=costs, links=latency)
    for rank in set(plan.ranks):
        spans = sorted((timeline.start[a], end) for a, end in timeline.end.items() if plan.ranks[a.stage] == rank)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@given(plans(), STEPS, COSTS)
def test_one_rank_alone_is_never_idle_and_never_waits_for_a_link(
    plan: Plan, steps: int, costs: dict[Kind, int]
) -> None:
    alone = Plan(plan.schedule, plan.stages, (7,) * len(plan.stages))
    timeline = simulate(alone, steps=steps, costs=costs, links=100)
    assert timeline.makespan == sum(costs[action.kind] for action in alone.run_of(steps))
    assert timeline.idle_share == 0


@given(plans(), STEPS, st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_the_idle_share_is_a_share_for_costs_that_are_no_whole_numbers(
    plan: Plan, steps: int, forward: float, backward: float
) -> None:
    alone = Plan(plan.schedule, plan.stages, (0,) * len(plan.stages))
    costs = {**UNIT_COSTS, Kind.F: forward, Kind.S: backward, Kind.B: backward}
    assert 0 <= simulate(alone, steps=steps, costs=costs).idle_share < 1


# ---- activations held ------------------------------------------------------------------------------------------------


def held_by_program(plan: Plan, stage: int, steps: int) -> int:
    """A stage does one thing at a time, so its own program says it: up with forward, down with backward."""
    program = [action for action in plan.run_of(steps) if action.stage == stage]
    forward = Kind.P if plan.stages[stage].input_synthesizer else Kind.F
    used = {action.microbatch for action in program if action.kind in MAKES_A_GRADIENT}
    halves = {action.microbatch for action in program if action.kind is Kind.W}
    held = most = 0
    for _, kind, part in program:
        if part in used:
            held += kind is forward
            held -= kind is (Kind.W if part in halves else kind if kind in MAKES_A_GRADIENT else None)
        most = max(most, held)
    return most


WRITTEN = [
    from_text("0F0 0F1 1F0 1F1 1I0 1I1 0I0 0I1 0W0 0W1 1W0 1W1 0U1 1U1", microbatches=2),
    from_text("0F0 1F0 1I0 0I0 1W0 0F1 1F1 0W0 1I1 0I1 0W1 1W1 0U1 1U1", microbatches=2),
    from_text("0F0 0F1 0F2 1F0 1B0 1F1 1B1 1F2 1B2 1U2 0S1 0S0 0S2 0U2", microbatches=3),
]


@given(st.one_of(plans(), st.sampled_from(WRITTEN).map(lambda s: plan_of(s, 2))), STEPS, POSITIVE, st.integers(0, 4))
def test_activations_held_depend_on_the_stages_program_and_not_on_costs(
    plan: Plan, steps: int, costs: dict[Kind, int], latency: int
) -> None:
    timeline = simulate(plan, steps=steps, costs=costs, links=latency)
    for stage in range(len(plan.stages)):
        assert timeline.activations_held(stage) == held_by_program(plan, stage, steps)


@pytest.mark.parametrize(("schedule", "held"), [(backprop(), 1), (gpipe(4), 4)], ids=["backprop", "gpipe"])
def test_activations_are_held_even_if_nothing_takes_time(schedule: Schedule, held: int) -> None:
    timeline = simulate(plan_of(schedule, 1), costs=dict.fromkeys(Kind, 0))
    assert timeline.activations_held(0) == held


def test_what_is_never_back_propagated_is_not_held() -> None:
    assert simulate(plan_of(sporadic(0.0), 3), steps=4).activations_held(0) == 0


# ---- what cannot be played -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.F, Kind.B, Kind.U])
@pytest.mark.parametrize("cost", [-1, -1e-9, float("nan")])
def test_a_negative_cost_is_refused_with_the_actions_name(kind: Kind, cost: float) -> None:
    with pytest.raises(ScheduleError, match=f"cost of [01]{kind.value}0: got {cost}"):
        simulate(plan_of(backprop(), 2), costs={**UNIT_COSTS, kind: cost})
    with pytest.raises(ValueError, match=f"cost of 1{kind.value}0"):
        simulate(plan_of(backprop(), 2), costs=lambda a: cost if a == Action(1, kind, 0) else 1.0)


@pytest.mark.parametrize("latency", [-1, float("nan")])
def test_a_negative_latency_is_refused_with_the_links_name(latency: float) -> None:
    with pytest.raises(LinkError, match=f"latency from 0 to 1: got {latency}"):
        simulate(plan_of(backprop(), 2), links=latency)
    with pytest.raises(ValueError, match="latency from 1 to 0"):
        simulate(plan_of(backprop(), 2), links=lambda source, target: latency if source else 1.0)


@pytest.mark.parametrize("cost", ["slow", None, float("inf")])
def test_what_is_no_cost_is_one_of_our_errors(cost: Any) -> None:
    plan = plan_of(backprop(), 2)
    with pytest.raises(ScheduleError, match="cost of 0F0: got .*, expected zero or more, and finite"):
        simulate(plan, costs=lambda action: cost)
    with pytest.raises(ScheduleError, match="costs: none for B, U; give every kind of action one"):
        simulate(plan, costs={Kind.F: 1.0})
    with pytest.raises(ScheduleError, match="exchange of stage 1: got "):
        simulate_replicas(plan, [UNIT_COSTS] * 2, exchange=lambda stage: cost if stage else 0)
    with pytest.raises(LinkError, match="latency from 0 to 1: got .*, expected zero or more, and finite, or a Link"):
        simulate(plan, links=cost)
    with pytest.raises(LinkError, match="size of the message of 0F0: got "):
        simulate(plan, links=Link(bandwidth=1.0), sizes=cost)


def test_numbers_that_make_no_run_are_refused() -> None:
    with pytest.raises(ScheduleError, match="steps is -1"):
        simulate(plan_of(backprop(), 2), steps=-1)
    with pytest.raises(ScheduleError, match="costs of no replicas"):
        simulate_replicas(plan_of(backprop(), 2), [])


def stuck(message: str) -> set[tuple[int, str, str]]:
    found = re.findall(r"rank (\d+) stands at (\w+) and waits for (\w+)", message)
    return {(int(rank), action, missing) for rank, action, missing in found}


@pytest.mark.parametrize(
    ("text", "ranks", "expected"),
    [
        ("0B0 0F0 1F0 1B0 0U0 1U0", (), {(0, "0B0", "1B0"), (1, "1F0", "0F0")}),
        ("0B0 0F0 1F0 1B0 0U0 1U0", (0, 0), {(0, "0B0", "1B0")}),
        ("0B0 0F0 1F0 2F0 2B0 1B0 0U0 1U0 2U0", (),
         {(0, "0B0", "1B0"), (1, "1F0", "0F0"), (2, "2F0", "1F0")}),
        # Two ranks that wait for each other, and one that is done.
        ("0F0 1F0 2F0 2B0 2U0 0B0 0U0 1B0 1U0", (0, 0, 1), {(0, "0B0", "1B0")}),
        ("0F0 0S0 0T0 0U0 1B0 1F0 1U0", (0, 0), {(0, "0T0", "1B0")}),
        # An action that never comes.
        ("1F0 1B0 0S0 0U0 1U0", (), {(1, "1F0", "0F0")}),
    ],
)  # fmt: skip
def test_a_deadlock_names_every_stuck_action_and_what_it_waits_for(
    text: str, ranks: tuple[int, ...], expected: set[tuple[int, str, str]]
) -> None:
    schedule = from_text(text)
    with pytest.raises(DeadlockError) as raised:
        simulate(plan_of(schedule, len({action.stage for action in parse_actions(text)}), ranks))
    assert stuck(str(raised.value)) == expected
    assert schedule.name in str(raised.value)


@given(
    st.sampled_from(["0F0 1F0 2F0 2B0 1B0 0B0 0U0 1U0 2U0", "0F0 0S0 0U0 1F0 1S0 0T0 1U0 2F0 2B0 1T0 2U0"]),
    st.data(),
    st.sampled_from([(0, 1, 2), (0, 0, 1), (0, 1, 0), (5, 5, 5)]),
)
def test_a_run_deadlocks_exactly_where_its_ranks_wait_in_a_circle(
    text: str, data: st.DataObject, ranks: tuple[int, ...]
) -> None:
    actions = data.draw(st.permutations(parse_actions(text)))
    plan = plan_of(as_listed(from_text(text), lambda stages, step: list(actions)), 3, ranks)
    before = {action: {other for other, _ in others} for action, others in graph(plan, 1).items()}
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError:
        done: set[Action] = set()
        while ready := {action for action in actions if action not in done and before[action] <= done}:
            done |= ready
        left = [action for action in actions if action not in done]
        first = {plan.ranks[action.stage]: str(action) for action in reversed(left)}
        with pytest.raises(DeadlockError) as raised:
            simulate(plan)
        found = stuck(str(raised.value))
        assert {(rank, action) for rank, action, _ in found} == set(first.items())
        for _, action, missing in found:
            assert Action.parse(missing) in waits_for(Action.parse(action), plan, set(left))
    else:
        assert set(simulate(plan).end) == set(order)


def test_a_run_of_no_steps_takes_no_time() -> None:
    timeline = simulate(plan_of(backprop(), 2), steps=0)
    assert timeline.makespan == 0 and timeline.idle_share == 0 and timeline.activations_held(0) == 0
