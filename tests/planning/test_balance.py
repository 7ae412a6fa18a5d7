"""The choice of cuts against trying all of them."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.errors import PlanningError
from synthgrad.core.links import Link
from synthgrad.planning.balance import Segment, balance, bottleneck, merged

COSTS = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 30))
SEGMENTS = st.lists(COSTS, min_size=1, max_size=8).map(
    lambda rows: [
        Segment(f"layer{i}", forward=f, backward=b, synthesis=s, boundary=h) for i, (f, b, s, h) in enumerate(rows)
    ]
)


@given(SEGMENTS, st.integers(1, 5), st.booleans(), st.sampled_from([Link(), Link(bandwidth=2.0)]))
def test_no_other_cuts_have_a_smaller_bottleneck_nor_as_small_a_one_with_more_even_stages(
    segments: list[Segment], stages: int, unlocked: bool, link: Link
) -> None:
    stages = min(stages, len(segments))

    def judged(ends: tuple[int, ...]) -> tuple[float, float]:
        made = merged(segments, ends)
        # Independently of the code: a stage's work, its synthesizer but at the end, its message but at the end.
        costs = [
            max(
                one.forward + one.backward + (one.synthesis if unlocked and k < len(made) - 1 else 0),
                one.boundary / link.bandwidth if k < len(made) - 1 else 0,
            )
            for k, one in enumerate(made)
        ]
        assert bottleneck(made, unlocked=unlocked, link=link) == max(costs)
        return max(costs), sum(cost * cost for cost in costs)

    every = [judged(ends) for ends in combinations(range(len(segments) - 1), stages - 1)]
    chosen = balance(segments, stages, unlocked=unlocked, link=link)
    assert len(chosen) == stages - 1 and list(chosen) == sorted(set(chosen))
    assert judged(chosen) == min(every)


def test_a_synthesizer_moves_the_cut_towards_the_front() -> None:
    segments = [Segment(f"layer{i}", 1.0, 2.0, synthesis=6.0) for i in range(6)]
    assert balance(segments, 2, unlocked=False) == (2,)
    assert balance(segments, 2, unlocked=True) == (1,)


@pytest.mark.parametrize("stages", [0, 4])
def test_more_stages_than_segments_are_refused_with_the_places_there_are(stages: int) -> None:
    with pytest.raises(PlanningError, match="'a', 'b'"):
        balance([Segment(name, 1.0, 1.0) for name in "abc"], stages)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused_by_name(cost: float) -> None:
    with pytest.raises(PlanningError, match="'a': lesson is"):
        Segment("a", 1.0, 1.0, lesson=cost)
    with pytest.raises(PlanningError, match="take no time"):
        Segment("a", 0.0, 0.0)
