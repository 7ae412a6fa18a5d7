"""The paper's figures, to stand beside ours, and how we know them.

M. Jaderberg et al. Decoupled Neural Interfaces using Synthetic Gradients. arXiv:1608.05343; ICML 2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CORROBORATED", "READ", "RECALLED", "Row", "SINGLE", "SOURCES", "SPORADIC", "TABLE_1", "TABLE_2", "UNLOCK"]

READ = "read"
CORROBORATED = "recalled, corroborated"
RECALLED = "recalled"
SOURCES: Mapping[str, str] = MappingProxyType(
    {
        READ: "in a source that cites the paper",
        CORROBORATED: "from memory, and in part the same in an independent source",
        RECALLED: "from memory, not checked against the paper itself",
    }
)


@dataclass(frozen=True)
class Row:
    """The paper's figures in a row.

    Attributes:
        figures: by column: errors in percent, lengths, or bits.
        source: how we know them: `READ`, `CORROBORATED` or `RECALLED`.
    """

    figures: Mapping[str, float]
    source: str


_COLUMNS = ("zero", "bp", "dni", "cdni")


def _errors(source: str, *errors: float) -> Row:
    return Row(dict(zip(_COLUMNS, errors, strict=True)), source)


# Table 2, left half MNIST, right half CIFAR-10: test error in percent after 500,000 steps.
TABLE_2: Mapping[str, Row] = MappingProxyType(
    {
        "FCN 3": _errors(CORROBORATED, 9.3, 2.0, 1.9, 2.2),
        "FCN 4": _errors(RECALLED, 12.6, 1.8, 2.2, 1.9),
        "FCN 5": _errors(RECALLED, 16.2, 1.8, 3.4, 1.7),
        "FCN 6": _errors(RECALLED, 21.4, 1.8, 4.3, 1.6),
        "CNN 3": _errors(RECALLED, 0.9, 0.8, 0.9, 1.0),
        "CNN 4": _errors(RECALLED, 2.8, 0.6, 0.7, 0.8),
        "CIFAR-10 FCN 3": _errors(CORROBORATED, 54.9, 43.5, 42.5, 48.5),
        "CIFAR-10 FCN 4": _errors(RECALLED, 57.2, 43.0, 45.0, 45.1),
        "CIFAR-10 FCN 5": _errors(RECALLED, 59.6, 41.7, 46.9, 43.5),
        "CIFAR-10 FCN 6": _errors(RECALLED, 61.9, 42.0, 49.7, 46.8),
        "CIFAR-10 CNN 3": _errors(RECALLED, 28.7, 17.9, 19.5, 19.0),
        "CIFAR-10 CNN 4": _errors(RECALLED, 38.1, 15.7, 19.5, 16.4),
    }
)

# One synthetic gradient inside a fully connected net of 6 layers.
SINGLE: Mapping[str, Row] = MappingProxyType(
    {
        "no cut": Row({"bp": 1.6}, RECALLED),
        "cut after layer 1": Row({"zero": 2.9, "dni": 1.8}, RECALLED),
        "cut after layer 5": Row({"zero": 23.7, "dni": 3.4}, RECALLED),
    }
)

# A layer is updated with probability p in each step; FCN of 4 layers.
SPORADIC: Mapping[str, Row] = MappingProxyType({"p = 0.2": Row({"cdni, equal updates": 2.0}, READ)})

UNLOCK: Mapping[str, Row] = MappingProxyType({"inputs and gradients predicted": Row({"cdni": 2.0}, READ)})


def _windows(bptt: str, dni: str, auxiliary: str) -> dict[int, Mapping[str, float]]:
    """Figures by T, for T = 2, 3, 4, 5, 8, 20, 40; a dash where there is none."""
    found: dict[int, dict[str, float]] = {}
    for name, written in (("bptt", bptt), ("dni", dni), ("dni-aux", auxiliary)):
        for window, figure in zip((2, 3, 4, 5, 8, 20, 40), written.split(), strict=False):
            if figure != "-":
                found.setdefault(window, {})[name] = float(figure)
    return dict(found)


# Table 1: the longest sequence solved, and bits of a character of Penn Treebank.
TABLE_1: Mapping[str, Row] = MappingProxyType(
    {
        f"{task}, T = {window}": Row(figures, CORROBORATED)
        for task, windows in {
            "Copy": _windows("7 8 10 8", "16 14 18 18", "16 17 19 18"),
            "Repeat Copy": _windows("7 5 19 23", "39 33 39 59", "39 59 67 59"),
            "Penn Treebank": _windows(
                "1.39 1.38 1.37 1.37 1.35 1.35 1.34", "1.37 1.36 1.35 1.35 1.34", "1.37 1.36 1.35 1.35 1.33"
            ),
        }.items()
        for window, figures in windows.items()
    }
)
