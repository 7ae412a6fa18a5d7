"""Results in time as lines of JSON, one for each cell (a method with a seed), and what they come to over the seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from synthgrad.experiments.measures import Measure
from synthgrad.experiments.recurrent.tasks import TASKS
from synthgrad.experiments.results import Difference, Spread, confidence, decode_as, read_lines

__all__ = [
    "BASELINE",
    "RecurrentResult",
    "RecurrentSummary",
    "decode_recurrent",
    "read_recurrent_results",
    "recurrent_summaries",
]

BASELINE = "bptt"  # the kind that the others are compared with, at the same window


@dataclass(frozen=True)
class RecurrentResult:
    """One cell: one method trained with one seed.

    Attributes:
        task: the task's name.
        method: the method's name, with its window and its own settings.
        unroll: T.
        seed: of weights and sequences.
        steps: windows that were learned from, an update each.
        characters: steps of all lanes that were read meanwhile.
        solved: the longest that was solved, counted as in the paper's table (`Copying.solved`); None for text.
        valid_bits: bits of a character on the validation part after training; None for copying, or if the cell failed.
        test_bits: likewise, on the test part.
        seconds: that the steps took, all together.
        ms_per_step: median over all steps, in milliseconds.
        agreement: the median over the steps looked at of each figure of `Agreement` at the cut; nothing without one.
        failed: why the cell was cut short; None if it was not.
        settings: of the method.
        versions: of Python and the packages.
        hardware: processor, cores, threads.
        command: the command line.
    """

    task: str
    method: str
    unroll: int
    seed: int
    steps: int
    characters: int = 0
    solved: int | None = None
    valid_bits: float | None = None
    test_bits: float | None = None
    seconds: float | None = None
    ms_per_step: float | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str | int] = field(default_factory=dict)
    command: str = ""

    @property
    def score(self) -> float | None:
        """What it is judged by; None if it failed."""
        if self.failed is not None:
            return None
        return self.test_bits if self.solved is None else float(self.solved)


def decode_recurrent(line: str) -> RecurrentResult:
    """The inverse of `encode_result`. Raises `ValueError` on anything else."""
    return decode_as(RecurrentResult, line)


def read_recurrent_results(path: Path) -> list[RecurrentResult]:
    """Read a file of results; blank lines are passed over.

    Raises:
        ResultsError: the file cannot be read, or a line is broken; names the line.
    """
    return read_lines(path, decode_recurrent)


@dataclass(frozen=True)
class RecurrentSummary:
    """What a method's cells come to.

    Attributes:
        method: the method's name.
        unroll: T.
        steps: of a cell.
        failed: how many cells failed; they enter no figure below.
        measure: what the cells are judged by.
        score: over the seeds.
        difference: of the score to that of truncated back-propagation at the same T, with the same seed; None where
            there is none, and for it itself.
        ratio: of the mean scores, likewise; None for text.
        ms_per_step: mean over the seeds of the cells' medians.
        times: how many times as long as the baseline's a step takes, mean over the seeds.
        agreement: cosine at the cut, mean over the seeds.
    """

    method: str
    unroll: int
    steps: int
    failed: int
    measure: Measure
    score: Spread | None
    difference: Difference | None
    ratio: float | None
    ms_per_step: float | None
    times: float | None
    agreement: float | None


def recurrent_summaries(results: Iterable[RecurrentResult]) -> list[RecurrentSummary]:
    """What the cells come to, method by method, in the order in which the methods first appear."""
    cells = list(results)
    return [
        _summary([cell for cell in cells if cell.method == method], cells)
        for method in dict.fromkeys(cell.method for cell in cells)
    ]


def _summary(cells: list[RecurrentResult], everyone: list[RecurrentResult]) -> RecurrentSummary:
    first = cells[0]
    base = _baseline(first, everyone)
    done = [cell for cell in cells if cell.failed is None]
    scores = [cell.score for cell in done if cell.score is not None]
    pairs = [(cell, base[cell.seed]) for cell in done if cell.seed in base]
    gaps = [ours.score - its.score for ours, its in pairs if ours.score is not None and its.score is not None]
    levels = [its.score for _, its in pairs if its.score is not None]
    ratios = [ours.ms_per_step / its.ms_per_step for ours, its in pairs if ours.ms_per_step and its.ms_per_step]
    times = [cell.ms_per_step for cell in done if cell.ms_per_step is not None]
    cosines = [cell.agreement["cosine"] for cell in done if "cosine" in cell.agreement]
    return RecurrentSummary(
        first.method,
        first.unroll,
        max(cell.steps for cell in cells),
        failed=len(cells) - len(done),
        measure=TASKS[first.task].measure,
        score=Spread(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores)) if scores else None,
        difference=confidence(gaps) if gaps else None,
        ratio=fmean(scores) / fmean(levels) if scores and any(levels) and not TASKS[first.task].text else None,
        ms_per_step=fmean(times) if times else None,
        times=fmean(ratios) if ratios else None,
        agreement=fmean(cosines) if cosines else None,
    )


def _baseline(cell: RecurrentResult, everyone: list[RecurrentResult]) -> dict[int, RecurrentResult]:
    """By seed, truncated back-propagation at the same T; the first one, if several differ in their settings."""
    name = next((one.method for one in everyone if _is_baseline(one) and one.unroll == cell.unroll), None)
    if name in (None, cell.method):
        return {}
    return {one.seed: one for one in everyone if one.method == name and one.failed is None}


def _is_baseline(cell: RecurrentResult) -> bool:
    return cell.method.partition(":")[0] == f"{BASELINE}-{cell.unroll}"
