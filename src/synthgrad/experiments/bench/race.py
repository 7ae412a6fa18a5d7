"""The race of `pipeline`: how long it takes to an accuracy on MNIST, on one process and on two.

4 layers of 1024 features, batches of 256, Adam at 1e-3 under a cosine that ends at 0; for every seed the same initial
weights, the same batches in the same order, equal epochs. All sides take turns of some steps. The clock runs during a
side's turn, from the common start of both processes until both are done; between turns it stands, and the test part is
tried with the weights as they are.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
import torch.distributed as dist
from torch import Tensor, nn

from synthgrad.core.combined import teach_every
from synthgrad.core.schedules import Schedule, update_unlocked
from synthgrad.data import Split, idx_folder, mnist
from synthgrad.experiments.bench.ranks import on_ranks
from synthgrad.experiments.bench.sides import Batches, Network, Side, decoupled, one_process

__all__ = ["Race", "race", "race_figures"]

THRESHOLD = 0.016
SIDES = ("one_process", "two_threads", "unlocked", "unlocked_second")
Curve = list[tuple[float, float]]  # seconds so far, error on the test part
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Race:
    """What is raced.

    Attributes:
        network: of all sides.
        rows: of a batch.
        delay: how late targets are learned, unlocked.
        every: steps of a turn; 39 are a sixth of an epoch.
        names: the sides.
        folder: with files in MNIST's layout; MNIST itself if not given.
    """

    network: Network = Network(784, 1024, 4)
    rows: int = 256
    delay: int = 1
    every: int = 39
    names: tuple[str, ...] = SIDES
    folder: Path | None = None


def race_figures(setting: Race, seeds: int, epochs: int) -> tuple[Figures, Figures]:
    """Ratios of the median times to the threshold, and every seed's times and errors."""
    curves: list[dict[str, Curve]] = on_ranks(race, setting, seeds, epochs)[0]
    figures: Figures = {}
    for name in setting.names:
        taken = [_first(by_side[name]) for by_side in curves]
        errors = [100 * by_side[name][-1][1] for by_side in curves]
        for seed, by_side in enumerate(curves):
            figures[f"{name}_seed_{seed}_seconds_to_accuracy"] = taken[seed]
            figures[f"{name}_seed_{seed}_seconds"] = by_side[name][-1][0]
            figures[f"{name}_seed_{seed}_final_error_percent"] = errors[seed]
        figures[f"{name}_seconds_to_accuracy"] = _median(taken)
        figures[f"{name}_final_error_percent"] = mean(errors)
    ours = figures["unlocked_seconds_to_accuracy"]
    others = [name for name in setting.names if not name.startswith("unlocked")]
    ratios = {f"time_to_accuracy_over_{name}": _ratio(ours, figures[f"{name}_seconds_to_accuracy"]) for name in others}
    return ratios, figures


def _first(curve: Curve) -> float | None:
    """The seconds until the error was first seen at the threshold; None if it never was."""
    return next((seconds for seconds, error in curve if error <= THRESHOLD), None)


def _median(values: list[float | None]) -> float | None:
    """None, if a seed has not come there."""
    known = [value for value in values if value is not None]
    return median(known) if len(known) == len(values) else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one / other


def race(rank: int, setting: Race, seeds: int, epochs: int) -> list[dict[str, Curve]]:
    """For every seed the curve of each side; on rank 0."""
    split = mnist(valid=0) if setting.folder is None else idx_folder(setting.folder, valid=0)
    return [_race(rank, setting, split, seed, epochs) for seed in range(seeds)]


def _race(rank: int, setting: Race, split: Split, seed: int, epochs: int) -> dict[str, Curve]:
    steps = len(split.train_y) // setting.rows * epochs
    sides = _sides(rank, setting, seed, shuffled(split, setting.rows, seed, epochs), steps)
    clocks, curves = dict.fromkeys(sides, 0.0), {name: Curve() for name in sides}
    for done in range(0, steps, setting.every):
        for name, side in sides.items():
            clocks[name] += _timed(side, min(setting.every, steps - done))
            if side.net is not None:
                side.net.gather()
            if rank == 0:
                curves[name].append((clocks[name], error_of(side.model, split)))
    for side in sides.values():
        side.close()
    return curves


def _sides(rank: int, setting: Race, seed: int, data: Batches, steps: int) -> dict[str, Side]:
    def rate(step: int) -> float:
        return (1 + math.cos(math.pi * step / steps)) / 2

    network, unlocked = setting.network, update_unlocked(setting.delay)

    def ours(schedule: Schedule) -> Side:
        return decoupled(network.build(seed), network.cut, data, schedule, rate=rate)

    makes = {
        "one_process": lambda: one_process(rank, network.build(seed), data, rate=rate),
        "two_threads": lambda: one_process(rank, network.build(seed), data, threads=2, rate=rate),
        "unlocked": lambda: ours(unlocked),
        "unlocked_second": lambda: ours(teach_every(2, unlocked)),
    }
    return {name: makes[name]() for name in setting.names}


def shuffled(split: Split, rows: int, seed: int, epochs: int) -> Batches:
    """Batches of the training part, shuffled anew at each epoch; what does not fill a batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    count = len(split.train_y)
    order = torch.cat([torch.randperm(count, generator=generator)[: count // rows * rows] for _ in range(epochs)])
    images = split.train_x.flatten(1)  # (N, pixels)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        chosen = order[step * rows : (step + 1) * rows]
        return images[chosen], split.train_y[chosen]

    return batch


def _timed(side: Side, steps: int) -> float:
    dist.barrier()
    start = time.perf_counter()
    side.turn(steps)
    dist.barrier()
    return time.perf_counter() - start


def error_of(model: nn.Module, split: Split) -> float:
    """Share of the test part that is wrong; on two threads, for the clock does not run."""
    torch.set_num_threads(2)
    model.eval()
    with torch.no_grad():
        wrong = [
            (model(x.flatten(1)).argmax(1) != y).sum()
            for x, y in zip(split.test_x.split(1000), split.test_y.split(1000), strict=True)
        ]
    model.train()
    torch.set_num_threads(1)
    return float(torch.stack(wrong).sum()) / len(split.test_y)
