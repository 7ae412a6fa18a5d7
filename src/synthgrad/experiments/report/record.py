"""A run's folder, read back: what happened in each cell, whatever was compared; of an unfinished run, its beginning."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Probed, Solved, Started, StepDone, decode
from synthgrad.experiments.measures import ERROR, Measure
from synthgrad.experiments.settings import read_toml

__all__ = ["AnyRun", "CellRecord", "Point", "ReportError", "described", "settings_of"]

Point = tuple[int, float]  # step, value
Unit = Callable[[float], float]  # turns a figure as events have it into what is kept of it
Decode = Callable[[str], Any]  # of a line; raises `ValueError` or `TypeError` on what it is not


class ReportError(SynthgradError, ValueError):
    """A folder from which no report can be made."""


@dataclass
class CellRecord:
    """What happened to one method with one seed; values that are not finite are left out.

    Attributes:
        method: the method's name.
        seed: the seed.
        measure: what the run is judged by.
        unit: of `losses`, `valid` and `test`.
        total: steps that were to be done; None if it never started.
        steps: that were done.
        unroll: steps of a window, in time.
        locks: what its updates wait for.
        losses: of each step's batch, or of the steps since the last one told.
        valid: the validation figure that the measure names; errors are shares.
        test: likewise the test figure; None if it did not come to that.
        solved: the longest, each time that it grew.
        figures: `agreement`, `sizes` (of synthetic over target gradient), `rows` (alignment) and `parameters`
            (likewise), each by cut: the ratio or the cosine at its steps.
        failed: why it was given up.
        finished: whether it came to its end.
        result: as kept in `results.jsonl`.
    """

    method: str
    seed: int
    measure: Measure = ERROR
    unit: Unit = float
    total: int | None = None
    steps: int = 0
    unroll: int = 1
    locks: tuple[str, ...] = ()
    losses: list[Point] = field(default_factory=list)
    valid: list[Point] = field(default_factory=list)
    test: float | None = None
    solved: list[Point] = field(default_factory=list)
    figures: dict[str, dict[str, list[Point]]] = field(default_factory=dict)
    failed: str | None = None
    finished: bool = False
    result: Any = None

    def tell(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case Started(settings, locks):
                total = settings.get("steps")
                self.total, self.locks = total if isinstance(total, int) else None, locks
                self.unroll = int(settings.get("unroll", 1))
            case StepDone(step, loss, agreement):
                self.steps = step
                _add(self.losses, step, loss, self.unit)
                self._figure("agreement", step, agreement, "cosine")
                self._figure("sizes", step, agreement, "norm_ratio")
            case Probed(step, alignment):
                self._figure("rows", step, alignment, "cosine")
                self._figure("parameters", step, alignment, "parameter_cosine")
            case Evaluated(_, "test", loss, error):
                self.test = _finite(self.measure.of(error=error, loss=loss), self.unit)
            case Evaluated(step, "valid", loss, error):
                _add(self.valid, step, self.measure.of(error=error, loss=loss), self.unit)
            case Solved(step, longest):
                self.steps = step
                _add(self.solved, step, longest)
            case Failed(step, reason):
                self.steps, self.failed = step, reason
            case Finished(steps):
                self.steps, self.finished = steps, True

    def _figure(self, name: str, step: int, values: Mapping[str, Mapping[str, float]], key: str) -> None:
        for cut, figures in values.items():
            _add(self.figures.setdefault(name, {}).setdefault(cut, []), step, figures.get(key))


def _finite(value: Any, unit: Unit = float) -> float | None:
    return unit(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _add(points: list[Point], step: int, value: Any, unit: Unit = float) -> None:
    if (number := _finite(value, unit)) is not None:
        points.append((step, number))


@dataclass(frozen=True)
class AnyRun:
    """A run's folder.

    Attributes:
        name: of the folder.
        description: the contents of `run.toml`, without the status.
        finished: whether the whole run came to its end.
        cells: in order of methods, then seeds.
        unreadable: how many lines could not be read; the last one of a run that was killed may be cut short.
    """

    name: str
    description: Mapping[str, Any]
    finished: bool
    cells: tuple[CellRecord, ...]
    unreadable: int = 0

    @property
    def methods(self) -> list[str]:
        """The methods, in order."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({cell.seed for cell in self.cells})

    @property
    def steps(self) -> int:
        """The length of the run: as many steps as were to be done, or were done."""
        return max((max(cell.steps, cell.total or 0) for cell in self.cells), default=0)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was compared; nothing if the description does not say."""
        return settings_of(self.description)

    @property
    def asked(self) -> list[str]:
        """The methods that were asked for, whether they were started or not."""
        asked = self.settings.get("methods", [])
        return list(map(str, asked)) if isinstance(asked, list) else []

    def of(self, method: str) -> list[CellRecord]:
        """The cells of a method."""
        return [cell for cell in self.cells if cell.method == method]

    @classmethod
    def read(
        cls, folder: Path, description: Mapping[str, Any], decode_result: Decode, measure: Measure, unit: Unit = float
    ) -> Self:
        """Read what happened.

        Args:
            folder: of the run, finished or not.
            description: of it, as in its `run.toml`.
            decode_result: of a line of `results.jsonl`.
            measure: what the run is judged by.
            unit: of the figures that are kept.
        """
        cells: dict[tuple[str, int], CellRecord] = {}

        def tell(line: str) -> None:
            event, labels = decode(line)
            where = str(labels["method"]), int(labels["seed"])
            cells.setdefault(where, CellRecord(*where, measure, unit)).tell(event)

        def keep(line: str) -> None:
            result = decode_result(line)
            if (cell := cells.get((result.method, result.seed))) is not None:
                cell.result = result

        unreadable = _each_line(folder / "events.jsonl", tell) + _each_line(folder / "results.jsonl", keep)
        name = folder.resolve().name.removesuffix(".partial").lstrip(".")
        rest = {key: value for key, value in description.items() if key != "status"}
        run = cls(name, rest, description.get("status") == "finished", tuple(cells.values()), unreadable)
        order = {method: place for place, method in enumerate(dict.fromkeys([*run.asked, *run.methods]))}
        return replace(run, cells=tuple(sorted(run.cells, key=lambda cell: (order[cell.method], cell.seed))))


def _each_line(path: Path, take: Callable[[str], None]) -> int:
    """Hand over each line of a file, if there is one; how many could not be taken."""
    unreadable = 0
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    take(line)
                except (ValueError, KeyError, TypeError, AttributeError):
                    unreadable += 1
    return unreadable


def described(folder: Path) -> dict[str, Any]:
    """What a run's `run.toml` says.

    Raises:
        ReportError: no `run.toml` or no `events.jsonl` there.
        SettingsError: the `run.toml` is broken.
    """
    for file in ("run.toml", "events.jsonl"):
        if not (folder / file).is_file():
            raise ReportError(f"{folder}: has no {file}; expected the folder of a run, such as runs/digits")
    return read_toml(folder / "run.toml")


def settings_of(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was compared; nothing if the description does not say."""
    table = description.get("comparison", {})
    return table if isinstance(table, Mapping) else {}
