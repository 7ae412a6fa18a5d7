"""Cells take turns: whatever else the machine does hits all methods of a seed alike.

    seed 0:  bp, zero, cdni | bp, zero, cdni | ..        each block `TURN` steps
    seed 1:  bp, zero, cdni | ..

A cell is one method with one seed, of whatever kind.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from synthgrad.core.agreement import Agreement, Alignment
from synthgrad.core.errors import NumericalError
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Started
from synthgrad.experiments.material import accelerator_of, synchronize
from synthgrad.experiments.recipes import recipe_of

__all__ = ["TURN", "Figures", "Running", "Tell", "gather", "medians", "run_seeds", "take_turns", "threads"]

TURN = 25  # steps that a method does before it is the next one's turn

Tell = Callable[[Event, Mapping[str, Any]], None]
Figures = dict[str, dict[str, list[float]]]  # by cut and name


class Running(ABC):
    """A cell of any kind, as it is trained. A kind says what a step is, and how it is judged at the end.

    Args:
        method: what `recipe_of` takes.
        training: its settings.
        seed: of all that is drawn.
        tell: called with each event.
        total: how many steps.
    """

    def __init__(self, method: Any, training: Any, seed: int, tell: Tell, *, total: int) -> None:
        self.method, self.training, self.seed, self.total = method, training, seed, total
        self._tell = tell
        self.steps = 0
        self.seconds: list[float] = []  # of each step
        self.agreement: Figures = {}
        self.evaluated: dict[str, Evaluated] = {}  # the last of each part
        self.failed: str | None = None
        self._random = torch.get_rng_state()

    @abstractmethod
    def advance(self) -> None:
        """Learn from the next batch, and do what is due after it."""

    @abstractmethod
    def judge(self) -> None:
        """On the test part."""

    @abstractmethod
    def result(self) -> Any:
        """What was measured, a dataclass that says where it comes from: `versions`, `hardware`, `command`."""

    def beginning(self) -> Started:
        """What is told first."""
        return Started(self.training.as_table() | {"steps": self.total})

    def watched(self) -> AbstractContextManager[None]:
        """Around the training."""
        return nullcontext()

    def turns(self) -> Iterator[None]:
        """Train, pausing after every `TURN` steps; whatever runs in the pauses changes nothing here."""
        began = time.perf_counter()
        self.tell(self.beginning())
        try:
            with self.watched():
                while self.steps < self.total:
                    with self._own_random():
                        for _ in range(min(TURN, self.total - self.steps)):
                            self.advance()
                    yield
            self.judge()
            self.tell(Finished(self.steps, time.perf_counter() - began))
        except NumericalError as error:
            self.failed = str(error)
            self.tell(Failed(self.steps, self.failed))

    def tell(self, event: Event) -> None:
        """Pass on an event, saying where it happened."""
        self._tell(event, {"method": self.method.name, "seed": self.seed})

    def is_due(self, times: int) -> bool:
        """Whether one of so many moments, spread evenly over the run, falls on this step."""
        return self.steps * times // self.total > (self.steps - 1) * times // self.total

    def expect_finite(self, loss: float, *, step: int, where: str = "") -> None:
        """Raise `NumericalError` for a loss that is not; a plain loop does not look itself."""
        if not math.isfinite(loss):
            raise NumericalError(f"the loss{where} is {loss} after step {step}; lower --lr", stage=-1)

    def judged(self, part: str, loss: float, error: float) -> None:
        """Keep what a part of the data has shown, and tell it. Raises as `expect_finite`."""
        self.expect_finite(loss, step=self.steps, where=f" on the {part} part")
        self.evaluated[part] = Evaluated(self.steps, part, loss, error)
        self.tell(self.evaluated[part])

    def errors(self) -> dict[str, Any]:
        """Error and loss of both parts, as a `Result` has them; of a cell that failed none."""
        found = {part: self.evaluated.get(part) if self.failed is None else None for part in ("test", "valid")}
        errors = {f"{part}_error": one.error if one else None for part, one in found.items()}
        return errors | {f"{part}_loss": one.loss if one else None for part, one in found.items()}

    def common(self) -> dict[str, Any]:
        """What every kind's result says; of a cell that failed, how far it came."""
        return {
            "method": self.method.name,
            "seed": self.seed,
            "steps": self.steps,
            "ms_per_step": 1e3 * median(self.seconds) if self.seconds else None,
            "failed": self.failed,
            "settings": self.training.as_table(),
            "recipe": recipe_of(self.method),
        }

    @contextmanager
    def timed(self, device: torch.device) -> Iterator[None]:
        """Around a step on that device."""
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        self.seconds.append(time.perf_counter() - start)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Around all that is built; training draws on from there."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield
            self._random = torch.get_rng_state()

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Draw random numbers from where this cell left off, not from where another one did."""
        before = torch.get_rng_state()
        torch.set_rng_state(self._random)
        try:
            yield
        finally:
            self._random = torch.get_rng_state()
            torch.set_rng_state(before)


def gather(into: Figures, found: Mapping[str, Agreement | Alignment]) -> dict[str, dict[str, float]]:
    """The figures as plain numbers, by cut; and add each to its list."""
    plain = {cut: figure.as_dict() for cut, figure in found.items()}
    for cut, values in plain.items():
        for name, value in values.items():
            into.setdefault(cut, {}).setdefault(name, []).append(value)
    return plain


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    """Not the mean: a norm ratio is huge wherever the gradient that it is divided by almost vanishes."""
    return {cut: {name: median(values) for name, values in named.items()} for cut, named in figures.items()}


def run_seeds(
    cells: Callable[[int], Sequence[Running]],
    seeds: int,
    *,
    device: torch.device,
    keep: Callable[[Any], None] | None,
    provenance: Mapping[str, Any] | None,
) -> list[Any]:
    """Train the cells of one seed after those of another, and collect what was measured.

    Args:
        cells: those of a seed.
        seeds: how many.
        device: where they train.
        keep: called with each cell's result once it has ended.
        provenance: what else the results say.
    """
    results: list[Any] = []
    said = dict(provenance or {})
    if accelerator := accelerator_of(device):
        said["hardware"] = dict(said.get("hardware", {})) | accelerator
    for seed in range(seeds):
        running = cells(seed)
        take_turns([cell.turns() for cell in running])
        for cell in running:
            results.append(replace(cell.result(), **said))
            if keep is not None:
                keep(results[-1])
    return results


def take_turns(runs: Sequence[Iterator[None]]) -> None:
    """Advance each by a turn, again and again, until all have ended."""
    waiting = list(runs)
    try:
        while waiting:
            waiting = [run for run in waiting if next(run, _ENDED) is not _ENDED]
    finally:
        for run in waiting:  # one was stopped, and so are all: what they write is closed now
            if isinstance(run, Generator):
                run.close()


_ENDED = object()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads; a context manager."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
