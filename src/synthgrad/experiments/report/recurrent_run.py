"""The run of a comparison in time: where its updates are drawn, what the methods came to. Its losses are in bits."""

from dataclasses import dataclass
from pathlib import Path

from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.results import (
    RecurrentResult,
    RecurrentSummary,
    decode_recurrent,
    recurrent_summaries,
)
from synthgrad.experiments.recurrent.tasks import TASKS, Task, in_bits
from synthgrad.experiments.report.record import AnyRun, CellRecord, described, settings_of

__all__ = ["RecurrentRun", "read_recurrent_run"]


@dataclass(frozen=True)
class RecurrentRun(AnyRun):
    """A run's folder; its description names a task that there is."""

    @property
    def task(self) -> Task:
        """What was trained on."""
        return TASKS[str(self.settings["task"])]

    @property
    def several_windows(self) -> bool:
        """Whether the methods differ in T, so that equally many updates have not read equally much."""
        return len({cell.unroll for cell in self.cells}) > 1

    def place(self, cell: CellRecord, step: int) -> int:
        """Where an update is drawn: at its number or, if the windows differ, at the time steps read so far."""
        return step * cell.unroll if self.several_windows else step

    @property
    def steps(self) -> int:
        """Where the axis ends."""
        return max((self.place(cell, max(cell.steps, cell.total or 0)) for cell in self.cells), default=0)

    def summaries(self) -> list[RecurrentSummary]:
        """What the cells come to, over the seeds."""
        return recurrent_summaries(map(self._outcome, self.cells))

    def _outcome(self, cell: CellRecord) -> RecurrentResult:
        """The kept result; of a cell without one, what the events tell: of one cut short, nothing to judge it by."""
        if cell.result is not None:
            return cell.result
        longest = int(cell.solved[-1][1]) if cell.solved else 0
        return RecurrentResult(
            self.task.name,
            cell.method,
            cell.unroll,
            cell.seed,
            cell.steps,
            solved=longest if cell.finished and not self.task.text else None,
            test_bits=cell.test,
            failed=cell.failed,
        )


def read_recurrent_run(folder: Path) -> RecurrentRun:
    """Read a run's folder, finished or not.

    Raises:
        ReportError: no `run.toml` or no `events.jsonl` there.
        SettingsError: the `run.toml` is broken, or names no task that there is.
    """
    description = described(folder)
    name = settings_of(description).get("task")
    if str(name) not in TASKS:
        raise SettingsError(f"{folder / 'run.toml'}: task {name!r} is unknown")
    return RecurrentRun.read(folder, description, decode_recurrent, TASKS[str(name)].measure, in_bits)
