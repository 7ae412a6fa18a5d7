"""A small vocabulary for HTML and SVG: elements, numbers, scales. Everything given as plain text is escaped."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Markup", "Scale", "apart", "join", "number", "shortened", "svg", "tag", "ticks"]


class Markup(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element. In attribute names a trailing underscore is dropped, others become dashes; None leaves one out.

    >>> tag("text", "a < b", x=1.50, class_="note")
    '<text x="1.5" class="note">a &lt; b</text>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, str) else number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = join(children)
    if not inside and name in _EMPTY:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{inside}</{name}>")


_EMPTY = frozenset({"br", "circle", "line", "link", "meta", "path", "rect"})


def join(parts: Iterable[str], between: str = "") -> Markup:
    """The parts one after the other, plain text among them escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else escape(part, quote=False) for part in parts))


def number(value: float) -> str:
    """A coordinate, to two decimals and no longer than need be.

    Raises:
        ValueError: the value is not finite; a drawing with such a number in it would be cut off there without a word.
    """
    if not math.isfinite(value):
        raise ValueError(f"a drawing needs finite numbers, got {value}")
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def svg(width: float, height: float, *children: str, label: str) -> Markup:
    """A drawing that takes the width it is given; `label` is read out to those who do not see it."""
    size = f"0 0 {number(width)} {number(height)}"
    space = "http://www.w3.org/2000/svg"
    return tag("svg", *children, xmlns=space, viewBox=size, role="img", aria_label=label)


def shortened(text: str, most: int) -> str:
    """The text, with its middle left out if it is longer than `most` characters."""
    head = (most - 1) // 2
    return text if len(text) <= most else f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to places from `start` to `end`, linearly or by logarithm.

    What lies outside is drawn at the edge.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About so many round values on the scale."""
        return _log_ticks(self.low, self.high, count) if self.log else ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from `low` to `high`.

    >>> ticks(0, 400, 4)
    [0.0, 100.0, 200.0, 300.0, 400.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) <= count + 2:
            return found
    return found[:: math.ceil(len(found) / (count + 2))]


def apart(places: Sequence[float], top: float, bottom: float, gap: float) -> list[float]:
    """The same places, moved as little as need be so that labels `gap` high do not overlap, in the same order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    gap = min(gap, (bottom - top) / max(len(places) - 1, 1))
    groups: list[list[float]] = []  # wanted first place, count
    for rank, index in enumerate(order):
        groups.append([places[index] - rank * gap, 1])
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (first, n), (second, m) = groups[-2:]
            groups[-2:] = [[(first * n + second * m) / (n + m), n + m]]
    firsts = [first for first, count in groups for _ in range(int(count))]
    moved = [0.0] * len(places)
    for rank, (index, first) in enumerate(zip(order, firsts, strict=True)):
        lowest, highest = top + rank * gap, bottom - (len(places) - 1 - rank) * gap
        moved[index] = min(max(first + rank * gap, lowest), highest)
    return moved
