"""Costs that vary from action to action, as on machines that have other work too. Drawn without a state.

A draw depends on the seed and on what is done, not on when or in which schedule; so two schedules are compared on the
same good and bad luck: S and B, or F and P, of a stage and microbatch get the same factor.
"""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError

__all__ = ["jittered"]

_DRAWN_AS = {Kind.P: Kind.F, Kind.S: Kind.B, Kind.I: Kind.B}
_NUMBERS = {kind: number for number, kind in enumerate(Kind)}
_NORMAL = NormalDist()
_BITS = 2**64


def jittered(
    costs: Mapping[Kind, float] | Callable[[Action], float], deviation: float, seed: int = 0
) -> Callable[[Action], float]:
    """The costs, each times a lognormal factor of mean 1.

    Args:
        costs: of each kind of action, or a function of the action.
        deviation: standard deviation of the factor's logarithm; 0 leaves the costs as they are.
        seed: of the draws. Another replica, or another run, has another one.

    Raises:
        ScheduleError: a deviation that is negative or not finite.
    """
    if not 0.0 <= deviation < math.inf:
        raise ScheduleError(f"jitter: deviation is {deviation}, expected zero or more, and finite")
    cost = costs if callable(costs) else lambda action: costs[action.kind]
    mean = -deviation * deviation / 2.0  # of the logarithm, where that of the factor is 1

    def drawn(action: Action) -> float:
        return cost(action) * math.exp(mean + deviation * _normal(action, seed))

    return drawn if deviation else cost


def _normal(action: Action, seed: int) -> float:
    """A draw from the standard normal distribution, always the same for the same action and seed."""
    stage, kind, microbatch = action
    mixed = _mixed(seed % _BITS)
    for number in (stage, _NUMBERS[_DRAWN_AS.get(kind, kind)], microbatch):
        mixed = _mixed(mixed ^ number)
    return _NORMAL.inv_cdf(((mixed >> 11) + 0.5) / 2**53)


def _mixed(number: int) -> int:
    """SplitMix64: every bit of the result depends on every bit of the number. Steele et al. 2014, OOPSLA."""
    number = (number + 0x9E3779B97F4A7C15) % _BITS
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % _BITS
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB % _BITS
    return number ^ (number >> 31)
