"""Tables of a suite: ours, the paper's below, and how far a run has come."""

from io import StringIO
from typing import Any

from rich.console import Console
from suite_cells import result_of

from synthgrad.core.events import Finished, Started, StepDone
from synthgrad.experiments.suites.catalog import suite_named
from synthgrad.experiments.suites.suite import Cell, Suite, Table
from synthgrad.experiments.suites.tables import SuiteBoard, suite_markdown, suite_table


def cell(suite: Suite, row: str, column: str, seed: int = 0) -> Cell:
    return Cell(next(one for one in suite.entries if (one.row, one.column) == (row, column)), seed)


def table2(*figures: tuple[str, str, int, float]) -> Table:
    suite = suite_named("table2", "small")
    return Table.of(
        suite, [result_of(cell(suite, row, column, seed), test_error=error) for row, column, seed, error in figures]
    )


def test_markdown_has_the_papers_figure_below_ours_and_how_we_know_it() -> None:
    table = table2(("FCN 3", "bp", 0, 0.01), ("FCN 3", "bp", 1, 0.03), ("FCN 3", "cdni", 0, 0.04))
    lines = suite_markdown(table).splitlines()
    assert lines[0] == "| test error % | bp | cdni |"
    assert lines[2] == "| FCN 3 | 2.00 ± 1.41 | 4.00 (n = 1) |"
    assert lines[3] == "| *paper (recalled, corroborated)* | *2* | *2.2* |"
    text = "\n".join(lines)
    assert "*recalled, corroborated*: from memory, and in part the same in an independent source" in text
    assert "- FCN 3: cdni is +2.00 points from back-propagation (to be within 0.2): not reached, by one seed" in text
    assert "Not trained: FCN 4, FCN 5, FCN 6, CNN 3" in text and "Small budget" in text


def test_failed_cells_are_shown() -> None:
    suite = suite_named("table2", "small")
    results = [
        result_of(cell(suite, "FCN 3", "bp"), failed="NaN"),
        result_of(cell(suite, "FCN 3", "dni"), test_error=0.5),
    ]
    results.append(result_of(cell(suite, "FCN 3", "dni", 1), failed="NaN"))
    assert "| FCN 3 | 1 failed | 50.00 (1 failed) |" in suite_markdown(Table.of(suite, results))


def test_rows_that_are_measured_otherwise_say_so() -> None:
    suite = suite_named("table1", "small")
    results = [result_of(cell(suite, "Copy, T = 2", "bptt"), solved=7)]
    results.append(result_of(cell(suite, "Penn Treebank, T = 2", "bptt"), test_bits=1.5))
    text = suite_markdown(Table.of(suite, results))
    assert "| Copy, T = 2: longest solved (characters) | 7.0 |" in text
    assert "| Penn Treebank, T = 2: bits per character (bits) | 1.500 |" in text and "*1.39*" in text


def drawn(shown: Any) -> str:
    console = Console(width=80, record=True, file=StringIO())
    console.print(shown)
    return console.export_text()


def test_a_terminal_of_80_columns_has_the_same_figures() -> None:
    columns = ("bp", "zero", "dni", "cdni", "sobolev", "local-block")
    figures = [("FCN 3", column, seed, 0.1 * (seed + 1)) for column in columns for seed in (0, 1)]
    shown = drawn(suite_table(table2(*figures)))
    assert "FCN 3" in shown and shown.count("15.00±7.07") == 6 and "…" not in shown
    assert "paper" in shown and "9.3" in shown


def test_the_board_counts_cells_and_tells_the_time_left_of_those_that_are_to_be_trained() -> None:
    suite = suite_named("unlock", "small")
    first, second = suite.cells(2)[:2]
    there = [result_of(one, test_error=0.01) for one in suite.cells(2) if one not in (first, second)]
    now = [0.0]
    board = SuiteBoard(suite, there, [first, second], 2, clock=lambda: now[0])
    assert board.headline().startswith("cell 1 of 2 · ") and "starting" in board.headline()
    labels = {"method": first.entry.label, "seed": 0}
    board.tell(Started({"steps": 100}), labels)
    now[0] = 10.0
    board.tell(StepDone(50, 0.1, {}), labels)
    # 50 steps in 10 s: 50 more of this cell, and 100 of the other one, are 30 s; nothing of what was there before.
    assert "cell 1 of 2: back-propagation, bp" in board.headline() and "about 30 s left" in board.headline()
    board.tell(StepDone(100, 0.1, {}), labels)
    board.tell(Finished(100, 10.0), labels)
    board.keep(result_of(first, test_error=0.5))
    assert board.headline().startswith("cell 2 of 2")
    shown = drawn(board).splitlines()
    assert "cell 2 of 2" in shown[0] and any(line.startswith("error %") for line in shown[1:])
    assert any("25.50" in line for line in shown)
