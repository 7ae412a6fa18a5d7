import math
from collections import Counter
from itertools import pairwise
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError
from synthgrad.core.jitter import DISTRIBUTIONS, STRAGGLERS, jittered
from synthgrad.core.simulate import UNIT_COSTS

NAMES = st.sampled_from(sorted(DISTRIBUTIONS))
GRID = 20_000


def draws(deviation: float, seed: int = 0, count: int = 20_000, distribution: str = "lognormal") -> list[float]:
    cost = jittered(UNIT_COSTS, deviation, seed, distribution=distribution)
    return [cost(Action(number % 16, Kind.F, number // 16)) for number in range(count)]


def evenly(name: str, deviation: float) -> list[float]:
    """The factors of numbers spread evenly: what all draws come to, without their chance."""
    return [DISTRIBUTIONS[name].factor((place + 0.5) / GRID, deviation) for place in range(GRID)]


@given(NAMES, st.floats(0.0, 1.0))
def test_every_distribution_has_mean_one_and_the_deviation_asked_for(name: str, share: float) -> None:
    deviation = share * min(0.8, DISTRIBUTIONS[name].largest)
    factors = evenly(name, deviation)
    assert min(factors) >= 0.0
    assert fmean(factors) == pytest.approx(1.0, abs=1e-3)
    spread = pstdev(map(math.log, factors)) if name == "lognormal" else pstdev(factors)
    assert spread == pytest.approx(deviation, abs=2e-3)
    assert all(one <= other for one, other in pairwise(factors))  # so what is slow by one is slow by all


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_the_draws_are_of_the_distribution(name: str, deviation: float) -> None:
    found, even = sorted(draws(deviation, distribution=name)), evenly(name, deviation)
    assert fmean(found) == pytest.approx(1.0, abs=4 * pstdev(even) / math.sqrt(len(found)))
    # Kolmogorov and Smirnov's distance stays below 1.95/√n with probability 0.999; a quantile is so far off at most.
    off = math.ceil(1.95 * math.sqrt(len(found)))
    assert all(even[max(0, at - off)] <= one for at, one in enumerate(found))
    assert all(one <= even[min(GRID - 1, at + off)] for at, one in enumerate(found))


def test_the_shapes_are_what_they_are_called() -> None:
    deviation = 0.5
    uniform = evenly("uniform", deviation)
    assert min(uniform) == pytest.approx(1 - math.sqrt(3) / 2, abs=1e-3)
    assert max(uniform) == pytest.approx(1 + math.sqrt(3) / 2, abs=1e-3)
    assert min(evenly("exponential", deviation)) == pytest.approx(0.5, abs=1e-3)  # the least time
    both = Counter(evenly("straggler", deviation))
    assert sorted(both.values()) == [STRAGGLERS * GRID, (1 - STRAGGLERS) * GRID] and max(both) > 3 * min(both)


def test_a_draw_depends_on_seed_and_action_alone() -> None:
    assert draws(0.3, count=100) == draws(0.3, count=100)
    assert not set(draws(0.3, count=100)) & set(draws(0.3, seed=1, count=100))
    assert len(set(draws(0.3))) == 20_000


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_same_work_has_the_same_luck_in_every_schedule(name: str) -> None:
    cost = jittered(UNIT_COSTS, 0.4, distribution=name)
    assert cost(Action(1, Kind.S, 2)) == cost(Action(1, Kind.B, 2))
    assert cost(Action(1, Kind.P, 2)) == cost(Action(1, Kind.F, 2))
    assert len({cost(Action(stage, Kind.F, part)) for stage in range(8) for part in range(32)}) > 1


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_without_deviation_costs_are_what_they_are(name: str) -> None:
    assert set(draws(0.0, count=10, distribution=name)) == {1.0}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("deviation", [-0.1, math.nan, math.inf])
def test_a_deviation_that_is_none_is_refused(deviation: float, name: str) -> None:
    with pytest.raises(ScheduleError, match=f"deviation is {deviation}"):
        jittered(UNIT_COSTS, deviation, distribution=name)


@pytest.mark.parametrize("name", [name for name, one in DISTRIBUTIONS.items() if one.largest < math.inf])
def test_times_below_zero_are_refused(name: str) -> None:
    largest = DISTRIBUTIONS[name].largest
    assert min(draws(largest, distribution=name)) >= 0.0
    with pytest.raises(ScheduleError, match=f"at most {largest:.3f} where it is {name}"):
        jittered(UNIT_COSTS, largest + 0.001, distribution=name)


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(ScheduleError, match="'cauchy': unknown; expected one of lognormal, uniform, "):
        jittered(UNIT_COSTS, 0.1, distribution="cauchy")
