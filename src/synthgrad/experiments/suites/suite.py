"""A suite is data: the entries of a table of the paper, and for each of them what is trained how.

An entry with a seed is a cell. A cell is known by what it trains, not by a number: so whatever is in a file of results
already, with the same settings and a method of the same recipe, is not trained again, and what was trained with others
is not taken for it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthgrad.experiments.measures import Measure, measure_of
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recipes import recipe_of
from synthgrad.experiments.recurrent.results import RecurrentResult
from synthgrad.experiments.recurrent.spec import RecurrentTraining
from synthgrad.experiments.results import Judged, Result, judge
from synthgrad.experiments.spec import StreamTraining, Training
from synthgrad.experiments.suites.paper import Row

__all__ = ["BUDGETS", "AnyResult", "Cell", "Entry", "Identity", "Suite", "Table", "Where", "identity_of", "measure_for"]

BUDGETS = ("small", "full")
AnyResult = Result | RecurrentResult
AnyTraining = Training | RecurrentTraining
Identity = tuple[AnyTraining, str, str, int]
CIFAR = "cifar10"
# Where a cell is trained makes it no other cell, nor what it is compared with.
NOT_OF_A_CELL = ("data_dir", "download", "device", "threads", "methods", "seeds")


@dataclass(frozen=True)
class Where:
    """Where to train, and where the data are.

    Attributes:
        data_dir: the folder of MNIST, or of Penn Treebank; a usual place if not given.
        cifar_dir: the folder of CIFAR-10; without it, what is trained on it is left out.
        download: fetch MNIST if it is not there.
        device: cpu, cuda, cuda:1, mps.
        threads: of torch.
    """

    data_dir: Path | None = None
    cifar_dir: Path | None = None
    download: bool = False
    device: str = "cpu"
    threads: int = 1

    def place(self, training: AnyTraining) -> AnyTraining:
        """The training, here."""
        changes: dict[str, Any] = {"device": self.device, "threads": self.threads}
        if isinstance(training, RecurrentTraining):
            return replace(training, **changes, data_dir=self.data_dir if training.kind_of_task.text else None)
        if training.data_set.name == CIFAR:
            return replace(training, **changes, data_dir=self.cifar_dir)
        return replace(training, **changes, data_dir=self.data_dir, download=self.download)

    def has(self, training: AnyTraining) -> bool:
        """Whether it is to be trained here: CIFAR-10 only where its folder is named."""
        if isinstance(training, RecurrentTraining) or training.data_set.name != CIFAR:
            return True
        return self.cifar_dir is not None


@dataclass(frozen=True)
class Entry:
    """One figure of a table.

    Attributes:
        row: where it stands: `FCN 4`.
        column: likewise: `cdni`.
        training: what is trained on what.
        name: the method's, as results have it.
        method: of a seed, the method.
    """

    row: str
    column: str
    training: AnyTraining
    name: str
    method: Callable[[int], Any] = field(compare=False)

    @property
    def label(self) -> str:
        """How it is called while it is trained."""
        return f"{self.row}, {self.column}"


@dataclass(frozen=True)
class Cell:
    """An entry with a seed."""

    entry: Entry
    seed: int

    @property
    def identity(self) -> Identity:
        """By what it is known."""
        return self.entry.training, self.entry.name, _written(recipe_of(self.entry.method(self.seed))), self.seed


def identity_of(result: AnyResult) -> Identity:
    """Which cell a result is of.

    Raises:
        SettingsError: its settings are none.
    """
    kind: type[AnyTraining] = StreamTraining if "period" in result.settings else Training
    if isinstance(result, RecurrentResult):
        kind = RecurrentTraining
    settings = {name: value for name, value in result.settings.items() if name not in NOT_OF_A_CELL}
    return kind.from_table(settings, "settings"), result.method, _written(result.recipe), result.seed


def _written(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)


@dataclass(frozen=True)
class Suite:
    """A table of the paper.

    Attributes:
        name: how it is called for.
        title: what is shown, in a few words.
        budget: small or full.
        setting: how it is trained, and what differs from the paper, in a sentence or two.
        entries: in the order in which they are trained, for each seed.
        paper: by row, the paper's figures.
        claims: what the table shows, in sentences.
    """

    name: str
    title: str
    budget: str
    setting: str
    entries: tuple[Entry, ...]
    paper: Mapping[str, Row]
    claims: "Callable[[Table], list[str]]" = field(compare=False)

    @property
    def file(self) -> str:
        """The name of its file of results."""
        return f"{self.name}-{self.budget}.jsonl"

    def cells(self, seeds: int) -> list[Cell]:
        """All entries with the first seed, then all with the second: so that a table is whole early."""
        return [Cell(entry, seed) for seed in range(seeds) for entry in self.entries]

    def only(self, rows: str) -> "Suite":
        """The part whose rows' names begin so. Raises `SettingsError` if there are none."""
        entries = tuple(one for one in self.entries if one.row.startswith(rows))
        if not entries:
            known = dict.fromkeys(entry.row for entry in self.entries)
            raise SettingsError(f"only {rows!r}: begins no row of {self.name}; expected one of {'; '.join(known)}")
        return replace(self, entries=entries)


# ---- filled ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A suite with its figures.

    Attributes:
        suite: what it is of.
        figures: by row and column; there is none for what has not been trained.
        valid: likewise, judged on the held-out part: by this, and not by the test part, one chooses.
        results: that the figures are made of.
    """

    suite: Suite
    figures: Mapping[tuple[str, str], Judged]
    valid: Mapping[tuple[str, str], Judged]
    results: tuple[AnyResult, ...]

    @classmethod
    def of(cls, suite: Suite, results: Iterable[AnyResult]) -> "Table":
        """Fill a suite; results that are of no entry of it, or a second one of the same cell, are passed over."""
        found: dict[Identity, AnyResult] = {}
        for result in results:
            found.setdefault(identity_of(result), result)
        seeds = dict.fromkeys(result.seed for result in found.values())
        own: dict[tuple[str, str], list[AnyResult]] = {}
        for entry in suite.entries:
            cells = (Cell(entry, seed).identity for seed in seeds)
            own[entry.row, entry.column] = [found[identity] for identity in cells if identity in found]
        measures = {(one.row, one.column): measure_for(one.training) for one in suite.entries}
        return cls(
            suite,
            {place: judge(those, {}, _tested, measures[place]) for place, those in own.items() if those},
            {place: judge(those, {}, _held_out, measures[place]) for place, those in own.items() if those},
            tuple({identity_of(result): result for those in own.values() for result in those}.values()),
        )

    @property
    def rows(self) -> list[str]:
        """Those of which anything has been trained, in the suite's order."""
        trained = {row for row, _ in self.figures}
        return [row for row in dict.fromkeys(entry.row for entry in self.suite.entries) if row in trained]

    @property
    def columns(self) -> list[str]:
        """Likewise."""
        trained = {column for _, column in self.figures}
        return [one for one in dict.fromkeys(entry.column for entry in self.suite.entries) if one in trained]

    def mean(self, row: str, column: str) -> float | None:
        """The mean over the seeds, in the measure's unit: errors in percent; None where there is none."""
        figure = self.figures.get((row, column))
        return None if figure is None or figure.score is None else figure.measure.scale * figure.score.mean

    def seeds(self, *places: tuple[str, str]) -> int:
        """How many seeds these figures have at least, each by its row and column."""
        figures = (self.figures.get(place) for place in places)
        return min(one.score.n if one is not None and one.score is not None else 0 for one in figures)

    def chosen(self, row: str, columns: Iterable[str]) -> str | None:
        """Of these columns the one that is best on the held-out part; None where none has a figure there."""
        scores = {column: one.score.mean for column in columns if (one := self.valid.get((row, column))) and one.score}
        return min(scores, key=lambda column: scores[column]) if scores else None


def measure_for(training: AnyTraining) -> Measure:
    """What a cell is judged by."""
    if isinstance(training, RecurrentTraining):
        return training.kind_of_task.measure
    return measure_of(training.as_table())


def _tested(cell: AnyResult) -> float | None:
    return cell.test_error if isinstance(cell, Result) else cell.score


def _held_out(cell: AnyResult) -> float | None:
    return cell.valid_error if isinstance(cell, Result) else cell.valid_bits
