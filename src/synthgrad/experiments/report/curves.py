"""Learning curves: a line for each method, the mean over its seeds, in a band from the lowest seed to the highest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from synthgrad.experiments.measures import ERROR
from synthgrad.experiments.report.drawing import Markup, Scale, apart, shortened, svg, tag
from synthgrad.experiments.report.record import AnyRun, CellRecord, Point
from synthgrad.experiments.report.run import Run
from synthgrad.experiments.report.style import method_class

__all__ = ["BINS", "Curve", "Values", "bin_width", "binned", "curve", "curves", "loss_panel", "panel", "valid_panel"]

WIDTH, HEIGHT = 372.0, 270.0
LEFT, TOP, BOTTOM = 44.0, 26.0, 38.0
BINS = 80  # points on a smoothed curve, at most
WIDE_RANGE = 20.0  # from here on, the highest value over the lowest, a scale is logarithmic
APART = 14.0  # labels, in height

Values = Callable[[CellRecord], Sequence[Point]]  # what of a cell is drawn


@dataclass(frozen=True)
class Curve:
    """A method's values over its seeds.

    Attributes:
        method: the method's name.
        points: step, mean, lowest, highest.
        seeds: how many seeds there are.
        ends: where a cell failed: step and last value.
    """

    method: str
    points: tuple[tuple[float, float, float, float], ...]
    seeds: int
    ends: tuple[tuple[float, float], ...] = ()


def binned(points: Sequence[Point], width: int) -> dict[float, float]:
    """The mean of each `width` steps, by the middle of those steps.

    >>> binned([(1, 2.0), (2, 4.0), (3, 5.0)], 2)
    {1.5: 3.0, 3.5: 5.0}
    """
    groups: dict[int, list[float]] = {}
    for step, value in points:
        groups.setdefault((step - 1) // width, []).append(value)
    return {index * width + (width + 1) / 2: fmean(values) for index, values in sorted(groups.items())}


def curve(method: str, cells: Sequence[CellRecord], values: Values, width: int) -> Curve:
    """Gather a method's seeds into one curve, in groups of `width` steps."""
    seeds = [binned(values(cell), width) if width > 1 else dict(values(cell)) for cell in cells]
    steps = sorted(set().union(*seeds))
    rows = [(step, [seed[step] for seed in seeds if step in seed]) for step in steps]
    ends = [max(seed.items()) for cell, seed in zip(cells, seeds, strict=True) if cell.failed is not None and seed]
    points = tuple((step, fmean(row), min(row), max(row)) for step, row in rows)
    return Curve(method, points, sum(map(bool, seeds)), tuple(ends))


def curves(run: AnyRun, values: Values, width: int = 1) -> list[Curve]:
    """A curve for each method."""
    return [curve(method, run.of(method), values, width) for method in run.methods]


def bin_width(run: AnyRun) -> int:
    """So many steps that a smoothed curve has `BINS` points at most."""
    return max(1, math.ceil(run.steps / BINS))


def loss_panel(run: Run) -> tuple[Markup, int]:
    """The training loss, and over how many steps each point is averaged."""
    width = bin_width(run)
    return panel(run, curves(run, lambda cell: cell.losses, width), "training loss"), width


def valid_panel(run: Run) -> Markup:
    """The validation error, or loss."""
    shown = curves(run, lambda cell: cell.valid)
    if run.measure == ERROR:
        return panel(run, shown, "validation error", _percent)  # the unit stands at the axis
    return panel(run, shown, f"validation {run.measure.heading}")


def _plain(value: float) -> str:
    """A number of any size, as short as it can be."""
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 1e-3 else f"{value:g}"


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def panel(
    run: AnyRun,
    curves: Sequence[Curve],
    title: str,
    label: Callable[[float], str] = _plain,
    *,
    axis: str = "step",
    from_zero: bool = True,
) -> Markup:
    """The curves of all methods, with their names.

    Args:
        run: where they are from.
        curves: at most one for each method.
        title: what is shown.
        label: a value as text, for the axis.
        axis: what runs to the right.
        from_zero: whether the scale begins at zero, or at the lowest value.
    """
    heading = tag("text", title, x=LEFT, y=14, class_="head")
    values = [value for one in curves for point in one.points for value in point[1:]]
    if not values:
        return svg(WIDTH, HEIGHT, heading, tag("text", "nothing measured", x=LEFT, y=40, class_="tick"), label=title)
    names = {method: shortened(method, 12) for method in run.methods}
    right = WIDTH - 12 - 7.4 * max(map(len, names.values()))
    across = Scale(0, max(run.steps, 1), LEFT, right)
    up = _value_scale(values) if from_zero else _narrow_scale(values)
    if up.log:
        heading = tag("text", title, tag("tspan", " (logarithmic)", class_="tick"), x=LEFT, y=14, class_="head")
    shown = [one for one in curves if one.points]
    bands = [_band(one, run, across, up) for one in shown if one.seeds > 1]
    lines = [_line(one, run, across, up) for one in shown]
    places = apart([up(one.points[-1][1]) for one in shown], TOP, HEIGHT - BOTTOM, APART)
    ends = [
        tag("text", names[one.method], x=right + 7, y=place + 4, class_=f"name {method_class(one.method, run.methods)}")
        for one, place in zip(shown, places, strict=True)
    ]
    axes = _axes(across, up, label, axis)
    return svg(WIDTH, HEIGHT, heading, *axes, *bands, *lines, *ends, label=f"{title} against {axis}s, by method")


def _value_scale(values: Sequence[float]) -> Scale:
    start, end = HEIGHT - BOTTOM, TOP
    high = max(values)
    positive = [value for value in values if value > 0]
    if min(values) >= 0 and positive and high / min(positive) > WIDE_RANGE:
        # There is no zero on it: what is zero is drawn at the bottom.
        return Scale(min(positive) / (2.0 if min(values) == 0 else 1.15), high * 1.15, start, end, log=True)
    low = min(0.0, min(values))
    return Scale(low, high + 0.05 * (high - low or 1.0), start, end)


def _narrow_scale(values: Sequence[float]) -> Scale:
    margin = 0.05 * (max(values) - min(values) or 1.0)
    return Scale(min(values) - margin, max(values) + margin, HEIGHT - BOTTOM, TOP)


def _axes(across: Scale, up: Scale, label: Callable[[float], str], axis: str) -> list[Markup]:
    bottom = HEIGHT - BOTTOM
    drawn: list[Markup] = []
    for value in up.ticks(5):
        y = up(value)
        drawn.append(tag("line", x1=LEFT, x2=across.end, y1=y, y2=y, class_="grid"))
        drawn.append(tag("text", label(value), x=LEFT - 6, y=y + 4, class_="tick end"))
    for value in across.ticks(4):
        drawn.append(tag("text", f"{value:,.0f}", x=across(value), y=bottom + 16, class_="tick middle"))
    drawn.append(tag("line", x1=LEFT, x2=across.end, y1=bottom, y2=bottom, class_="axis"))
    drawn.append(tag("text", axis, x=(LEFT + across.end) / 2, y=bottom + 32, class_="tick middle"))
    return drawn


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _band(one: Curve, run: AnyRun, across: Scale, up: Scale) -> Markup:
    low = [(across(step), up(value)) for step, _, value, _ in one.points]
    high = [(across(step), up(value)) for step, _, _, value in one.points]
    return tag("path", d=_path([*high, *reversed(low)]) + "Z", class_=f"band {method_class(one.method, run.methods)}")


def _line(one: Curve, run: AnyRun, across: Scale, up: Scale) -> Markup:
    which = method_class(one.method, run.methods)
    places = [(across(step), up(mean)) for step, mean, _, _ in one.points]
    drawn = [tag("path", d=_path(places), class_=f"curve {which}")]
    if len(places) == 1:
        drawn = [tag("circle", cx=places[0][0], cy=places[0][1], r=2.5, class_=f"dot {which}")]
    x, y = places[-1]
    if across.end - x > 6:  # it ends before the others: a line leads to its name
        drawn.append(tag("line", x1=x + 3, x2=across.end, y1=y, y2=y, class_="leader"))
    for step, value in one.ends:
        x, y = across(step), up(value)
        cross = f"M{x - 5:.1f} {y - 5:.1f}l10 10M{x - 5:.1f} {y + 5:.1f}l10 -10"
        drawn.append(tag("path", tag("title", f"{one.method}: failed here"), d=cross, class_=f"cross {which}"))
    return tag("g", *drawn)
