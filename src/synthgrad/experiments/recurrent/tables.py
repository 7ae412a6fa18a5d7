"""Tables of a comparison in time: the live one, the final one for a terminal, and the same as Markdown."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from synthgrad.core.events import Evaluated, Event, Solved, Started, StepDone
from synthgrad.experiments.measures import Measure
from synthgrad.experiments.progress import Progress
from synthgrad.experiments.recurrent.methods import parse_method
from synthgrad.experiments.recurrent.results import RecurrentSummary
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.tasks import in_bits
from synthgrad.experiments.tables import NOTHING, figure, lap_bar, markdown, mean_of, milliseconds

__all__ = ["RecurrentBoard", "recurrent_legend", "recurrent_markdown", "recurrent_rows", "recurrent_table"]


@dataclass
class _Row:
    """What was last heard of one method.

    Attributes:
        bits: of a loss term, while training.
        score: of this seed: the longest solved, or bits of a character on the validation part.
        scores: likewise, of the seeds that have ended; on the test part.
    """

    bits: float | None = None
    score: float | None = None
    agreement: float | None = None
    scores: list[float] = field(default_factory=list)


class RecurrentBoard:
    """The live table: fed with events, drawn whenever rich asks.

    Args:
        comparison: what is run.
        clock: seconds, running forward.
    """

    def __init__(self, comparison: RecurrentComparison, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.methods = comparison.methods
        self.task = comparison.kind_of_task
        self._progress = Progress(comparison.methods, comparison.seeds, clock)
        self._rows = {name: _Row() for name in comparison.methods}

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the method and the seed."""
        self._progress.tell(event, labels)
        row = self._rows[labels["method"]]
        match event:
            case Started():
                if row.score is not None and not self.task.text:  # of the seed before
                    row.scores.append(row.score)
                row.score = None if self.task.text else 0.0
            case StepDone(_, loss, agreement):
                row.bits = in_bits(loss)
                row.agreement = mean_of(agreement, "cosine")
            case Solved(_, longest):
                row.score = float(longest)
            case Evaluated(_, "test", loss, _):
                row.scores.append(in_bits(loss))
            case Evaluated(_, _, loss, _):
                row.score = in_bits(loss)

    def headline(self) -> str:
        """Which seed it is at, for how long it has run, and how long it will."""
        return self._progress.headline()

    def __rich__(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
        table.add_column("method", style="bold", no_wrap=True)
        table.add_column("this seed", no_wrap=True)
        score, before = ("valid\nbits", "test bits\nso far") if self.task.text else ("longest\nsolved", "seeds\nbefore")
        for heading in ("bits,\ntraining", score, "agree-\nment", before):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, row in self._rows.items():
            mean = fmean(row.scores) if row.scores else None
            lap = self._progress.laps[name]
            cells = (figure(row.bits, 3), _score(row.score, self.task.measure), figure(row.agreement))
            table.add_row(_broken(name), lap_bar(lap), *cells, _score(mean, self.task.measure))
        return Group(Text(self.headline(), style="dim"), table)


def _score(value: float | None, measure: Measure) -> str:
    return NOTHING if value is None else measure.value(value).removesuffix(".0")


def _broken(method: str) -> str:
    """A method's name with its own settings below each other."""
    return method.replace(":", "\n  ")


# ---- at the end ------------------------------------------------------------------------------------------------------

HEADINGS = ("method", "updates", "{}", "Δ to bptt, same T (95 %)", "× bptt, same T", "ms/step (× bptt)", "agreement")
NARROW_HEADINGS = (
    "method",
    "updates",
    "{}",
    "Δ to bptt,\nsame T",
    "× bptt,\nsame T",
    "ms/step\n(× bptt)",
    "agree-\nment",
)


def _cells(summary: RecurrentSummary) -> tuple[str, ...]:
    measure, score, gap = summary.measure, summary.score, summary.difference
    failed = f" ({summary.failed} failed)" if summary.failed else ""
    return (
        f"{summary.steps:,}",
        (NOTHING if score is None else measure.spread(score.mean, score.std)) + failed,
        NOTHING if gap is None else measure.difference(gap.mean, gap.half_width),
        NOTHING if summary.ratio is None else f"{summary.ratio:.2f}",
        NOTHING if summary.ms_per_step is None else milliseconds(summary.ms_per_step, summary.times),
        figure(summary.agreement),
    )


def recurrent_table(summaries: Sequence[RecurrentSummary]) -> Table:
    """What came out, a row for each method."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(NARROW_HEADINGS):
        judged = summaries[0].measure.heading.replace(" (", "\n(") if summaries else ""
        table.add_column(heading.format(judged), justify="right" if number else "left", no_wrap=True)
    for summary in summaries:
        cells = (cell.replace(" (", "\n(") if "failed" in cell else cell for cell in _cells(summary))
        table.add_row(Text(_broken(summary.method), style="bold"), *cells, style="red" if summary.failed else None)
    return table


def recurrent_rows(summaries: Sequence[RecurrentSummary]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The summary as text: the headings, and a row for each method."""
    judged = summaries[0].measure.heading if summaries else "score"
    headings = tuple(heading.format(judged) for heading in HEADINGS)
    return headings, [(one.method, *_cells(one)) for one in summaries]


def recurrent_markdown(summaries: Sequence[RecurrentSummary]) -> str:
    """The summary as a Markdown table."""
    headings, rows = recurrent_rows(summaries)
    return markdown(headings, rows, left=1)


def recurrent_legend(comparison: RecurrentComparison) -> str:
    """What is to be seen in the table, in plain words."""
    kinds = dict.fromkeys(parse_method(name)[0] for name in comparison.methods)
    titles = [f"{kind.name}: {kind.title}." for kind in kinds]
    return "\n".join([*titles, "The number behind a method is T, the steps of its window.", "", *READING])


READING = (
    "Longest solved: of Copy in characters, of Repeat Copy in steps of the whole sequence, at the end of training; "
    "bits per character: on the test part. Mean ± standard deviation over the seeds; Δ: paired by seed.",
    "Agreement: cosine of the synthetic gradient at a window's end with what the next window sends back.",
)
