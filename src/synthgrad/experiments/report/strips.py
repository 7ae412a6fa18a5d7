"""Heat strips: how well synthetic gradients agree and align, cut by cut, as the run goes on."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from synthgrad.experiments.report.curves import binned
from synthgrad.experiments.report.drawing import Markup, Scale, shortened, svg, tag
from synthgrad.experiments.report.record import CellRecord
from synthgrad.experiments.report.run import Run
from synthgrad.experiments.report.style import LEVELS, heat_class

__all__ = ["PANELS", "heat_strips", "reach_of", "scale_legend"]

PANELS = (("agreement", "agreement"), ("rows", "alignment, rows"), ("parameters", "alignment, parameters"))
WIDTH, LEFT, NUMBERS, GAP = 760.0, 88.0, 46.0, 10.0
ROW, TOP, BOTTOM = 18.0, 20.0, 18.0
BINS = 48  # groups of steps in a strip, at most
REACHES = (0.1, 0.2, 0.5, 1.0)  # ends of the color scale


def heat_strips(run: Run, method: str, reach: float) -> Markup | None:
    """A method's strips, three panels side by side; None if it has no synthetic gradient."""
    cells = run.of(method)
    cuts = list(dict.fromkeys(cut for cell in cells for figures in cell.figures.values() for cut in figures))
    if not cuts:
        return None
    height = TOP + ROW * len(cuts) + BOTTOM
    drawn: list[Markup] = []
    for place, cut in enumerate(cuts):
        name = tag(
            "text", tag("title", cut), shortened(cut, 13), x=LEFT - 8, y=TOP + ROW * place + 13, class_="tick end"
        )
        drawn.append(name)
    wide = (WIDTH - LEFT + GAP) / len(PANELS)
    for number, (key, title) in enumerate(PANELS):
        left = LEFT + number * wide
        across = Scale(0, max(run.steps, 1), left, left + wide - NUMBERS - GAP)
        drawn.append(tag("text", title, x=left, y=13, class_="tick"))
        drawn += _panel(key, cells, cuts, across, reach)
        for step in (0, run.steps):
            side = "" if step == 0 else " end"
            drawn.append(tag("text", f"{step:,}", x=across(step), y=height - 5, class_=f"tick small{side}"))
    return svg(WIDTH, height, *drawn, label=f"{method}: agreement and alignment at each cut against steps")


def _panel(key: str, cells: Sequence[CellRecord], cuts: Sequence[str], across: Scale, reach: float) -> list[Markup]:
    drawn: list[Markup] = []
    steps = int(across.high)
    bins = _bin_width(key, cells, steps)
    for place, cut in enumerate(cuts):
        y = TOP + ROW * place
        frame = tag("rect", x=across.start, y=y, width=across.end - across.start, height=ROW - 3, class_="absent")
        drawn.append(frame)
        if (values := _mean_over_seeds(key, cells, cut, bins)) is None:
            drawn.append(
                tag("text", "not measured" if place == 0 else "", x=across.start + 6, y=y + 11.5, class_="tick small")
            )
            continue
        for first, last, level in _runs(values, bins, steps, reach):
            x, end = across(first), across(last)
            place_of = {"x": x, "y": y, "width": end - x, "height": ROW - 3}
            drawn.append(tag("rect", class_=heat_class(level), **place_of))
            if level <= -2:
                drawn.append(tag("rect", fill="url(#negative)", **place_of))
        drawn.append(tag("text", _typical(key, cells, cut), x=across.end + NUMBERS - 4, y=y + 12, class_="tick end"))
    return drawn


def _bin_width(key: str, cells: Sequence[CellRecord], steps: int) -> int:
    """So many steps share a color: a part of the run, or for probes, which are rarer, the time between two."""
    most = max((len(points) for cell in cells for points in cell.figures.get(key, {}).values()), default=0)
    return max(1, math.ceil(steps / min(BINS, most))) if most else 1


def _mean_over_seeds(key: str, cells: Sequence[CellRecord], cut: str, width: int) -> Mapping[float, float] | None:
    seeds = [binned(points, width) for cell in cells if (points := cell.figures.get(key, {}).get(cut))]
    steps = sorted(set().union(*seeds))
    return {step: fmean(seed[step] for seed in seeds if step in seed) for step in steps} or None


def _runs(values: Mapping[float, float], width: int, steps: int, reach: float) -> list[tuple[float, float, int]]:
    """Stretches of steps of one color: first, last, level."""
    found: list[tuple[float, float, int]] = []
    for middle, value in values.items():
        level = round(max(-1.0, min(1.0, value / reach)) * LEVELS)
        first, last = middle - (width + 1) / 2, min(middle + (width - 1) / 2, steps)
        if found and found[-1][2] == level and found[-1][1] == first:
            found[-1] = (found[-1][0], last, level)
        else:
            found.append((first, last, level))
    return found


def _typical(key: str, cells: Sequence[CellRecord], cut: str) -> str:
    """The median over the steps, mean over the seeds that were not given up; as in the tables."""
    series = [cell.figures.get(key, {}).get(cut) for cell in cells if cell.failed is None]
    medians = [median(value for _, value in points) for points in series if points]
    if not medians:
        return "–"
    text = f"{fmean(medians):+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def reach_of(run: Run) -> float:
    """The end of the color scale: so far that no more than a twentieth of the values lies beyond it."""
    values = [
        abs(value)
        for method in run.methods
        for key, _ in PANELS
        for cut in run.cuts
        for value in (
            _mean_over_seeds(key, run.of(method), cut, _bin_width(key, run.of(method), run.steps)) or {}
        ).values()
    ]
    beyond = sorted(values)[int(0.95 * (len(values) - 1))] if values else 1.0
    return next((reach for reach in REACHES if beyond <= reach), REACHES[-1])


def scale_legend(reach: float) -> Markup:
    """The color scale with its numbers."""
    wide, left = 11.0, 132.0
    drawn = [tag("text", "opposite direction", x=left - 10, y=14, class_="tick end")]
    for place, level in enumerate(range(-LEVELS, LEVELS + 1)):
        box = {"x": left + place * wide, "y": 3.0, "width": wide + 0.3, "height": 14.0}
        drawn.append(tag("rect", class_=heat_class(level), **box))
        if level <= -2:
            drawn.append(tag("rect", fill="url(#negative)", **box))
    below, above = ("≤ ", "≥ ") if reach < REACHES[-1] else ("", "")
    for share, text in ((0, f"{below}−{reach:g}"), (0.5, "0"), (1, f"{above}+{reach:g}")):
        x = left + (share * 2 * LEVELS + 0.5) * wide
        drawn.append(tag("text", text, x=x, y=31, class_="tick small middle"))
    right = left + (2 * LEVELS + 1) * wide
    drawn.append(tag("text", "same direction", x=right + 10, y=14, class_="tick"))
    return svg(WIDTH, 36, *drawn, label=f"color scale of the cosine, from {-reach:g} to {reach:g}")
