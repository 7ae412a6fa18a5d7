"""Tables of a suite: the live one, the final one for a terminal, and the same as Markdown, with the paper's figures."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from synthgrad.core.events import Event
from synthgrad.experiments.board import lap_bar
from synthgrad.experiments.columns import NOTHING, markdown, terminal_table
from synthgrad.experiments.progress import Progress
from synthgrad.experiments.results import Judged
from synthgrad.experiments.suites.paper import SOURCES
from synthgrad.experiments.suites.suite import AnyResult, Cell, Suite, Table

__all__ = ["SuiteBoard", "suite_markdown", "suite_table"]


class SuiteBoard:
    """The live table, which fills up: fed with events and results, drawn whenever rich asks.

    Args:
        suite: what is run.
        results: that there are already.
        cells: that are to be trained.
        seeds: how many of each entry there are to be.
        clock: seconds, running forward.
    """

    def __init__(
        self,
        suite: Suite,
        results: Sequence[AnyResult],
        cells: Sequence[Cell],
        seeds: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.suite, self.total, self.ended = suite, len(cells), 0
        waiting = Counter(cell.entry.label for cell in cells)
        self.methods = tuple(waiting)
        self._results = list(results)
        self._progress = Progress(self.methods, seeds, clock)
        for label, count in waiting.items():
            self._progress.laps[label].ended = seeds - count
        self._label: str | None = None
        self._drawn = suite_table(Table.of(suite, self._results))

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the entry's label as `method`, and the seed."""
        self._progress.tell(event, labels)
        self._label = labels["method"]

    def keep(self, result: AnyResult) -> None:
        """Take in a result."""
        self.ended += 1
        self._results.append(result)
        self._drawn = suite_table(Table.of(self.suite, self._results))

    def headline(self) -> str:
        """At which cell it is, for how long it has run, and how long it will."""
        at = f"cell {min(self.ended + 1, self.total)} of {self.total}"
        return f"{at}{': ' + self._label if self._label else ''} · {self._progress.headline()}"

    def __rich__(self) -> RenderableType:
        at = Drawn.grid(padding=(0, 2, 0, 0))
        bar = [lap_bar(self._progress.laps[self._label])] if self._label else []
        at.add_row(*bar, Text(self.headline(), style="dim"))
        return Group(at, self._drawn)


# ---- what came out ---------------------------------------------------------------------------------------------------


def suite_table(table: Table) -> Drawn:
    """For a terminal: a line for each row, and the paper's below it."""
    headings, rows = _rows(table)
    narrow = (heading.replace("test ", "test\n").replace("-", "-\n").replace(", ", ",\n") for heading in headings)
    drawn = terminal_table(narrow, left=1, padding=(0, 1, 0, 0))
    for (name, *cells), ours in rows:
        label = name if ours else name.partition(" (")[0]  # so that it fits into 80 columns
        drawn.add_row(label, *(cell.replace(" ± ", "±") for cell in cells), style="" if ours else "dim")
    return drawn


def suite_markdown(table: Table) -> str:
    """The table as Markdown, what it shows, and how it was trained."""
    headings, rows = _rows(table)
    lines = [cells if ours else tuple(_slanted(cell) for cell in cells) for cells, ours in rows]
    sources = dict.fromkeys(table.suite.paper[row].source for row in table.rows if row in table.suite.paper)
    told = "; ".join(f"*{source}*: {SOURCES[source]}" for source in sources)
    untrained = dict.fromkeys(entry.row for entry in table.suite.entries if entry.row not in table.rows)
    parts = [
        markdown(headings, lines, left=1),
        "".join(f"- {claim}\n" for claim in table.suite.claims(table)),
        table.suite.setting + (f" Of the paper's figures: {told}." if told else ""),
        f"Not trained: {', '.join(untrained)}." if untrained else "",
    ]
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts if part)


def _slanted(cell: str) -> str:
    return cell if cell == NOTHING else f"*{cell}*"


def _rows(table: Table) -> tuple[list[str], list[tuple[tuple[str, ...], bool]]]:
    """The headings; and the lines, with whether they are ours or the paper's."""
    measures = {row: figure.measure for (row, _), figure in table.figures.items()}
    headings = {measure.heading for measure in measures.values()}
    lines: list[tuple[tuple[str, ...], bool]] = []
    seeds = max((figure.score.n for figure in table.figures.values() if figure.score), default=0)
    for row in table.rows:
        name = row if len(headings) == 1 else f"{row}: {measures[row].heading}"
        figures = (table.figures.get((row, column)) for column in table.columns)
        lines.append(((name, *(_figure(figure, seeds) for figure in figures)), True))
        if paper := table.suite.paper.get(row):
            said = (paper.figures.get(column) for column in table.columns)
            cells = (NOTHING if one is None else f"{one:g}" for one in said)
            lines.append(((f"paper ({paper.source})", *cells), False))
    return [f"test {headings.pop()}" if len(headings) == 1 else "", *table.columns], lines


def _figure(figure: Judged | None, seeds: int) -> str:
    """Mean ± standard deviation; and of how many seeds, where they are fewer than elsewhere."""
    if figure is None:
        return NOTHING
    failed = f"{figure.failed} failed" if figure.failed else ""
    if figure.score is None:
        return failed
    notes = [f"n = {figure.score.n}"] * (figure.score.n < seeds) + [failed] * bool(failed)
    return figure.measure.spread(figure.score.mean, figure.score.std) + (f" ({', '.join(notes)})" if notes else "")
