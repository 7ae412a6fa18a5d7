"""Curves of comparisons in time: of what they are judged by, on a page or in a picture that stands alone."""

from collections.abc import Sequence
from statistics import fmean

from synthgrad.experiments.recurrent.results import RecurrentResult, recurrent_summaries
from synthgrad.experiments.recurrent.tasks import TASKS
from synthgrad.experiments.report.curves import BINS, HEIGHT, WIDTH, Curve, Values, bin_width, curves, panel
from synthgrad.experiments.report.drawing import Markup, svg, tag
from synthgrad.experiments.report.record import CellRecord, Point
from synthgrad.experiments.report.recurrent_run import RecurrentRun
from synthgrad.experiments.report.style import curves_style

__all__ = ["courses_picture", "drawn", "judged"]

MARGIN = 16.0  # between two panels, and around them


def courses_picture(comparisons: Sequence[Sequence[RecurrentResult]]) -> Markup:
    """Draw how the methods got on: a panel for each comparison, side by side.

    Of each kind of method only the best of its variants is drawn, so that each stands there with the settings that
    suit it; a method is named without its settings.

    Raises:
        ValueError: a comparison's results tell nothing of the way to them.
    """
    panels = [judged(_run_of(_best_of_each_kind(results))) for results in comparisons]
    width = MARGIN + len(panels) * (WIDTH + MARGIN)
    height = HEIGHT + 2 * MARGIN
    placed = [
        tag("svg", one, x=MARGIN + place * (WIDTH + MARGIN), y=MARGIN, width=WIDTH, height=HEIGHT)
        for place, one in enumerate(panels)
    ]
    sheet = tag("rect", width=width, height=height, class_="sheet")
    told = " and ".join(TASKS[results[0].task].measure.heading for results in comparisons)
    return svg(width, height, tag("style", curves_style()), sheet, *placed, label=f"While they learned: {told}")


def _best_of_each_kind(results: Sequence[RecurrentResult]) -> list[RecurrentResult]:
    """The cells of the best method of each kind and window."""
    if not any(cell.curve for cell in results):
        raise ValueError("the results tell nothing of the way to them: measure anew with this version")
    sign = -1.0 if TASKS[results[0].task].text else 1.0
    best: dict[str, tuple[float, str]] = {}
    for one in recurrent_summaries(results):
        if one.score is not None:
            found = sign * one.score.mean, one.method
            name = one.method.partition(":")[0]
            best[name] = max(best.get(name, found), found, key=lambda pair: pair[0])
    chosen = {method for _, method in best.values()}
    return [cell for cell in results if cell.method in chosen]


def _run_of(results: Sequence[RecurrentResult]) -> RecurrentRun:
    """The results as a run, as far as curves are concerned."""
    text = TASKS[results[0].task].text
    cells = []
    for cell in results:
        record = CellRecord(cell.method.partition(":")[0], cell.seed, total=cell.steps, steps=cell.steps)
        record.unroll, record.failed = cell.unroll, cell.failed
        (record.valid if text else record.solved).extend(cell.curve)
        cells.append(record)
    return RecurrentRun(results[0].task, {"comparison": {"task": results[0].task}}, True, tuple(cells))


def judged(run: RecurrentRun) -> Markup:
    """A panel of what the task is judged by, on the way to the end."""
    if run.task.text:
        return drawn(run, "validation, bits per character", lambda cell: cell.valid, from_zero=False)
    return panel(run, [_solved(run, method) for method in run.methods], run.task.measure.heading, axis=_axis(run))


def drawn(run: RecurrentRun, title: str, values: Values, *, binned: bool = False, from_zero: bool = True) -> Markup:
    """A panel of some figure of the cells.

    Args:
        run: where they are from.
        title: what is shown.
        values: of a cell, by update.
        binned: whether the figure is measured at every update, and to be smoothed.
        from_zero: whether the scale begins at zero.
    """

    def placed(cell: CellRecord) -> list[Point]:
        return [(run.place(cell, step), value) for step, value in values(cell)]

    shown = curves(run, placed, bin_width(run) if binned else 1)
    return panel(run, shown, title, axis=_axis(run), from_zero=from_zero)


def _axis(run: RecurrentRun) -> str:
    return "time step" if run.several_windows else "update"


def _solved(run: RecurrentRun, method: str) -> Curve:
    """The longest solved so far, looked at in even steps, as far as each seed came."""
    cells = run.of(method)
    last = max((run.place(cell, cell.steps) for cell in cells), default=0)
    moments = [round(last * index / BINS) for index in range(BINS + 1)] if last else []
    points = []
    for moment in moments:
        row = [_solved_by(run, cell, moment) for cell in cells if run.place(cell, cell.steps) >= moment]
        points.append((float(moment), fmean(row), min(row), max(row)))
    ends = [(float(run.place(cell, cell.steps)), _solved_by(run, cell, run.steps)) for cell in cells if cell.failed]
    return Curve(method, tuple(points), len(cells), tuple(ends))


def _solved_by(run: RecurrentRun, cell: CellRecord, moment: int) -> float:
    return max((longest for step, longest in cell.solved if run.place(cell, step) <= moment), default=0.0)
