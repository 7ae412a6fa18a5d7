"""Tables of a comparison: the live one, the final ones for a terminal, and the same as Markdown."""

import time
from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from synthgrad.experiments.board import LiveTable
from synthgrad.experiments.columns import NOTHING, figure, judged, markdown, mean_of, terminal_table
from synthgrad.experiments.measures import ERROR, Measure, measure_of
from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.results import Summary
from synthgrad.experiments.spec import Comparison

__all__ = ["Board", "cuts_table", "legend", "summary_markdown", "summary_rows", "summary_table"]


class Board(LiveTable):
    """What is seen while it trains.

    Args:
        comparison: what is run.
        clock: seconds, running forward.
    """

    def __init__(self, comparison: Comparison, *, clock: Callable[[], float] = time.monotonic) -> None:
        measure = measure_of(comparison.as_table())
        judged_by = measure.heading.replace(" (", "\n(")  # so that the table fits into 80 columns
        columns = {
            "loss": "loss",
            "score": f"valid\n{judged_by}",
            "agreement": "agree-\nment",
            "alignment": "align-\nment",
            "scores": f"test {judged_by}\nso far",
        }
        super().__init__(comparison.methods, comparison.seeds, clock, measure=measure, columns=columns)


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
    return (
        *judged(summary),
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
    judged_by = _judged_by(summaries).heading
    headings = (heading.format(judged_by) for heading in (WIDE_HEADINGS if wide else NARROW_HEADINGS))
    table = terminal_table(headings, left=2, padding=(0, 1, 0, 0))
    for summary in summaries:
        waits = (", " if wide else "\n").join(summary.locks) or "nothing"
        cells = _cells(summary) if wide else map(_squeeze, _cells(summary))
        name = summary.method if wide else summary.method.replace("-", "-\n")
        table.add_row(name, waits, *cells, style="red" if summary.failed else None)
    return table


def cuts_table(summaries: Sequence[Summary]) -> Table:
    """Agreement and alignment at each cut: cosine, and ratio of norms."""
    headings = ("method", "cut after", "agreement\n(norms)", "alignment\nrows (norms)", "alignment\nparameters (norms)")
    table = terminal_table(headings, left=2)
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


def _with_norm(figures: Mapping[str, float], prefix: str) -> str:
    if not figures:
        return NOTHING
    return f"{figures[f'{prefix}cosine']:.2f} ({figures[f'{prefix}norm_ratio']:.2f})"


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
    judged_by = (measure or _judged_by(summaries)).heading
    headings = tuple(heading.format(judged_by) for heading in HEADINGS)
    return headings, [(one.method, ", ".join(one.locks) or "nothing", *_cells(one)) for one in summaries]


def summary_markdown(summaries: Sequence[Summary]) -> str:
    """The summary as a Markdown table."""
    headings, rows = summary_rows(summaries)
    return markdown(headings, rows, left=2)
