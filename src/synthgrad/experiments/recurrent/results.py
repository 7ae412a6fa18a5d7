"""Results in time as lines of JSON, one for each cell (a method with a seed), and what they come to over the seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from synthgrad.experiments.recurrent.tasks import TASKS
from synthgrad.experiments.results import Judged, by_method, decode_as, judge, read_lines

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
        curve: what it would have been judged by on the way: update and the longest solved, each time that it grew, or
            bits of a character on the validation part, each time that they were measured.
        failed: why the cell was cut short; None if it was not.
        settings: of the method.
        recipe: what the method is made of (`recipes`); nothing in results from before that was written down.
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
    curve: tuple[tuple[int, float], ...] = ()
    failed: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
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
    result = decode_as(RecurrentResult, line)
    return replace(result, curve=tuple((step, score) for step, score in result.curve))


def read_recurrent_results(path: Path) -> list[RecurrentResult]:
    """Read a file of results; blank lines are passed over.

    Raises:
        ResultsError: the file cannot be read, or a line is broken; names the line.
    """
    return read_lines(path, decode_recurrent)


@dataclass(frozen=True)
class RecurrentSummary(Judged):
    """What the cells of a method come to, in time; the baseline is truncated back-propagation at the same T.

    Attributes:
        unroll: T.
        steps: of a cell.
        ratio: of the mean score to the baseline's; None for text.
        agreement: cosine at the cut, mean over the seeds.
    """

    unroll: int
    steps: int
    ratio: float | None
    agreement: float | None


def recurrent_summaries(results: Iterable[RecurrentResult]) -> list[RecurrentSummary]:
    """What the cells come to, method by method, in the order in which the methods first appear."""
    cells = list(results)
    return [_summary(own, cells) for own in by_method(cells)]


def _summary(cells: list[RecurrentResult], everyone: list[RecurrentResult]) -> RecurrentSummary:
    task = TASKS[cells[0].task]
    base = _baseline(cells[0], everyone)
    judged = judge(cells, base, lambda cell: cell.score, task.measure)
    done = [cell for cell in cells if cell.failed is None]
    levels = [base[cell.seed].score or 0.0 for cell in done if cell.seed in base]
    cosines = [cell.agreement["cosine"] for cell in done if "cosine" in cell.agreement]
    return RecurrentSummary(
        **vars(judged),
        unroll=cells[0].unroll,
        steps=max(cell.steps for cell in cells),
        ratio=judged.score.mean / fmean(levels) if judged.score and any(levels) and not task.text else None,
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
