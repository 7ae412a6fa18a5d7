"""The suite of two speeds: a net that ticks at every digit, and one that ticks once in a period on its messages."""

from types import MappingProxyType

from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.spec import StreamTraining
from synthgrad.experiments.suites import claims
from synthgrad.experiments.suites.suite import Entry, Suite

__all__ = ["two_speeds"]

# Both nets go back together; nothing comes back; the message alone; the count to come, too, as context.
COLUMNS = ("bp", "zero", "dni", "logistic", "sobolev")
PERIODS = {"small": (3,), "full": (3, 5)}
LENGTHS = {"small": (500, 1500), "full": (20_000, 100_000)}  # in stretches: how soon, and how far
SIZES = {"hidden": 64, "batch_size": 32, "lr": 2e-3, "synthesizer_lr": 5e-3}

SAID = (
    "A stretch is T^2 digits of MNIST in each of {batch_size} lanes; both nets are GRUs of {hidden} units, the fast "
    "one behind a layer that reads a digit; Adam {lr:g}, synthesizers {synthesizer_lr:g}, no decay. Judged by the "
    "share of wrong counts of threes in 5,000 stretches of test digits; 5,000 more images are held out for choices. "
    "The paper has curves and no table, so no figures of its stand here; sizes, periods and lengths are ours."
)


def two_speeds(budget: str) -> Suite:
    """The slow net counts threes over T^2 digits; what does the fast one learn of it, and how soon."""
    return Suite(
        "two-speeds",
        "Two nets at two speeds, and what the slow one sends back",
        budget,
        SAID.format(**SIZES),
        tuple(
            Entry(
                f"T = {period}, {steps:,} stretches",
                column,
                StreamTraining.suited_to("mnist", period=period, steps=steps, **SIZES),
                column,
                lambda _seed, column=column: METHODS[column],
            )
            for period in PERIODS[budget]
            for steps in LENGTHS[budget]
            for column in COLUMNS
        ),
        MappingProxyType({}),
        claims.two_speeds,
    )
