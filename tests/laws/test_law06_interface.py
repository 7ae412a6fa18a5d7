"""Law 6: `Interface` in a plain loop equals the local engine on `update_unlocked(delay=0)`: the same weights, the same
synthesizers, bit for bit, since the same operations come in the same order.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from problems import ADAM, CLASSES, SGD, Optimizer, batches, perceptron
from processes import run_processes
from torch import Tensor, nn

import synthgrad as sg

STEPS = 5
Factory = Callable[[tuple[int, ...]], sg.Synthesizer]
SYNTHESIZERS: dict[str, Factory] = {
    "linear": sg.LinearSynthesizer,
    "linear, labels": partial(sg.LinearSynthesizer, classes=CLASSES),
    "mlp, labels, batch norm": partial(sg.MLPSynthesizer, hidden=9, layers=2, classes=CLASSES, batch_norm=True),
    "clipped": lambda shape: sg.Clipped(sg.LinearSynthesizer(shape, classes=CLASSES), 0.05),
    "critic of the labels": partial(sg.CriticSynthesizer, classes=CLASSES, learns=("labels",)),
    "similarity": partial(sg.SimilaritySynthesizer, classes=CLASSES),
    "zero": sg.ZeroSynthesizer,
}
OPTIMIZERS = {"sgd": SGD, "adam": ADAM}


def engine(model: nn.Sequential, at: Sequence[str], synthesizer: Factory, optimizer: Optimizer) -> sg.Decoupled:
    """The schedule's default delay is 0. Half of the batches are of another size than the sample."""
    return sg.decouple(
        model, at=at, sample=next(batches(1, 16)), loss=F.cross_entropy, synthesizer=synthesizer, optimizer=optimizer
    )


def with_interfaces(net: sg.Decoupled, **given: Any) -> nn.Sequential:
    """A copy of the decoupled model, as its owner would have written it: with an interface behind each cut."""
    chain = nn.Sequential()
    synthesizers = {stage.name: stage.synthesizer.module for stage in net.stages if stage.synthesizer}
    for name, member in net.plain.named_children():
        chain.add_module(name, copy.deepcopy(member))
        if name in synthesizers:
            chain.add_module(f"{name}-interface", sg.Interface(copy.deepcopy(synthesizers[name]), **given))
    return chain


def train_plain(model: nn.Module, data: Sequence[tuple[Tensor, Tensor]], optimizer: Optimizer) -> None:
    """The loop as everybody writes it: one optimizer for layers and synthesizers."""
    stepper = optimizer(list(model.parameters()))
    for x, y in data:
        with sg.context(model, labels=y):
            F.cross_entropy(model(x), y).backward()
        stepper.step()
        stepper.zero_grad()


def data_of(rows: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    return [*batches(STEPS, rows, seed=seed), *batches(STEPS, rows + 3, seed=seed + 1)]


def differences(net: sg.Decoupled, chain: nn.Sequential) -> dict[str, float]:
    """By name, how far parameters and buffers are apart: of the layers, and of the synthesizers."""
    found: dict[str, float] = {}
    synthesizers = {stage.name: stage.synthesizer.module for stage in net.stages if stage.synthesizer}
    for name, member in net.plain.named_children():
        pairs = [(name, member, chain.get_submodule(name))]
        if name in synthesizers:
            theirs = chain.get_submodule(f"{name}-interface.synthesizer")
            pairs.append((f"synthesizer at {name}", synthesizers[name], theirs))
        for label, ours, theirs in pairs:
            for (key, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
                assert key == other
                found[f"{label}: {key}"] = float((a.double() - b.double()).abs().max())
    return found


def differ(net: sg.Decoupled, chain: nn.Sequential) -> list[str]:
    return [name for name, distance in differences(net, chain).items() if distance != 0.0]


@given(
    stages=st.integers(2, 6),
    seed=st.integers(0, 1000),
    rows=st.integers(2, 20),
    name=st.sampled_from(sorted(SYNTHESIZERS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    draw=st.data(),
)
def test_a_plain_loop_with_interfaces_is_the_local_engine(
    stages: int, seed: int, rows: int, name: str, optimizer: str, draw: st.DataObject
) -> None:
    torch.manual_seed(seed)
    model = perceptron(stages, batch_norm=bool(seed % 2))
    candidates = [member for member, _ in model.named_children()][:-1]
    at = draw.draw(st.lists(st.sampled_from(candidates), min_size=1, unique=True))
    net = engine(model, at, SYNTHESIZERS[name], OPTIMIZERS[optimizer])
    chain = with_interfaces(net)
    assert not differ(net, chain)
    data = data_of(rows, seed)
    for x, y in data:
        net.step(x, target=y)
    train_plain(chain, data, OPTIMIZERS[optimizer])
    assert not differ(net, chain)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_accumulated_parts_are_the_engines_microbatches(optimizer: Optimizer) -> None:
    """Each part's loss is its share of the step's mean; `rows` says how many examples the step has."""
    model = perceptron(4)
    sample = next(batches(1, 16))
    net = sg.decouple(
        model,
        at=["s0", "s2"],
        sample=sample,
        loss=F.cross_entropy,
        synthesizer=SYNTHESIZERS["linear, labels"],
        optimizer=optimizer,
        schedule=sg.update_unlocked(microbatches=4),
    )
    chain = with_interfaces(net, rows=16)
    stepper = optimizer(list(chain.parameters()))
    for x, y in batches(STEPS, 16):
        net.step(x, target=y)
        for part, labels in zip(x.split(4), y.split(4), strict=True):
            with sg.context(chain, labels=labels):
                (F.cross_entropy(chain(part), labels) * (4 / 16)).backward()
        stepper.step()
        stepper.zero_grad()
    assert not differ(net, chain)


class Tagger(nn.Sequential):
    """(B, T, 8) to (B, T, CLASSES): one loss term for each token."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def token_loss(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), labels.flatten(), reduction="none")


def test_token_losses_are_counted() -> None:
    """The mean over tokens of a rank-3 activation, whose lesson is a mean over examples."""
    x, y = torch.randn(6, 5, 8), torch.randint(0, CLASSES, (6, 5))
    net = sg.decouple(
        Tagger(),
        at=["1"],
        sample=(x, y),
        loss=token_loss,
        synthesizer=SYNTHESIZERS["linear, labels"],
        optimizer=SGD,
    )
    chain = with_interfaces(net)
    stepper = SGD(list(chain.parameters()))
    for _ in range(STEPS):
        net.step(x, target=y)
        with sg.context(chain, labels=y, count=30):
            (token_loss(chain(x), y).sum() / 30).backward()
        stepper.step()
        stepper.zero_grad()
    assert not differ(net, chain)


def chain_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return with_interfaces(engine(perceptron(3), ["s0", "s1"], SYNTHESIZERS["linear, labels"], SGD))


def parallel(rank: int, folder: Path) -> None:
    """One of two processes, with its half of each batch."""
    chain = chain_of()
    wrapped = nn.parallel.DistributedDataParallel(chain)
    halves = [(x[8 * rank : 8 * rank + 8], y[8 * rank : 8 * rank + 8]) for x, y in batches(STEPS, 16)]
    train_plain(wrapped, halves, SGD)
    torch.save(chain.state_dict(), folder / f"{rank}.pt")


def test_with_distributed_data_parallel_two_halves_are_the_batch(tmp_path: Path) -> None:
    """Tolerance: the mean of two means, over a few steps."""
    chain = chain_of()
    train_plain(chain, list(batches(STEPS, 16)), SGD)
    assert run_processes(2, parallel, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in chain.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-6, atol=1e-6)


def test_the_law_can_fail() -> None:
    """With a count that is wrong by one the weights are others, those of the synthesizers too."""
    net = engine(perceptron(3), ["s0"], SYNTHESIZERS["linear, labels"], SGD)
    chain = with_interfaces(net, count=17)
    data = list(batches(STEPS, 16))
    for x, y in data:
        net.step(x, target=y)
    train_plain(chain, data, SGD)
    wrong = differ(net, chain)
    assert any("synthesizer" in name for name in wrong) and any(name.startswith("s0") for name in wrong)
