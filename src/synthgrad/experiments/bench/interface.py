"""`interface`: what an `Interface` costs in a loop of one's own, in one process on one thread.

The network: 8 layers of 1024 (Linear, BatchNorm, ReLU) and an output; batches of 256. One interface stands behind the
fourth layer. The other side is the same network and loop in plain PyTorch, without this library. All sides use fused
Adam.
"""

from collections.abc import Callable, Iterator
from functools import partial

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
        sides |= {name: _decoupled_step(_network(synthesizer)) for name, synthesizer in SYNTHESIZERS.items()}
        milliseconds = interleaved(sides, rounds)
    finally:
        torch.set_num_threads(before)
    ratios = {f"{name}_over_plain": milliseconds[name] / milliseconds["plain"] for name in SYNTHESIZERS}
    return ratios, {f"{name}_ms": time for name, time in milliseconds.items()}


def _network(synthesizer: Factory | None = None) -> nn.Sequential:
    layers: list[nn.Module] = list(fully_connected(WIDTH, CLASSES, hidden=WIDTH, layers=LAYERS))
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
