import math
from statistics import fmean, pstdev

import pytest

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError
from synthgrad.core.jitter import jittered
from synthgrad.core.simulate import UNIT_COSTS


def draws(deviation: float, seed: int = 0, count: int = 20_000) -> list[float]:
    cost = jittered(UNIT_COSTS, deviation, seed)
    return [cost(Action(number % 16, Kind.F, number // 16)) for number in range(count)]


@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_the_factors_have_mean_one_and_the_deviation_asked_for(deviation: float) -> None:
    found = draws(deviation)  # 20,000 draws: standard errors of 0.4 % and 0.5 %; four of each are allowed
    assert fmean(found) == pytest.approx(1.0, abs=4 * 0.54 * deviation / math.sqrt(5_000))
    assert pstdev(map(math.log, found)) == pytest.approx(deviation, rel=0.02)


def test_a_draw_depends_on_seed_and_action_alone() -> None:
    assert draws(0.3, count=100) == draws(0.3, count=100)
    assert not set(draws(0.3, count=100)) & set(draws(0.3, seed=1, count=100))
    assert len(set(draws(0.3))) == 20_000


def test_the_same_work_has_the_same_luck_in_every_schedule() -> None:
    cost = jittered(UNIT_COSTS, 0.4)
    assert cost(Action(1, Kind.S, 2)) == cost(Action(1, Kind.B, 2)) != cost(Action(1, Kind.F, 2))
    assert cost(Action(1, Kind.P, 2)) == cost(Action(1, Kind.F, 2))


def test_without_deviation_costs_are_what_they_are() -> None:
    assert set(draws(0.0, count=10)) == {1.0}


@pytest.mark.parametrize("deviation", [-0.1, math.nan, math.inf])
def test_a_deviation_that_is_none_is_refused(deviation: float) -> None:
    with pytest.raises(ScheduleError, match="deviation"):
        jittered(UNIT_COSTS, deviation)
