"""The folder of a comparison in time, read back; of an unfinished run, as far as it went."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthgrad.core.events import Evaluated, Event, Failed, Finished, Solved, Started, StepDone, decode
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.results import (
    RecurrentResult,
    RecurrentSummary,
    decode_recurrent,
    recurrent_summaries,
)
from synthgrad.experiments.recurrent.tasks import TASKS, Task, in_bits
from synthgrad.experiments.report.run import Point

__all__ = ["RecurrentRecord", "RecurrentRun", "read_recurrent_run"]


@dataclass
class RecurrentRecord:
    """What happened to one method with one seed; values that are not finite are left out. Places are updates.

    Attributes:
        method: the method's name.
        seed: the seed.
        unroll: T.
        total: updates that were to be done; None if it never started.
        steps: that were done.
        bits: of a loss term, while training.
        solved: the longest, each time that it grew.
        valid: bits of a character on the validation part.
        test: likewise on the test part; None if it did not come to that.
        agreement: cosine at the cut.
        sizes: likewise, norm of the synthetic gradient over that of its target.
        failed: why it was given up.
        finished: whether it came to its end.
        result: as kept in `results.jsonl`.
    """

    method: str
    seed: int
    unroll: int = 1
    total: int | None = None
    steps: int = 0
    bits: list[Point] = field(default_factory=list)
    solved: list[Point] = field(default_factory=list)
    valid: list[Point] = field(default_factory=list)
    test: float | None = None
    agreement: list[Point] = field(default_factory=list)
    sizes: list[Point] = field(default_factory=list)
    failed: str | None = None
    finished: bool = False
    result: RecurrentResult | None = None

    def tell(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case Started(settings):
                self.total, self.unroll = int(settings["steps"]), int(settings["unroll"])
            case StepDone(step, loss, agreement):
                self.steps = step
                _add(self.bits, step, loss, in_bits)
                for figures in agreement.values():
                    _add(self.agreement, step, figures.get("cosine"))
                    _add(self.sizes, step, figures.get("norm_ratio"))
            case Solved(step, longest):
                self.steps = step
                _add(self.solved, step, longest)
            case Evaluated(_, "test", loss, _):
                self.test = in_bits(loss) if _is_number(loss) else None
            case Evaluated(step, _, loss, _):
                _add(self.valid, step, loss, in_bits)
            case Failed(step, reason):
                self.steps, self.failed = step, reason
            case Finished(steps):
                self.steps, self.finished = steps, True

    def outcome(self, task: Task) -> RecurrentResult:
        """The kept result; of a cell without one, what the events tell: of one cut short, nothing to judge it by."""
        if self.result is not None:
            return self.result
        longest = int(self.solved[-1][1]) if self.solved else 0
        solved = longest if self.finished and not task.text else None
        return RecurrentResult(
            task.name,
            self.method,
            self.unroll,
            self.seed,
            self.steps,
            solved=solved,
            test_bits=self.test,
            failed=self.failed,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _add(points: list[Point], step: int, value: Any, unit: Any = float) -> None:
    if _is_number(value):
        points.append((step, float(unit(value))))


@dataclass(frozen=True)
class RecurrentRun:
    """A run's folder.

    Attributes:
        name: of the folder.
        description: the contents of `run.toml`, without the status.
        task: what was trained on.
        finished: whether the whole run came to its end.
        cells: in order of methods, then seeds.
        unreadable: how many lines could not be read.
    """

    name: str
    description: Mapping[str, Any]
    task: Task
    finished: bool
    cells: tuple[RecurrentRecord, ...]
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
    def asked(self) -> list[str]:
        """The methods that were asked for, whether they were started or not."""
        asked = self.description.get("comparison", {}).get("methods", [])
        return list(map(str, asked)) if isinstance(asked, list) else []

    @property
    def several_windows(self) -> bool:
        """Whether the methods differ in T, so that equally many updates have not read equally much."""
        return len({cell.unroll for cell in self.cells}) > 1

    def place(self, cell: RecurrentRecord, step: int) -> int:
        """Where an update is drawn: at its number or, if the windows differ, at the time steps read so far."""
        return step * cell.unroll if self.several_windows else step

    @property
    def steps(self) -> int:
        """Where the axis ends."""
        return max((self.place(cell, max(cell.steps, cell.total or 0)) for cell in self.cells), default=0)

    def of(self, method: str) -> list[RecurrentRecord]:
        """The cells of a method."""
        return [cell for cell in self.cells if cell.method == method]

    def summaries(self) -> list[RecurrentSummary]:
        """What the cells come to, over the seeds."""
        return recurrent_summaries(cell.outcome(self.task) for cell in self.cells)


def read_recurrent_run(folder: Path, description: Mapping[str, Any]) -> RecurrentRun:
    """Read a run's folder, finished or not.

    Args:
        folder: with an `events.jsonl`.
        description: what its `run.toml` says; its comparison names a task.

    Raises:
        SettingsError: there is no such task.
    """
    task = TASKS.get(str(description["comparison"]["task"]))
    if task is None:
        raise SettingsError(f"{folder / 'run.toml'}: task {description['comparison']['task']!r} is unknown")
    cells: dict[tuple[str, int], RecurrentRecord] = {}
    unreadable = 0
    for line in _lines(folder / "events.jsonl"):
        try:
            event, labels = decode(line)
            where = str(labels["method"]), int(labels["seed"])
            cells.setdefault(where, RecurrentRecord(*where)).tell(event)
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += 1
    for line in _lines(folder / "results.jsonl"):
        try:
            result = decode_recurrent(line)
        except (ValueError, TypeError):
            unreadable += 1
            continue
        if (cell := cells.get((result.method, result.seed))) is not None:
            cell.result = result
    rest = {key: value for key, value in description.items() if key != "status"}
    name = folder.resolve().name.removesuffix(".partial").lstrip(".")
    run = RecurrentRun(name, rest, task, description.get("status") == "finished", tuple(cells.values()), unreadable)
    order = {method: place for place, method in enumerate(dict.fromkeys([*run.asked, *run.methods]))}
    return replace(run, cells=tuple(sorted(run.cells, key=lambda cell: (order[cell.method], cell.seed))))


def _lines(path: Path) -> Iterator[str]:
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from lines
