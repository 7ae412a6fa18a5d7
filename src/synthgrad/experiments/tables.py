"""Tables of a comparison: the live one, the final ones for a terminal, and the same as Markdown."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from synthgrad.core.events import Evaluated, Event, Probed, StepDone
from synthgrad.experiments.measures import ERROR, Measure, measure_of
from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.progress import Lap, Progress
from synthgrad.experiments.results import Figures, Summary
from synthgrad.experiments.spec import Comparison

__all__ = [
    "Board",
    "cuts_table",
    "figure",
    "lap_bar",
    "legend",
    "markdown",
    "mean_of",
    "milliseconds",
    "summary_markdown",
    "summary_rows",
    "summary_table",
]

NOTHING = "-"


# ---- while it trains -------------------------------------------------------------------------------------------------


@dataclass
class _Row:
    """What was last heard of one method.

    Attributes:
        valid: the last validation error, or loss.
        tested: test errors, or losses, of the seeds that have ended.
    """

    loss: float | None = None
    valid: float | None = None
    agreement: float | None = None
    alignment: float | None = None
    tested: list[float] = field(default_factory=list)


class Board:
    """The live table: fed with events, drawn whenever rich asks.

    Args:
        comparison: what is run.
        clock: seconds, running forward.
    """

    def __init__(self, comparison: Comparison, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.methods = comparison.methods
        self.measure = measure_of(comparison.as_table())
        self._progress = Progress(comparison.methods, comparison.seeds, clock)
        self._rows = {name: _Row() for name in comparison.methods}

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the method and the seed."""
        self._progress.tell(event, labels)
        row = self._rows[labels["method"]]
        match event:
            case StepDone(_, loss, agreement):
                row.loss, row.agreement = loss, mean_of(agreement, "cosine")
            case Probed(_, alignment):
                row.alignment = mean_of(alignment, "parameter_cosine")
            case Evaluated(_, "test", loss, error):
                row.tested.append(self.measure.of(error=error, loss=loss))
            case Evaluated(_, _, loss, error):
                row.valid = self.measure.of(error=error, loss=loss)

    def seconds_left(self) -> float | None:
        """About how long it will take; None until something has been timed."""
        return self._progress.seconds_left()

    def headline(self) -> str:
        """Which seed it is at, for how long it has run, and how long it will."""
        return self._progress.headline()

    def __rich__(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
        table.add_column("method", style="bold", no_wrap=True)
        table.add_column("this seed", no_wrap=True)
        judged = self.measure.heading.replace(" (", "\n(")  # so that the table fits into 80 columns
        for heading in ("loss", f"valid\n{judged}", "agree-\nment", "align-\nment", f"test {judged}\nso far"):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, row in self._rows.items():
            state = lap_bar(self._progress.laps[name])
            valid = NOTHING if row.valid is None else self.measure.value(row.valid)
            tested = self.measure.value(fmean(row.tested)) if row.tested else NOTHING
            figures = (figure(row.loss, 3), valid, figure(row.agreement), figure(row.alignment))
            table.add_row(name, state, *figures, tested)
        return Group(Text(self.headline(), style="dim"), table)


def lap_bar(lap: Lap) -> RenderableType:
    """How far a method has come with this seed, as a bar; or that it failed."""
    if lap.failed is not None:
        return Text("failed", style="bold red")
    return ProgressBar(total=max(lap.total, 1), completed=lap.steps, width=16)


def mean_of(figures: Figures, name: str) -> float | None:
    """Of one figure, the mean over the cuts."""
    return fmean(values[name] for values in figures.values()) if figures else None


# ---- at the end ------------------------------------------------------------------------------------------------------

# In place of {} stands what the cells are judged by.
HEADINGS = (
    "method",
    "waits for (locks)",
    "test {}",
    "Δ to bp (95 %)",
    "ms/step (× bp)",
    "agreement",
    "alignment (rows)",
    "alignment (parameters)",
)
# The same, broken so that the table fits into terminals of 120 and of 80 columns.
WIDE_HEADINGS = (*HEADINGS[:6], "alignment\n(rows)", "alignment\n(parameters)")
NARROW_HEADINGS = (
    "method",
    "waits for\n(locks)",
    "test\n{}",
    "Δ to bp\n(95 %)",
    "ms/step\n× bp",
    "agree-\nment",
    "align.\nrows",
    "align.\nparam.",
)
WIDE = 118  # columns that the wide table takes at most


def _judged_by(summaries: Sequence[Summary]) -> Measure:
    """What the cells are judged by, which is the same for all methods."""
    return summaries[0].measure if summaries else ERROR


def _cells(summary: Summary) -> tuple[str, ...]:
    """A method's row, as text; the locks apart, which are laid out by width."""
    failed = f" ({summary.failed} failed)" if summary.failed else ""
    measure, score, gap = summary.measure, summary.score, summary.difference
    return (
        (NOTHING if score is None else measure.spread(score.mean, score.std)) + failed,
        NOTHING if gap is None else measure.difference(gap.mean, gap.half_width),
        NOTHING if summary.ms_per_step is None else milliseconds(summary.ms_per_step, summary.times),
        figure(mean_of(summary.agreement, "cosine")),
        figure(mean_of(summary.alignment, "cosine")),
        figure(mean_of(summary.alignment, "parameter_cosine")),
    )


def _squeeze(cell: str) -> str:
    """The same in fewer columns: 1.25 ± 0.31 (1 failed) becomes 1.25±0.31 over 1 failed."""
    return cell.replace(" ± ", "±").replace(" (", "\n" if "failed" in cell else " ").replace(")", "")


def summary_table(summaries: Sequence[Summary], *, width: int) -> Table:
    """What came out, a row for each method; of cosines, the mean over the cuts."""
    wide = width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(WIDE_HEADINGS if wide else NARROW_HEADINGS):
        heading = heading.format(_judged_by(summaries).heading)
        table.add_column(heading, justify="right" if number > 1 else "left", no_wrap=True)
    for summary in summaries:
        waits = (", " if wide else "\n").join(summary.locks) or "nothing"
        cells = _cells(summary) if wide else map(_squeeze, _cells(summary))
        name = summary.method if wide else summary.method.replace("-", "-\n")
        table.add_row(Text(name, style="bold"), waits, *cells, style="red" if summary.failed else None)
    return table


def cuts_table(summaries: Sequence[Summary]) -> Table:
    """Agreement and alignment at each cut: cosine, and ratio of norms."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("cut after", no_wrap=True)
    for heading in ("agreement\n(norms)", "alignment\nrows (norms)", "alignment\nparameters (norms)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        for number, (cut, aligned) in enumerate(summary.alignment.items()):
            agreed = summary.agreement.get(cut, {})
            table.add_row(
                summary.method if number == 0 else "",
                cut,
                _with_norm(agreed, ""),
                _with_norm(aligned, ""),
                _with_norm(aligned, "parameter_"),
                end_section=number == len(summary.alignment) - 1,
            )
    return table


def legend(summaries: Sequence[Summary]) -> str:
    """What is to be seen in the tables, in plain words."""
    titles = [f"{one.method}: {METHODS[one.method].title}." for one in summaries if one.method in METHODS]
    reading = (one.format(_judged_by(summaries).name) for one in _READING)
    return "\n".join([*titles, "", *reading])


_READING = (
    "Waits for: what a layer's update needs, of the same batch, from the layers before it (forward), from the forward "
    "pass of those behind it (update), from their backward pass (backward).",
    "Test {}: of the plain model, mean ± standard deviation over the seeds; Δ: paired by seed. ms/step: the median "
    "on this one device, where nobody waits: the price of decoupling, not its use.",
    "Agreement: cosine of a synthetic gradient with what its synthesizer learns from. Alignment: with the true "
    "gradient, at the cut (rows), and of the parameters below it.",
)


def summary_rows(
    summaries: Sequence[Summary], measure: Measure | None = None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The summary as text: the headings, and a row for each method.

    Args:
        summaries: what the methods came to.
        measure: what the cells are judged by, if there may be none that tells.
    """
    judged = (measure or _judged_by(summaries)).heading
    headings = tuple(heading.format(judged) for heading in HEADINGS)
    return headings, [(one.method, ", ".join(one.locks) or "nothing", *_cells(one)) for one in summaries]


def summary_markdown(summaries: Sequence[Summary]) -> str:
    """The summary as a Markdown table."""
    headings, rows = summary_rows(summaries)
    return markdown(headings, rows, left=2)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A Markdown table, its first `left` columns aligned to the left, the others to the right."""
    aligned = [":--"] * left + ["--:"] * (len(headings) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, aligned, *rows)) + "\n"


# ---- figures as text -------------------------------------------------------------------------------------------------


def figure(value: float | None, digits: int = 2) -> str:
    """A number, or the sign that there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def milliseconds(value: float, times: float | None) -> str:
    """The time of a step, and how many times the baseline's that is."""
    return f"{value:.1f}" + ("" if times is None else f" ({times:.1f}×)")


def _with_norm(figures: Mapping[str, float], prefix: str) -> str:
    if not figures:
        return NOTHING
    return f"{figures[f'{prefix}cosine']:.2f} ({figures[f'{prefix}norm_ratio']:.2f})"
