"""A run's folder, read back: what was run, and what happened in each cell; of an unfinished run, as far as it went."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Probed, Started, StepDone, decode
from synthgrad.experiments.measures import ERROR, Measure, measure_of
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.networks import chosen_cuts
from synthgrad.experiments.results import Result, Summary, decode_result, summarize
from synthgrad.experiments.spec import read_toml

__all__ = ["CellRecord", "Point", "ReportError", "Run", "read_run"]

Point = tuple[int, float]  # step, value


class ReportError(SynthgradError, ValueError):
    """A folder from which no report can be made."""


@dataclass
class CellRecord:
    """What happened to one method with one seed; values that are not finite are left out.

    Attributes:
        method: the method's name.
        seed: the seed.
        measure: what the run is judged by.
        total: steps that were to be done; None if it never started.
        steps: that were done.
        locks: what its updates wait for.
        losses: of each step's batch.
        valid: after each epoch, the validation figure that the measure names; an error is a share.
        test: likewise the test figure; None if it did not come to that.
        figures: `agreement`, `rows` (alignment) and `parameters` (likewise), each by cut: the cosine at its steps.
        failed: why it was given up.
        finished: whether it came to its end.
        result: as kept in `results.jsonl`.
    """

    method: str
    seed: int
    measure: Measure = ERROR
    total: int | None = None
    steps: int = 0
    locks: tuple[str, ...] = ()
    losses: list[Point] = field(default_factory=list)
    valid: list[Point] = field(default_factory=list)
    test: float | None = None
    figures: dict[str, dict[str, list[Point]]] = field(default_factory=dict)
    failed: str | None = None
    finished: bool = False
    result: Result | None = None

    def tell(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case Started(settings, locks):
                total = settings.get("steps")
                self.total, self.locks = total if isinstance(total, int) else None, locks
            case StepDone(step, loss, agreement):
                self.steps = step
                _add(self.losses, step, loss)
                self._figure("agreement", step, agreement, "cosine")
            case Probed(step, alignment):
                self._figure("rows", step, alignment, "cosine")
                self._figure("parameters", step, alignment, "parameter_cosine")
            case Evaluated(_, "test", loss, error):
                test = self.measure.of(error=error, loss=loss)
                self.test = test if _is_number(test) else None
            case Evaluated(step, "valid", loss, error):
                _add(self.valid, step, self.measure.of(error=error, loss=loss))
            case Failed(step, reason):
                self.steps, self.failed = step, reason
            case Finished(steps):
                self.steps, self.finished = steps, True

    def _figure(self, name: str, step: int, values: Mapping[str, Mapping[str, float]], key: str) -> None:
        for cut, figures in values.items():
            _add(self.figures.setdefault(name, {}).setdefault(cut, []), step, figures.get(key))

    def outcome(self) -> Result:
        """The kept result; of a cell without one, what the events tell."""
        if self.result is not None:
            return self.result
        return Result(
            self.method,
            self.seed,
            self.steps,
            test_error=self.measure.of(error=self.test, loss=None),
            test_loss=self.measure.of(error=None, loss=self.test),
            locks=self.locks,
            failed=self.failed,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _add(points: list[Point], step: int, value: Any) -> None:
    if _is_number(value):
        points.append((step, float(value)))


@dataclass(frozen=True)
class Run:
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
    def asked(self) -> list[str]:
        """The methods that were asked for, whether they were started or not."""
        asked = self.settings.get("methods", [])
        return list(map(str, asked)) if isinstance(asked, list) else []

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was compared; nothing if the description does not say."""
        return _settings_in(self.description)

    @property
    def measure(self) -> Measure:
        """What the run is judged by."""
        return measure_of(self.settings)

    @property
    def cuts(self) -> list[str]:
        """Names of the cuts at which something was measured."""
        return list(dict.fromkeys(cut for cell in self.cells for cuts in cell.figures.values() for cut in cuts))

    @property
    def stages(self) -> int | None:
        """How many stages there are; None if neither the cuts nor the settings tell."""
        if self.cuts:
            return len(self.cuts) + 1
        layers = self.settings.get("layers")
        if not isinstance(layers, int):
            return None
        try:
            return len(chosen_cuts(str(self.settings.get("cuts", "all")), layers)) + 1
        except SettingsError:
            return None

    def of(self, method: str) -> list[CellRecord]:
        """The cells of a method."""
        return [cell for cell in self.cells if cell.method == method]

    def summaries(self) -> list[Summary]:
        """What the cells come to, over the seeds."""
        return summarize((cell.outcome() for cell in self.cells), self.measure)


def _settings_in(description: Mapping[str, Any]) -> Mapping[str, Any]:
    table = description.get("comparison", {})
    return table if isinstance(table, Mapping) else {}


def read_run(folder: Path) -> Run:
    """Read a run's folder, finished or not.

    Raises:
        ReportError: no `run.toml` or no `events.jsonl` there.
        SettingsError: the `run.toml` is broken.
    """
    for file in ("run.toml", "events.jsonl"):
        if not (folder / file).is_file():
            raise ReportError(f"{folder}: has no {file}; expected the folder of a run, such as runs/digits")
    description = read_toml(folder / "run.toml")
    measure = measure_of(_settings_in(description))
    cells: dict[tuple[str, int], CellRecord] = {}
    unreadable = 0
    with (folder / "events.jsonl").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                event, labels = decode(line)
                where = str(labels["method"]), int(labels["seed"])
                cells.setdefault(where, CellRecord(*where, measure)).tell(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                unreadable += 1
    unreadable += _add_results(folder / "results.jsonl", cells)
    status = description.pop("status", None)
    name = folder.resolve().name.removesuffix(".partial").lstrip(".")
    run = Run(name, description, status == "finished", tuple(cells.values()), unreadable)
    order = {method: place for place, method in enumerate(dict.fromkeys([*run.asked, *run.methods]))}
    return replace(run, cells=tuple(sorted(run.cells, key=lambda cell: (order[cell.method], cell.seed))))


def _add_results(path: Path, cells: Mapping[tuple[str, int], CellRecord]) -> int:
    """Give the cells their results; how many lines could not be read."""
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            result = decode_result(line)
        except (ValueError, TypeError):
            unreadable += 1
            continue
        if (cell := cells.get((result.method, result.seed))) is not None:
            cell.result = result
    return unreadable
