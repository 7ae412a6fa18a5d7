"""`step`: what decoupling costs where nobody gains from it, in one process on one thread.

The network is the paper's for MNIST: 784 inputs, 4 hidden layers of 256 (Linear, BatchNorm, ReLU), a cut after each;
batches of 256. Back-propagation is plain PyTorch without this library. Both sides use fused Adam.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from synthgrad.core.combined import teach_every
from synthgrad.core.schedules import Schedule, backprop, update_unlocked
from synthgrad.core.synthesizers import CriticSynthesizer, LinearSynthesizer, ZeroSynthesizer
from synthgrad.experiments.bench.measurement import interleaved
from synthgrad.experiments.bench.training import decoupled_net, plain_step, random_batches
from synthgrad.models import fully_connected

__all__ = ["run"]

ROWS, INPUTS, CLASSES = 256, 784, 10
FOURTH = 4  # steps of which one has lessons


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
                "sobolev": _decoupled(update_unlocked(), partial(CriticSynthesizer, classes=CLASSES)),
                # A whole period at a time: the median of single steps, which are not alike, would hide the lesson.
                "sobolev_fourth": _decoupled(
                    teach_every(FOURTH, update_unlocked()), partial(CriticSynthesizer, classes=CLASSES), times=FOURTH
                ),
                "local": _decoupled(update_unlocked(), partial(CriticSynthesizer, classes=CLASSES, learns=("labels",))),
                "cdni_rank_16": _decoupled(update_unlocked(), partial(conditioned, rank=16)),
            },
            rounds,
        )
    finally:
        torch.set_num_threads(before)
    milliseconds["sobolev_fourth"] /= FOURTH
    baseline = milliseconds["backprop"]
    ratios = {f"{name}_over_backprop": time / baseline for name, time in milliseconds.items() if name != "backprop"}
    return ratios, {f"{name}_ms": time for name, time in milliseconds.items()}


def _plain() -> Callable[[], Any]:
    return plain_step(fully_connected(INPUTS, CLASSES), random_batches(ROWS, INPUTS, CLASSES))


def _decoupled(schedule: Schedule, synthesizer: Callable[..., Any] | None, times: int = 1) -> Callable[[], Any]:
    batches = random_batches(ROWS, INPUTS, CLASSES)
    net = decoupled_net(fully_connected(INPUTS, CLASSES), next(batches), schedule, synthesizer)

    def step() -> None:
        for _ in range(times):
            x, y = next(batches)
            net.step(x, target=y)

    return step
