"""Small problems that the laws are tried on, and the plain PyTorch loop that they are held against."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.core.batch import Context

CLASSES = 4
Optimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SGD: Optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM: Optimizer = partial(torch.optim.Adam, lr=1e-2)


def perceptron(stages: int, width: int = 8, *, batch_norm: bool = False, dropout: bool = False) -> nn.Sequential:
    """`stages` members named s0, s1, ...; each but the last ends in a ReLU or tanh."""
    members: dict[str, nn.Module] = {}
    for stage in range(stages - 1):
        norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        kink = nn.ReLU() if stage % 2 else nn.Tanh()
        members[f"s{stage}"] = nn.Sequential(nn.Linear(width, width), norm, kink, *[nn.Dropout(0.3)] * dropout)
    members[f"s{stages - 1}"] = nn.Linear(width, CLASSES)
    model = nn.Sequential()
    for name, member in members.items():
        model.add_module(name, member)
    return model


def cuts(model: nn.Sequential) -> list[str]:
    """A cut after every member but the last."""
    return [name for name, _ in model.named_children()][:-1]


def batches(steps: int, rows: int, width: int = 8, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield (
            torch.randn(rows, width, generator=generator),
            torch.randint(0, CLASSES, (rows,), generator=generator),
        )


def train_plain(model: nn.Module, data: Iterator[tuple[Tensor, Tensor]], optimizer: Optimizer) -> None:
    """Back-propagation as everybody writes it; one optimizer for all."""
    stepper = optimizer(list(model.parameters()))
    for x, y in data:
        F.cross_entropy(model(x), y).backward()
        stepper.step()
        stepper.zero_grad()


def decoupled(
    model: nn.Sequential,
    schedule: sg.Schedule,
    synthesizer: Callable[[tuple[int, ...]], sg.Synthesizer] | dict[str, Callable] | None,
    optimizer: Optimizer,
    *,
    rows: int = 16,
    mixing: float = 1.0,
    loss: Callable[[Tensor, Tensor], Tensor] | sg.Loss = F.cross_entropy,
) -> sg.Decoupled:
    sample = next(batches(1, rows))
    return sg.decouple(
        model,
        at=cuts(model),
        sample=sample,
        loss=loss,
        synthesizer=synthesizer,
        optimizer=optimizer,
        schedule=schedule,
        mixing=mixing,
    )


def train(net: sg.Decoupled, data: Iterator[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        net.step(x, target=y)
    net.flush()


def oracles(model: nn.Sequential, at: Callable[[], nn.Sequential] | None = None) -> dict[str, Callable]:
    """For each cut, a synthesizer that computes the true gradient of the summed loss through the rest of the model.

    `at()` gives the model with the weights to use; by default the model as it is when asked.
    """

    def factory(index: int) -> Callable[[tuple[int, ...]], sg.Synthesizer]:
        def truth(activation: Tensor, context: Context) -> Tensor:
            rest = copy.deepcopy(
                (at() if at else model)[index + 1 :]
            )  # a copy: BatchNorm's statistics stay as they are
            assert context.labels is not None
            with torch.enable_grad():
                leaf = activation.detach().requires_grad_()
                F.cross_entropy(rest(leaf), context.labels, reduction="sum").backward()
            assert leaf.grad is not None
            return leaf.grad

        return lambda shape: sg.OracleSynthesizer(truth)

    return {name: factory(index) for index, name in enumerate(cuts(model))}


def equal(ours: nn.Module, theirs: nn.Module) -> bool:
    """Bit for bit, parameters and buffers."""
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def furthest(ours: nn.Module, theirs: nn.Module) -> float:
    """The largest difference between two parameters."""
    return max(
        float((a.detach().double() - b.detach().double()).abs().max())
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
