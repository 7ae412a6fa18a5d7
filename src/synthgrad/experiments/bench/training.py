"""What the benchmarks let run: a step of plain back-propagation, and one of our own, with the same optimizer."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.schedules import Schedule
from synthgrad.decoupled import Decoupled, decouple
from synthgrad.models import layer_names

__all__ = ["decoupled_net", "plain_step", "random_batch", "random_batches"]

_OPTIMIZER = partial(torch.optim.Adam, lr=1e-3, fused=True)


def random_batch(rows: int, inputs: int, classes: int) -> tuple[Tensor, Tensor]:
    """Inputs (rows, inputs) and class indices (rows,)."""
    return torch.rand(rows, inputs), torch.randint(0, classes, (rows,))


def random_batches(rows: int, inputs: int, classes: int, *, count: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches, again and again.

    Not one alone: it would be learned by heart, and a step then is not one of training.
    """
    x, y = random_batch(rows * count, inputs, classes)
    return cycle(list(zip(x.split(rows), y.split(rows), strict=True)))


def plain_step(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """A step of back-propagation, without our library."""
    optimizer = _OPTIMIZER(model.parameters())

    def step() -> None:
        x, y = next(batches)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def decoupled_net(
    model: nn.Sequential,
    batch: tuple[Tensor, Tensor],
    schedule: Schedule,
    synthesizer: Callable[..., Any] | None,
    *,
    recompute: bool = False,
) -> Decoupled:
    """The model, cut after every layer."""
    x, y = batch
    return decouple(
        model,
        at=layer_names(model),
        sample=(x[:8], y[:8]),  # a few rows: what it leaves behind would hide how much memory a step needs
        loss=functional.cross_entropy,
        optimizer=_OPTIMIZER,
        synthesizer=synthesizer,
        schedule=schedule,
        recompute=recompute,
    )
