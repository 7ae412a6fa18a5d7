"""What the methods reached, as a picture that stands alone: a row for each, a dot for each seed, the best on top."""

from collections.abc import Sequence

from synthgrad.experiments.report.drawing import Markup, Scale, svg, tag
from synthgrad.experiments.report.style import scores_style
from synthgrad.experiments.results import BASELINE, Result, by_method, summarize

__all__ = ["scores_picture"]

WIDTH, LEFT, RIGHT = 760.0, 96.0, 150.0
TOP, ROW, BOTTOM = 30.0, 25.0, 44.0
SPREAD = 3.0  # of largest over smallest, beyond which the axis is logarithmic


def scores_picture(results: Sequence[Result]) -> Markup:
    """Draw the test figure of every cell of a comparison; cells that failed are counted at the side.

    Raises:
        ValueError: no cell has such a figure.
    """
    summaries = {one.method: one for one in summarize(results)}
    measure = next(iter(summaries.values())).measure
    scores = {
        cells[0].method: [
            measure.scale * score
            for cell in cells
            if cell.failed is None and (score := measure.of(error=cell.test_error, loss=cell.test_loss)) is not None
        ]
        for cells in by_method(results)
    }
    every = [score for own in scores.values() for score in own]
    if not every:
        raise ValueError("no cell has come to its end: there is nothing to draw")
    order = sorted(scores, key=lambda name: sum(scores[name]) / len(scores[name]) if scores[name] else float("inf"))
    height = TOP + ROW * len(order) + BOTTOM
    across = _scale(every)
    drawn = [tag("style", scores_style()), tag("rect", width=WIDTH, height=height, class_="sheet")]
    for value in across.ticks(7):
        x = across(value)
        drawn.append(tag("line", x1=x, x2=x, y1=TOP - 6, y2=height - BOTTOM, class_="grid"))
        drawn.append(tag("text", f"{value:g}", x=x, y=height - BOTTOM + 18, class_="tick middle"))
    axis = f"test {measure.heading}" + (", logarithmic" if across.log else "")
    drawn.append(tag("text", axis, x=LEFT, y=height - 8, class_="tick"))
    drawn.append(tag("text", "mean ± std", x=WIDTH - 12, y=TOP - 12, class_="tick end"))
    if scores.get(BASELINE):
        x = across(sum(scores[BASELINE]) / len(scores[BASELINE]))
        drawn.append(tag("line", x1=x, x2=x, y1=TOP - 6, y2=height - BOTTOM, class_="leader"))
    for place, name in enumerate(order):
        y = TOP + ROW * place + ROW / 2
        kind = "m0" if name == BASELINE else "m3"
        drawn.append(tag("text", name, x=LEFT - 12, y=y + 4, class_=f"name end {kind}"))
        drawn += [tag("circle", cx=across(score), cy=y, r=4.5, class_=f"dot seed {kind}") for score in scores[name]]
        one = summaries[name]
        said = "" if one.score is None else measure.spread(one.score.mean, one.score.std)
        said += f" ({one.failed} failed)" if one.failed else ""
        drawn.append(tag("text", said, x=WIDTH - 12, y=y + 4, class_="end"))
    return svg(WIDTH, height, *drawn, label=f"Test {measure.name} of each method, a dot for each seed")


def _scale(values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    if low > 0 and high / low > SPREAD:
        return Scale(low / 1.15, high * 1.15, LEFT, WIDTH - RIGHT, log=True)
    room = (high - low or abs(high) or 1.0) / 12
    return Scale(low - room, high + room, LEFT, WIDTH - RIGHT)
