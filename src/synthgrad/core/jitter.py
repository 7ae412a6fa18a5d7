"""Costs that vary from action to action, as on machines that have other work too. Drawn without a state.

A draw depends on the seed and on what is done, not on when or in which schedule; so two schedules are compared on the
same good and bad luck: S and B, or F and P, of a stage and microbatch get the same factor. All distributions are drawn
from the same numbers, so what is slow by one of them is slow by all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError

__all__ = ["DISTRIBUTIONS", "Distribution", "distribution_named", "jittered"]

STRAGGLERS = 1 / 20  # of all actions, in the distribution that has some

_DRAWN_AS = {Kind.P: Kind.F, Kind.S: Kind.B, Kind.I: Kind.B}
_NUMBERS = {kind: number for number, kind in enumerate(Kind)}
_NORMAL = NormalDist()
_BITS = 2**64


@dataclass(frozen=True)
class Distribution:
    """How long actions take that should all take 1; the mean is 1 whatever the deviation.

    Attributes:
        factor: of a number drawn evenly between 0 and 1, and the deviation: the inverse of the distribution function.
        largest: the largest deviation with which no action takes less than no time.
        deviation: what the deviation is the standard deviation of.
    """

    factor: Callable[[float, float], float]
    largest: float = math.inf
    deviation: str = "time"


def _lognormal(drawn: float, deviation: float) -> float:
    return math.exp(deviation * _NORMAL.inv_cdf(drawn) - deviation * deviation / 2.0)


def _uniform(drawn: float, deviation: float) -> float:
    return 1.0 + math.sqrt(12.0) * deviation * (drawn - 0.5)


def _exponential(drawn: float, deviation: float) -> float:
    return 1.0 - deviation - deviation * math.log1p(-drawn)


def _straggler(drawn: float, deviation: float) -> float:
    odds = STRAGGLERS / (1.0 - STRAGGLERS)
    return 1.0 + deviation / math.sqrt(odds) if drawn > 1.0 - STRAGGLERS else 1.0 - deviation * math.sqrt(odds)


DISTRIBUTIONS: Mapping[str, Distribution] = {
    # Much slower now and then, much faster never.
    "lognormal": Distribution(_lognormal, deviation="log time"),
    # Between two bounds.
    "uniform": Distribution(_uniform, 1.0 / math.sqrt(3.0)),
    # A least time, and what comes on top has no memory. Lee et al. 2018, arXiv:1512.02673.
    "exponential": Distribution(_exponential, 1.0),
    # One action in 20 takes long; all others are alike.
    "straggler": Distribution(_straggler, math.sqrt((1.0 - STRAGGLERS) / STRAGGLERS)),
}


def distribution_named(name: str) -> Distribution:
    """One of `DISTRIBUTIONS`.

    Raises:
        ScheduleError: there is none of this name.
    """
    if name not in DISTRIBUTIONS:
        raise ScheduleError(f"distribution {name!r}: unknown; expected one of {', '.join(DISTRIBUTIONS)}")
    return DISTRIBUTIONS[name]


def jittered(
    costs: Mapping[Kind, float] | Callable[[Action], float],
    deviation: float,
    seed: int = 0,
    *,
    distribution: str = "lognormal",
) -> Callable[[Action], float]:
    """The costs, each times a random factor of mean 1.

    Args:
        costs: of each kind of action, or a function of the action.
        deviation: standard deviation of the factor, lognormal of its logarithm; 0 leaves the costs as they are.
        seed: of the draws. Another replica, or another run, has another one.
        distribution: of the factor: lognormal; uniform; exponential, beyond a least time; straggler: one action in
            20 takes 1 + 4.4·deviation, all others are alike.

    Raises:
        ScheduleError: no such distribution; a deviation that is negative or not finite, or so large that an action
            would take less than no time.

    >>> cost = jittered({Kind.F: 2.0}, 0.5, distribution="uniform")
    >>> cost(Action(0, Kind.F, 3)) == cost(Action(0, Kind.F, 3))
    True
    """
    drawn_from = distribution_named(distribution)
    if not 0.0 <= deviation < math.inf:
        raise ScheduleError(f"jitter: deviation is {deviation}, expected zero or more, and finite")
    if deviation > drawn_from.largest:
        raise ScheduleError(
            f"jitter: deviation is {deviation}, expected at most {drawn_from.largest:.3f} where it is {distribution}: "
            f"with more, an action would take less than no time; lower it, or use lognormal"
        )
    cost = costs if callable(costs) else lambda action: costs[action.kind]
    factor = drawn_from.factor

    def drawn(action: Action) -> float:
        return cost(action) * factor(_even(action, seed), deviation)

    return drawn if deviation else cost


def _even(action: Action, seed: int) -> float:
    """A draw between 0 and 1, both left out, always the same for the same action and seed."""
    stage, kind, microbatch = action
    mixed = _mixed(seed % _BITS)
    for number in (stage, _NUMBERS[_DRAWN_AS.get(kind, kind)], microbatch):
        mixed = _mixed(mixed ^ number)
    return ((mixed >> 11) + 0.5) / 2**53


def _mixed(number: int) -> int:
    """SplitMix64: every bit of the result depends on every bit of the number. Steele et al. 2014, OOPSLA."""
    number = (number + 0x9E3779B97F4A7C15) % _BITS
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % _BITS
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % _BITS
    return number ^ (number >> 31)
