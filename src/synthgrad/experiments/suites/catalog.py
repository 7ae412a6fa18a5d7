"""The suites there are, by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from synthgrad.experiments.names import named
from synthgrad.experiments.suites.images import single, sporadic_updates, table2, unlock
from synthgrad.experiments.suites.sequences import table1
from synthgrad.experiments.suites.speeds import two_speeds
from synthgrad.experiments.suites.suite import BUDGETS, Suite

__all__ = ["SUITES", "suite_named", "suite_of"]

SUITES: Mapping[str, Callable[[str], Suite]] = MappingProxyType(
    {
        "table1": table1,
        "table2": table2,
        "single": single,
        "sporadic": sporadic_updates,
        "unlock": unlock,
        "two-speeds": two_speeds,
    }
)


def suite_named(name: str, budget: str) -> Suite:
    """Find a suite.

    Raises:
        UnknownNameError: there is none of this name, or no such budget.

    >>> suite_named("table2", "small").file
    'table2-small.jsonl'
    """
    return named("suite", name, SUITES)(named("budget", budget, dict.fromkeys(BUDGETS, budget)))


def suite_of(stem: str) -> Suite:
    """The suite that a file of results is of, by the file's name without its ending.

    Raises:
        UnknownNameError: there is none.

    >>> suite_of("table2-small").budget
    'small'
    """
    name, _, budget = stem.rpartition("-")
    return suite_named(name, budget)
