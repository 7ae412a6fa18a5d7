"""The suite on sequences: table 1, recurrent nets whose windows are shorter than what they are to remember."""

from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.suites import claims, paper
from synthgrad.experiments.suites.suite import Entry, Suite

__all__ = ["table1"]

COLUMNS = ("bptt", "dni", "dni-aux", "logistic")
ALONE = (20, 40)  # windows that the paper has for back-propagation through time alone

SMALL = (
    "Small budget, shorter than the paper's: an LSTM of 128 units, 64 sequences side by side, 20,000 windows, Adam "
    "1e-3 (Penn Treebank: 256 units, 32 lanes, 10,000 windows)."
)
FULL = (
    "As in the paper: an LSTM of 256 units (Penn Treebank: 1,024), 256 sequences side by side, Adam 7e-5 for all, "
    "synthetic gradients times 0.1; but 500,000 windows, as we do not know after how many the paper stopped."
)


def table1(budget: str) -> Suite:
    """No true gradient passes between windows of T steps."""
    return Suite(
        "table1",
        "Table 1: recurrent nets, and no true gradient between windows of T steps",
        budget,
        FULL if budget == "full" else SMALL,
        tuple(
            entry
            for title, task, windows in (
                ("Copy", "copy", (2, 3, 4, 5)),
                ("Repeat Copy", "repeat-copy", (2, 3, 4, 5)),
                ("Penn Treebank", "ptb", (2, 3, 4, 5, 8, *ALONE)),
            )
            for window in windows
            for entry in _row(f"{title}, T = {window}", budget, task, window)
        ),
        paper.TABLE_1,
        claims.table1,
    )


def _row(row: str, budget: str, task: str, window: int) -> list[Entry]:
    settings: dict[str, object] = {"unroll": window}
    if budget == "full":
        rates = {"lr": 7e-5, "synthesizer_lr": 7e-5, "scale": 0.1}
        settings |= rates | {"units": 1024 if task == "ptb" else 256, "batch": 256, "steps": 500_000}
    comparison = RecurrentComparison.suited_to(task, **settings)
    methods = [(column, comparison.method(column)) for column in (COLUMNS[:1] if window in ALONE else COLUMNS)]
    return [
        Entry(row, column, method.training, method.name, lambda _seed, method=method: method)
        for column, method in methods
    ]
