"""What a run is judged by: images by the error, text by the loss. Which it is, the settings tell by their data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from synthgrad.experiments.datasets import DATA_SETS

__all__ = ["ERROR", "LOSS", "MEASURES", "Measure", "measure_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Measure:
    """One of the two figures that every evaluation gives, and how it is written. Of both, lower is better.

    Attributes:
        name: `error` or `loss`, as evaluations and results call it.
        unit: what its figures are written in.
        difference_unit: what differences of it are counted in: of shares in percent, points.
        scale: how many of the unit there are to 1, as it is measured.
        digits: that are written after the point.
    """

    name: str
    unit: str
    difference_unit: str
    scale: float
    digits: int

    @property
    def heading(self) -> str:
        """Name and unit, for the head of a column: `error %`, `loss (nats)`."""
        return f"{self.name} %" if self.unit == "%" else f"{self.name} ({self.unit})"

    def of(self, *, error: T, loss: T) -> T:
        """Of the two the one that counts: the loss, in whatever unit, for all but the error.

        >>> LOSS.of(error=0.25, loss=1.5)
        1.5
        """
        return error if self.name == "error" else loss

    def value(self, value: float) -> str:
        """A figure as text, without the unit.

        >>> ERROR.value(0.0114), LOSS.value(1.5)
        ('1.14', '1.500')
        """
        return f"{self.scale * value:.{self.digits}f}"

    def with_unit(self, value: float) -> str:
        """A figure as text.

        >>> ERROR.with_unit(0.0114), LOSS.with_unit(1.5)
        ('1.14 %', '1.500 nats')
        """
        return f"{self.value(value)} {self.unit}"

    def spread(self, mean: float, std: float | None) -> str:
        """Mean ± standard deviation, where there is one, without the unit.

        >>> ERROR.spread(0.0114, 0.004), LOSS.spread(1.5, None)
        ('1.14 ± 0.40', '1.500')
        """
        return self.value(mean) + ("" if std is None else f" ± {self.value(std)}")

    def difference(self, mean: float, half_width: float | None) -> str:
        """A difference with its sign ± half the width of its interval, where there is one, without the unit.

        >>> ERROR.difference(0.0047, 0.0046), LOSS.difference(-0.02, None)
        ('+0.47 ± 0.46', '-0.020')
        """
        interval = "" if half_width is None else f" ± {self.value(half_width)}"
        return f"{self.scale * mean:+.{self.digits}f}{interval}"


ERROR = Measure("error", "%", "points", scale=100.0, digits=2)
LOSS = Measure("loss", "nats", "nats", scale=1.0, digits=3)
MEASURES: Mapping[str, Measure] = MappingProxyType({one.name: one for one in (ERROR, LOSS)})


def measure_of(settings: Mapping[str, Any]) -> Measure:
    """What a run with these settings is judged by; by the error if they name no data set that there is.

    Args:
        settings: of a training or a comparison, as they are written or as they were read back.

    >>> measure_of({"data": "text"}).heading
    'loss (nats)'
    """
    name = settings.get("data")
    # What was read from a file may be anything, or come from a version with other data sets.
    data_set = DATA_SETS.get(name) if isinstance(name, str) else None
    return ERROR if data_set is None else MEASURES[data_set.measure]
