"""The run of a comparison of networks: how many stages there were, and what the methods came to."""

from dataclasses import dataclass
from pathlib import Path

from synthgrad.experiments.measures import Measure, measure_of
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.networks import chosen_cuts
from synthgrad.experiments.report.record import AnyRun, CellRecord, described, settings_of
from synthgrad.experiments.results import Result, Summary, decode_result, summarize

__all__ = ["Run", "read_run"]


@dataclass(frozen=True)
class Run(AnyRun):
    """A run's folder."""

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

    def summaries(self) -> list[Summary]:
        """What the cells come to, over the seeds."""
        return summarize(map(_outcome, self.cells), self.measure)


def _outcome(cell: CellRecord) -> Result:
    """The kept result; of a cell without one, what the events tell."""
    if cell.result is not None:
        return cell.result
    return Result(
        cell.method,
        cell.seed,
        cell.steps,
        test_error=cell.measure.of(error=cell.test, loss=None),
        test_loss=cell.measure.of(error=None, loss=cell.test),
        locks=cell.locks,
        failed=cell.failed,
    )


def read_run(folder: Path) -> Run:
    """Read a run's folder, finished or not.

    Raises:
        ReportError: no `run.toml` or no `events.jsonl` there.
        SettingsError: the `run.toml` is broken.
    """
    description = described(folder)
    return Run.read(folder, description, decode_result, measure_of(settings_of(description)))
