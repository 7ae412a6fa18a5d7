"""The choice of cuts against trying all of them."""

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.errors import PlanningError
from synthgrad.core.links import Link
from synthgrad.planning.balance import Segment, balance, bottleneck, merged

COSTS = st.tuples(*(st.integers(low, high) for low, high in ((1, 9), (0, 9), (0, 9), (0, 30), (0, 9), (0, 9))))
SEGMENTS = st.lists(COSTS, min_size=1, max_size=8).map(
    lambda rows: [
        Segment(f"layer{i}", forward=f, backward=b, synthesis=s, boundary=h, prediction=p, input_lesson=q)
        for i, (f, b, s, h, p, q) in enumerate(rows)
    ]
)


WAYS = st.sampled_from([(False, False), (True, False), (True, True)])


@given(SEGMENTS, st.integers(1, 5), WAYS, st.sampled_from([Link(), Link(bandwidth=2.0)]))
def test_no_other_cuts_have_a_smaller_bottleneck_nor_as_small_a_one_with_more_even_stages(
    segments: list[Segment], stages: int, way: tuple[bool, bool], link: Link
) -> None:
    stages = min(stages, len(segments))
    unlocked, predicted = way

    def judged(ends: tuple[int, ...]) -> tuple[float, float]:
        made = merged(segments, ends)
        # Independently of the code: a stage's work, its synthesizer but at the end, its message but at the end; a
        # second forward pass, and its input synthesizer, but at the start.
        costs = []
        for k, one in enumerate(made):
            work, sent = one.forward + one.backward, 0.0
            if k < len(made) - 1:
                work, sent = work + unlocked * one.synthesis, one.boundary / link.bandwidth
            if k > 0 and predicted:
                work += one.forward + (made[k - 1].prediction or 0.0) + made[k - 1].input_lesson
            costs.append(max(work, sent))
        assert bottleneck(made, unlocked=unlocked, predicted=predicted, link=link) == max(costs)
        return max(costs), sum(cost * cost for cost in costs)

    every = [judged(ends) for ends in combinations(range(len(segments) - 1), stages - 1)]
    chosen = balance(segments, stages, unlocked=unlocked, predicted=predicted, link=link)
    assert len(chosen) == stages - 1 and list(chosen) == sorted(set(chosen))
    assert judged(chosen) == min(every)


def test_a_synthesizer_moves_the_cut_towards_the_front() -> None:
    segments = [Segment(f"layer{i}", 1.0, 2.0, synthesis=6.0) for i in range(6)]
    assert balance(segments, 2, unlocked=False) == (2,)
    assert balance(segments, 2, unlocked=True) == (1,)


def test_an_input_synthesizer_moves_the_cut_towards_the_end() -> None:
    segments = [Segment(f"layer{i}", 1.0, 2.0, prediction=1.0) for i in range(6)]
    assert balance(segments, 2, predicted=True) == (3,)
    none = [Segment(f"layer{i}", 1.0, 2.0) for i in range(6)]
    assert bottleneck(merged(none, (2,)), unlocked=True, predicted=True) == math.inf


@pytest.mark.parametrize("stages", [0, 4])
def test_more_stages_than_segments_are_refused_with_the_places_there_are(stages: int) -> None:
    with pytest.raises(PlanningError, match="'a', 'b'"):
        balance([Segment(name, 1.0, 1.0) for name in "abc"], stages)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused_by_name(cost: float) -> None:
    with pytest.raises(PlanningError, match="'a': lesson is"):
        Segment("a", 1.0, 1.0, lesson=cost)
    with pytest.raises(PlanningError, match="'a': prediction is"):
        Segment("a", 1.0, 1.0, prediction=cost)
    with pytest.raises(PlanningError, match="take no time"):
        Segment("a", 0.0, 0.0)
