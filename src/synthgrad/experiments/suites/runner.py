"""Trains the cells of a suite, one after the other, so that each is kept as soon as it has ended."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from synthgrad.core.events import Event
from synthgrad.data import Characters, Split
from synthgrad.experiments.material import device_named, load
from synthgrad.experiments.recurrent import runner as recurrent
from synthgrad.experiments.recurrent import streams
from synthgrad.experiments.recurrent.spec import RecurrentTraining
from synthgrad.experiments.runner import Cell as ImageCell
from synthgrad.experiments.spec import StreamTraining, Training
from synthgrad.experiments.suites.suite import AnyResult, Cell, Where
from synthgrad.experiments.turns import Running, Tell, run_seeds, threads
from synthgrad.experiments.two_speeds import StreamCell

__all__ = ["run_cells"]


def run_cells(
    cells: Sequence[Cell],
    where: Where,
    tell: Tell,
    *,
    keep: Callable[[AnyResult], None],
    provenance: Mapping[str, Any],
) -> None:
    """Train cells.

    Args:
        cells: in this order.
        where: to train, and where the data are.
        tell: called with each event and its labels: `method`, the entry's label, and `seed`.
        keep: called with each cell's result as soon as it has ended; of a cell that failed, too.
        provenance: what else the results say: `versions`, `hardware`, `command`.

    Raises:
        SettingsError, DataError and the like: of the device and of all data, before anything is trained.
    """
    device = device_named(where.device)
    material = _Material()
    for training in reversed(_one_for_each_data_set(cells)):  # what comes first is held at the end
        material.of(where.place(training))

    def alone(number: int) -> list[Running]:
        return [_running(cells[number], where, tell, material)]

    with threads(where.threads):
        run_seeds(alone, len(cells), device=device, keep=keep, provenance=provenance)


def _one_for_each_data_set(cells: Sequence[Cell]) -> list[Training | RecurrentTraining]:
    found: dict[str, Training | RecurrentTraining] = {}
    for training in (cell.entry.training for cell in cells):
        found.setdefault(training.task if isinstance(training, RecurrentTraining) else training.data_set.name, training)
    return list(found.values())


class _Material:
    """The data of the latest cell, for the next one: what differs is read anew, so that memory holds one at a time."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._held: Split | Characters | None = None

    def of(self, training: Training | RecurrentTraining) -> Any:
        """What a training works with."""
        if isinstance(training, RecurrentTraining):
            key: tuple[Any, ...] = (training.task, training.data_dir)
        else:
            key = (training.data_set.name, training.data_dir, training.valid, training.model, training.device)
        if key != self._key:
            self._key = self._held = None
            self._held = streams.load(training) if isinstance(training, RecurrentTraining) else load(training, 0)
            self._key = key
        return self._held


def _running(cell: Cell, where: Where, tell: Tell, material: _Material) -> Running:
    """The cell as what trains it."""
    training = where.place(cell.entry.training)
    method = cell.entry.method(cell.seed)

    def labeled(event: Event, labels: Mapping[str, Any]) -> None:
        tell(event, {**labels, "method": cell.entry.label})

    data = material.of(training)
    if isinstance(training, RecurrentTraining):
        placed = replace(method, training=training)
        return recurrent.RecurrentCell(placed, cell.seed, labeled, data, device_named(training.device))
    if isinstance(training, StreamTraining):
        return StreamCell(training, method, cell.seed, labeled, data)
    return ImageCell(training, method, cell.seed, labeled, data)
