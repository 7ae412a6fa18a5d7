"""Tables of a comparison in time: the live one, the final one for a terminal, and the same as Markdown."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from synthgrad.core.events import Event, Solved, Started
from synthgrad.experiments.board import LiveTable
from synthgrad.experiments.columns import broken, figure, judged, markdown, terminal_table
from synthgrad.experiments.recurrent.methods import parse_method
from synthgrad.experiments.recurrent.results import RecurrentSummary
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.tasks import in_bits

__all__ = ["READING", "RecurrentBoard", "recurrent_legend", "recurrent_markdown", "recurrent_rows", "recurrent_table"]


class RecurrentBoard(LiveTable):
    """What is seen while it trains. A seed that is made to solve longer and longer sequences has solved none at first.

    Args:
        comparison: what is run.
        clock: seconds, running forward.
    """

    def __init__(self, comparison: RecurrentComparison, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.task = task = comparison.kind_of_task
        now, ended = ("valid\nbits", "test bits\nso far") if task.text else ("longest\nsolved", "seeds\nbefore")
        columns = {"loss": "bits,\ntraining", "score": now, "agreement": "agree-\nment", "scores": ended}
        super().__init__(
            comparison.methods, comparison.seeds, clock, measure=task.measure, columns=columns, unit=in_bits
        )

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the method and the seed."""
        super().tell(event, labels)
        row = self.rows[labels["method"]]
        match event:
            case Started():
                if row.score is not None and not self.task.text:  # of the seed before
                    row.scores.append(row.score)
                row.score = None if self.task.text else 0.0
            case Solved(_, longest):
                row.score = float(longest)


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
    reached, gap, time_of_step = judged(summary)
    return f"{summary.steps:,}", reached, gap, figure(summary.ratio), time_of_step, figure(summary.agreement)


def recurrent_table(summaries: Sequence[RecurrentSummary]) -> Table:
    """What came out, a row for each method."""
    judged_by = summaries[0].measure.heading.replace(" (", "\n(") if summaries else ""
    headings = (heading.format(judged_by) for heading in NARROW_HEADINGS)
    table = terminal_table(headings, left=1, padding=(0, 1, 0, 0))
    for summary in summaries:
        cells = (cell.replace(" (", "\n(") if "failed" in cell else cell for cell in _cells(summary))
        table.add_row(broken(summary.method), *cells, style="red" if summary.failed else None)
    return table


def recurrent_rows(summaries: Sequence[RecurrentSummary]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The summary as text: the headings, and a row for each method."""
    judged_by = summaries[0].measure.heading if summaries else "score"
    headings = tuple(heading.format(judged_by) for heading in HEADINGS)
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
