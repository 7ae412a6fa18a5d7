"""Results as lines of JSON, one for each cell (a method with a seed), and what they come to over the seeds."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar, cast

from synthgrad.core.errors import SynthgradError
from synthgrad.experiments.measures import Measure, measure_of

__all__ = [
    "BASELINE",
    "Difference",
    "Judged",
    "Result",
    "ResultsError",
    "Spread",
    "Summary",
    "by_method",
    "confidence",
    "decode_as",
    "decode_result",
    "encode_result",
    "judge",
    "read_lines",
    "read_results",
    "summarize",
    "t_quantile",
]

BASELINE = "bp"  # what the others are compared with
Kind = TypeVar("Kind")
Cell = TypeVar("Cell", bound=Any)
Figures = Mapping[str, Mapping[str, float]]  # by cut, then by the figure's name


class ResultsError(SynthgradError, ValueError):
    """A file of results cannot be read or written; the message names the file and the line."""


@dataclass(frozen=True)
class Result:
    """One cell: one method trained with one seed.

    Attributes:
        method: the method's name.
        seed: of weights, batches and fold.
        steps: that were done.
        test_error: of the plain model on the test part after training, a share from 0 to 1; None if the cell failed.
        test_loss: likewise.
        valid_error: likewise, on the validation part.
        valid_loss: likewise.
        ms_per_step: median over all steps of the time that a step took, in milliseconds.
        locks: what updates wait for, computed from the plan.
        agreement: by cut, the median over all steps of each figure of `Agreement`; nothing if the cell failed.
        alignment: by cut, the median over all probes of each figure of `Alignment`; likewise.
        failed: why the cell was cut short; None if it was not.
        settings: of the comparison.
        recipe: what the method is made of (`recipes`); nothing in results from before that was written down.
        versions: of Python and the packages.
        hardware: processor, cores, threads.
        command: the command line.
    """

    method: str
    seed: int
    steps: int
    test_error: float | None = None
    test_loss: float | None = None
    valid_error: float | None = None
    valid_loss: float | None = None
    ms_per_step: float | None = None
    locks: tuple[str, ...] = ()
    agreement: Figures = field(default_factory=dict)
    alignment: Figures = field(default_factory=dict)
    failed: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str | int] = field(default_factory=dict)
    command: str = ""


def encode_result(result: Any) -> str:
    """A result, or another dataclass, as one line of JSON, without the line's end."""
    return json.dumps(asdict(result))


def decode_result(line: str) -> Result:
    """The inverse of `encode_result`. Raises `ValueError` on anything else."""
    result = decode_as(Result, line)
    return replace(result, locks=tuple(result.locks))


def decode_as(kind: Callable[..., Kind], line: str) -> Kind:
    """A line of JSON as a dataclass. Raises `ValueError` if it is not that."""
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("not an object")
    known = fields(cast(Any, kind))
    if unknown := sorted(set(values) - {one.name for one in known}):
        raise ValueError(f"unknown field {unknown[0]!r}")
    needed = (one.name for one in known if one.default is MISSING and one.default_factory is MISSING)
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"no field {missing[0]!r}")
    return kind(**values)


def read_results(path: Path) -> list[Result]:
    """Read a file of results; see `read_lines`."""
    return read_lines(path, decode_result)


def read_lines(path: Path, decode: Callable[[str], Kind]) -> list[Kind]:
    """Read a file of which each line is a result; blank lines are passed over.

    Args:
        path: the file.
        decode: of a line; raises `ValueError` or `TypeError` on what is none.

    Raises:
        ResultsError: the file cannot be read, or a line is broken; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read: {error}") from None
    found: list[Kind] = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                found.append(decode(line))
        except (ValueError, TypeError) as error:
            raise ResultsError(
                f"{path}, line {number}: {error}; expected one result as `synthgrad compare --results` writes it: "
                f"remove the line, or measure anew"
            ) from None
    return found


# ---- over the seeds --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over `n` seeds; of a single seed there is no deviation."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, and half the width of its 95 % t-interval; a single pair has no interval."""

    mean: float
    half_width: float | None
    n: int


@dataclass(frozen=True)
class Judged:
    """What the cells of a method come to, of whatever kind they are.

    Attributes:
        method: the method's name.
        failed: how many cells failed; they enter no figure below.
        measure: what the cells are judged by.
        score: that figure over the seeds, as it is in the results: errors are shares from 0 to 1.
        difference: of that figure to the baseline with the same seed; None for the baseline, or without it.
        ms_per_step: mean over the seeds of the cells' medians.
        times: how many times as long as the baseline's a step takes, mean over the seeds.
    """

    method: str
    failed: int
    measure: Measure
    score: Spread | None
    difference: Difference | None
    ms_per_step: float | None
    times: float | None


def judge(
    cells: Sequence[Any], baseline: Mapping[int, Any], score: Callable[[Any], float | None], measure: Measure
) -> Judged:
    """Judge the cells of a method.

    Args:
        cells: all of one method.
        baseline: by seed, the cells to compare them with, which may be the same.
        score: what a cell is judged by; None if it has no such figure.
        measure: what that figure is.
    """
    done = [cell for cell in cells if cell.failed is None]
    pairs = [(cell, baseline[cell.seed]) for cell in done if cell.seed in baseline]
    scores = [value for cell in done if (value := score(cell)) is not None]
    both = [(score(one), score(base)) for one, base in pairs if one is not base]
    gaps = [ours - its for ours, its in both if ours is not None and its is not None]
    times = [cell.ms_per_step for cell in done if cell.ms_per_step is not None]
    ratios = [ours.ms_per_step / its.ms_per_step for ours, its in pairs if ours.ms_per_step and its.ms_per_step]
    return Judged(
        cells[0].method,
        failed=len(cells) - len(done),
        measure=measure,
        score=Spread(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores)) if scores else None,
        difference=confidence(gaps) if gaps else None,
        ms_per_step=fmean(times) if times else None,
        times=fmean(ratios) if ratios else None,
    )


@dataclass(frozen=True)
class Summary(Judged):
    """What the cells of a method come to, in depth.

    Attributes:
        locks: what its updates wait for.
        agreement: by cut, mean over the seeds.
        alignment: likewise.
    """

    locks: tuple[str, ...]
    agreement: Figures
    alignment: Figures


def summarize(results: Iterable[Result], measure: Measure | None = None) -> list[Summary]:
    """What the cells come to, method by method, in the order in which the methods first appear.

    Args:
        results: the cells, all of one comparison.
        measure: what they are judged by; if not given, what the settings of the first one say.
    """
    cells = list(results)
    judged_by = measure or measure_of(cells[0].settings if cells else {})
    baseline = {cell.seed: cell for cell in cells if cell.method == BASELINE and cell.failed is None}

    def tested(cell: Result) -> float | None:
        return judged_by.of(error=cell.test_error, loss=cell.test_loss)

    def summary(own: list[Result]) -> Summary:
        done = [cell for cell in own if cell.failed is None]
        return Summary(
            **vars(judge(own, baseline, tested, judged_by)),
            locks=own[0].locks,
            agreement=_mean_figures([cell.agreement for cell in done]),
            alignment=_mean_figures([cell.alignment for cell in done]),
        )

    return [summary(own) for own in by_method(cells)]


def by_method(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each method, in the order in which the methods first appear."""
    methods: dict[str, list[Cell]] = {}
    for cell in cells:
        methods.setdefault(cell.method, []).append(cell)
    return list(methods.values())


def _mean_figures(all_figures: list[Figures]) -> dict[str, dict[str, float]]:
    if not all_figures:
        return {}
    return {
        cut: {name: fmean(figures[cut][name] for figures in all_figures if cut in figures) for name in first}
        for cut, first in all_figures[0].items()
    }


def confidence(differences: list[float]) -> Difference:
    """Mean of paired differences with its 95 % interval by Student's t.

    >>> confidence([1.0, 2.0, 3.0])
    Difference(mean=2.0, half_width=2.484..., n=3)
    """
    n = len(differences)
    half_width = t_quantile(n - 1) * stdev(differences) / math.sqrt(n) if n > 1 else None
    return Difference(fmean(differences), half_width, n)


# The 0.975 quantile of Student's t for 1 to 30 degrees of freedom.
T_QUANTILES = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t; beyond the table by its expansion, right to six digits there.

    Reference:
        M. Abramowitz, I. A. Stegun. Handbook of Mathematical Functions, 1964, eq. 26.7.5.
    """
    if freedom < 1:
        raise ValueError(f"t_quantile: got {freedom} degrees of freedom, expected at least 1")
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    z = 1.959963985
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
