"""Cells take turns: whatever else the machine does hits all methods of a seed alike.

    seed 0:  bp, zero, cdni | bp, zero, cdni | ..        each block `TURN` steps
    seed 1:  bp, zero, cdni | ..

A cell is one method with one seed, of whatever kind.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch

from synthgrad.core.events import Event
from synthgrad.experiments.material import accelerator_of

__all__ = ["TURN", "Running", "Tell", "run_seeds", "take_turns", "threads"]

TURN = 25  # steps that a method does before it is the next one's turn

Tell = Callable[[Event, Mapping[str, Any]], None]


class Running(Protocol):
    """A cell of any kind: one method with one seed."""

    def turns(self) -> Iterator[None]:
        """Train, pausing now and then."""
        ...

    def result(self) -> Any:
        """What was measured, a dataclass that says where it comes from: `versions`, `hardware`, `command`."""
        ...


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
