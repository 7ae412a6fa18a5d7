"""The live table of a comparison: how far each method has come, and what was last heard of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from synthgrad.core.events import Evaluated, Event, Probed, StepDone
from synthgrad.experiments.columns import broken, figure, mean_of, score, terminal_table
from synthgrad.experiments.measures import Measure
from synthgrad.experiments.progress import Lap, Progress

__all__ = ["LiveTable", "Row", "lap_bar"]


@dataclass
class Row:
    """What was last heard of one method; its fields may be columns.

    Attributes:
        loss: of a loss term, while training.
        score: what this seed is judged by so far.
        agreement: cosine, mean over the cuts.
        alignment: likewise, of the parameters' gradient with the true one.
        scores: what the seeds that have ended are judged by.
    """

    loss: float | None = None
    score: float | None = None
    agreement: float | None = None
    alignment: float | None = None
    scores: list[float] = field(default_factory=list)

    def written(self, measure: Measure) -> dict[str, str]:
        """As text, by column; of seeds that have ended, the mean."""
        return {
            "loss": figure(self.loss, 3),
            "score": score(self.score, measure),
            "agreement": figure(self.agreement),
            "alignment": figure(self.alignment),
            "scores": score(fmean(self.scores) if self.scores else None, measure),
        }


class LiveTable(Progress):
    """Fed with events, drawn whenever rich asks.

    Args:
        methods: names of the methods.
        seeds: how many seeds each is to have.
        clock: seconds, running forward.
        measure: what they are judged by.
        columns: which fields of `Row` are shown, and under what headings.
        unit: turns a loss in nats into what is shown.
    """

    def __init__(
        self,
        methods: Sequence[str],
        seeds: int,
        clock: Callable[[], float],
        *,
        measure: Measure,
        columns: Mapping[str, str],
        unit: Callable[[float], float] = float,
    ) -> None:
        super().__init__(methods, seeds, clock)
        self.methods, self.rows = methods, {name: Row() for name in methods}
        self._measure, self._columns, self._unit = measure, columns, unit

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the method and the seed."""
        super().tell(event, labels)
        row = self.rows[labels["method"]]
        match event:
            case StepDone(_, loss, agreement):
                row.loss, row.agreement = self._unit(loss), mean_of(agreement, "cosine")
            case Probed(_, alignment):
                row.alignment = mean_of(alignment, "parameter_cosine")
            case Evaluated(_, split, loss, error):
                reached = self._measure.of(error=error, loss=self._unit(loss))
                if split == "test":
                    row.scores.append(reached)
                else:
                    row.score = reached

    def __rich__(self) -> RenderableType:
        table = terminal_table(("method", "this seed", *self._columns.values()), left=2)
        for name, row in self.rows.items():
            written = row.written(self._measure)
            table.add_row(broken(name), lap_bar(self.laps[name]), *(written[column] for column in self._columns))
        return Group(Text(self.headline(), style="dim"), table)


def lap_bar(lap: Lap) -> RenderableType:
    """How far a method has come with this seed, as a bar; or that it failed."""
    if lap.failed is not None:
        return Text("failed", style="bold red")
    return ProgressBar(total=max(lap.total, 1), completed=lap.steps, width=16)
