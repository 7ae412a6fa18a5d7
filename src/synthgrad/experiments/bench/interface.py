"""`interface`: what an `Interface` costs in a loop of one's own, in one process on one thread.

The network: 8 layers of 1024 (Linear, BatchNorm, ReLU) and an output; batches of 256. One interface stands behind the
fourth layer. The other side is the same network and loop in plain PyTorch, without this library. `by_hand` swaps the
gradients as `interface` does, in as few operations as we know, without this library either: what remains is arithmetic.
All sides use fused Adam.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.interface import Interface, context
from synthgrad.core.synthesizers import LinearSynthesizer, Synthesizer, ZeroSynthesizer
from synthgrad.experiments.bench.measurement import interleaved
from synthgrad.experiments.bench.training import plain_step, random_batches
from synthgrad.models import fully_connected

__all__ = ["run"]

ROWS, WIDTH, LAYERS, CLASSES = 256, 1024, 8, 10
_OPTIMIZER = partial(torch.optim.Adam, lr=1e-3, fused=True)
_LINEAR = partial(LinearSynthesizer, classes=CLASSES)
Factory = Callable[[tuple[int, ...]], Synthesizer]
SYNTHESIZERS: dict[str, Factory] = {
    "interface": _LINEAR,
    "interface_rank_64": partial(_LINEAR, rank=64),
    "interface_zero": ZeroSynthesizer,  # what the interface itself costs
}


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to the plain loop, and the median milliseconds of a step, with several synthesizers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides = {"plain": plain_step(_network(), _batches())}
        sides["by_hand"] = plain_step(_network(by_hand=True), _batches())
        sides |= {name: _decoupled_step(_network(synthesizer)) for name, synthesizer in SYNTHESIZERS.items()}
        milliseconds = interleaved(sides, rounds)
    finally:
        torch.set_num_threads(before)
    ratios = {f"{name}_over_plain": milliseconds[name] / milliseconds["plain"] for name in (*SYNTHESIZERS, "by_hand")}
    return ratios, {f"{name}_ms": time for name, time in milliseconds.items()}


def _network(synthesizer: Factory | None = None, *, by_hand: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = list(fully_connected(WIDTH, CLASSES, hidden=WIDTH, layers=LAYERS))
    if by_hand:
        layers.insert(LAYERS // 2, _ByHand())
    if synthesizer is not None:
        layers.insert(LAYERS // 2, Interface(synthesizer((WIDTH,))))
    return nn.Sequential(*layers)


def _batches() -> Iterator[tuple[Tensor, Tensor]]:
    return random_batches(ROWS, WIDTH, CLASSES, count=16)


def _decoupled_step(model: nn.Module) -> Callable[[], None]:
    batches, optimizer = _batches(), _OPTIMIZER(model.parameters())

    def step() -> None:
        x, y = next(batches)
        with context(model, labels=y):
            functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class _ByHand(nn.Module):
    """A linear synthetic gradient that looks at no labels, and learns from what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(WIDTH, WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, activation: Tensor) -> Tensor:
        return _SwapByHand.apply(activation, self.weight, self.bias)


class _SwapByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activation: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(activation, torch.addmm(bias, activation, weight.T))
        return activation.view_as(activation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activation, synthetic_grad = ctx.saved_tensors
        taught = torch.sub(synthetic_grad, grads[0], alpha=ROWS).mul_(2 / ROWS)
        return synthetic_grad / ROWS, taught.T @ activation, taught.sum(0)
