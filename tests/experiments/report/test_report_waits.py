"""Waits against charts drawn by hand, and against the locks that the plan computes.

Times here are whole numbers, so sums are exact and equality is meant.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest

from synthgrad.core.actions import Kind
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.plan import Declaration, Plan, stage_locks
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, sporadic, update_unlocked
from synthgrad.core.simulate import UNIT_COSTS, simulate
from synthgrad.experiments.report.waits import Reason, shares, waits

LAST = Declaration(synthesizer=False, feedback=frozenset())


def plan_of(schedule: Schedule, stages: int, *, inputs: bool = False, ranks: tuple[int, ...] = ()) -> Plan:
    first = [Declaration(input_synthesizer=inputs and stage > 0) for stage in range(stages - 1)]
    last = Declaration(synthesizer=False, feedback=frozenset(), input_synthesizer=inputs)
    return Plan(schedule, (*first, last), ranks)


def told(plan: Plan, steps: int, links: float = 0.0) -> list[tuple[str, float, float, str]]:
    timeline = simulate(plan, steps=steps, links=links)
    return [(str(wait.action), wait.start, wait.end, wait.reason.value) for wait in waits(timeline)]


def test_back_propagation_waits_for_everything() -> None:
    #           0    1    2    3    4    5    6    7    8    9   10
    # stage 0   F0   .    :    :    B0   B0   F1   .    :    :   B1     . for 1F, : for 1B
    # stage 1   |    F0   B0   B0   /    /    /    F1   B1   B1         / for 0F1
    assert told(plan_of(backprop(), 2), steps=2) == [
        ("0B0", 1, 2, "update"),
        ("0B0", 2, 4, "backward"),
        ("0B1", 7, 8, "update"),
        ("0B1", 8, 10, "backward"),
        ("1F1", 4, 7, "forward"),
    ]


def test_a_wait_is_divided_where_the_batch_turns_round() -> None:
    assert told(plan_of(backprop(), 3), steps=1) == [
        ("0B0", 1, 3, "update"),  # 1F0, 2F0
        ("0B0", 3, 7, "backward"),  # 2B0, 1B0
        ("1B0", 2, 3, "update"),
        ("1B0", 3, 5, "backward"),
    ]


def test_a_message_on_its_way_counts_as_what_it_brings() -> None:
    # 0F0 0..1, there at 3; 1F0 3..4, 1B0 4..6, back at 8
    assert told(plan_of(backprop(), 2), steps=1, links=2.0) == [("0B0", 1, 4, "update"), ("0B0", 4, 8, "backward")]


def test_update_unlocked_waits_for_nothing_where_messages_take_no_time() -> None:
    assert told(plan_of(update_unlocked(), 2), steps=4) == []


def test_update_unlocked_waits_for_targets_where_messages_take_time() -> None:
    # 0F0 0..1 0S0 1..3 0F1 3..4; 1F0 5..6 1B0 6..8, back at 12
    assert told(plan_of(update_unlocked(), 2), steps=2, links=4.0) == [("0T0", 4, 12, "target")]


def test_a_delay_gives_a_target_time_to_arrive() -> None:
    # as above, and 0S1 4..6 0F2 6..7 before 0T0 is due
    assert told(plan_of(update_unlocked(delay=1), 2), steps=3, links=4.0) == [("0T0", 7, 12, "target")]
    assert told(plan_of(update_unlocked(delay=1), 2), steps=3, links=1.0) == []


def test_forward_unlocked_waits_only_to_learn_from_an_earlier_batch() -> None:
    # stage 1: P 0..1 S 1..3 F0 3..4; stage 2 has done P and B at 3, and 1F0 is due for 2F0, for the lesson 2Q0
    assert told(plan_of(forward_unlocked(), 3, inputs=True), steps=2) == [("2F0", 3, 4, "target")]


def test_time_before_the_first_action_and_after_the_last_update_is_no_wait() -> None:
    timeline = simulate(plan_of(update_unlocked(), 3), steps=1)
    assert timeline.idle_share > 0
    assert waits(timeline) == []


def test_shares_are_of_all_ranks_time() -> None:
    timeline = simulate(plan_of(backprop(), 2), steps=1)  # 6 units, 2 ranks; waits 1 and 2
    assert shares(timeline) == {
        Reason.FORWARD: 0.0,
        Reason.UPDATE: 1 / 12,
        Reason.BACKWARD: 2 / 12,
        Reason.TARGET: 0.0,
    }


BUILDERS: list[tuple[Callable[[], Schedule], bool]] = [
    (backprop, False),
    (lambda: backprop(teach=True), False),
    (lambda: gpipe(3), False),
    (lambda: one_f_one_b(4), False),
    (update_unlocked, False),
    (lambda: update_unlocked(1, microbatches=2), False),
    (forward_unlocked, True),
    (lambda: sporadic(0.6, 3), False),
]


@pytest.mark.parametrize("ranks", [(), (0, 0, 1, 1)], ids=["one each", "two each"])
@pytest.mark.parametrize("links", [0.0, 3.0])
@pytest.mark.parametrize(("builder", "inputs"), BUILDERS, ids=lambda value: value().name if callable(value) else "")
def test_waits_are_for_locks_of_the_plan_and_fill_every_gap_before_an_update(
    builder: Callable[[], Schedule], inputs: bool, links: float, ranks: tuple[int, ...]
) -> None:
    plan = plan_of(builder(), 4, inputs=inputs, ranks=ranks)
    costs = {**UNIT_COSTS, Kind.T: 1.0, Kind.Q: 1.0, Kind.U: 1.0}
    timeline = simulate(plan, steps=5, costs=costs, links=links)
    found = waits(timeline)
    known = stage_locks(plan)
    for wait in found:
        assert wait.reason is Reason.TARGET or wait.reason.value in {lock.value for lock in known[wait.action.stage]}
    gaps = 0.0
    for rank in set(plan.ranks):
        program = [action for action in timeline.start if plan.ranks[action.stage] == rank]
        for number, (before, after) in enumerate(pairwise(program)):
            rest = program[number + 1 :]
            if any(action.kind is Kind.U and action.stage == after.stage for action in rest):
                gap = timeline.start[after] - timeline.end[before]
                mine = [wait for wait in found if wait.action == after]
                assert sum(wait.end - wait.start for wait in mine) == gap
                assert all(one.end == two.start and one.reason != two.reason for one, two in pairwise(mine))
                gaps += gap
    assert gaps == sum(wait.end - wait.start for wait in found)
