"""`step`: what decoupling costs where nobody gains from it, in one process on one thread.

The network is the paper's for MNIST: 784 inputs, 4 hidden layers of 256 (Linear, BatchNorm, ReLU), a cut after each;
batches of 256. Back-propagation is plain PyTorch without this library. Both sides use fused Adam.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from synthgrad.core.schedules import Schedule, backprop, update_unlocked
from synthgrad.core.synthesizers import LinearSynthesizer, ZeroSynthesizer
from synthgrad.decoupled import decouple
from synthgrad.experiments.bench.measurement import interleaved
from synthgrad.models import fully_connected, layer_names

__all__ = ["run"]

ROWS, INPUTS, CLASSES = 256, 784, 10
OPTIMIZER = partial(torch.optim.Adam, lr=1e-3, fused=True)


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to plain back-propagation, and the median milliseconds of a step, of several ways to train."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        conditioned = partial(LinearSynthesizer, classes=CLASSES)
        milliseconds = interleaved(
            {
                "backprop": _plain(),
                "staged_backprop": _decoupled(backprop(), None),
                "zero": _decoupled(update_unlocked(), ZeroSynthesizer),
                "cdni": _decoupled(update_unlocked(), conditioned),
                "cdni_rank_64": _decoupled(update_unlocked(), partial(conditioned, rank=64)),
                "cdni_rank_16": _decoupled(update_unlocked(), partial(conditioned, rank=16)),
            },
            rounds,
        )
    finally:
        torch.set_num_threads(before)
    baseline = milliseconds["backprop"]
    ratios = {f"{name}_over_backprop": time / baseline for name, time in milliseconds.items() if name != "backprop"}
    return ratios, {f"{name}_ms": time for name, time in milliseconds.items()}


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(ROWS, INPUTS), torch.randint(0, CLASSES, (ROWS,))


def _plain() -> Callable[[], Any]:
    model, (x, y) = fully_connected(INPUTS, CLASSES), _batch()
    optimizer = OPTIMIZER(model.parameters())

    def step() -> None:
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _decoupled(schedule: Schedule, synthesizer: Callable[..., Any] | None) -> Callable[[], Any]:
    model, (x, y) = fully_connected(INPUTS, CLASSES), _batch()
    net = decouple(
        model,
        at=layer_names(model),
        sample=(x, y),
        loss=functional.cross_entropy,
        optimizer=OPTIMIZER,
        synthesizer=synthesizer,
        schedule=schedule,
    )
    return lambda: net.step(x, target=y)
