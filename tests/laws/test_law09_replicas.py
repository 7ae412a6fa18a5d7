"""Law 9 over ranks: a batch dealt out to replicas in unequal parts teaches what it teaches whole, within rounding.

Two stages of two replicas each, four processes; the local engine has the whole batch. Sums over the rows are added up
in another order, and the differences grow with the steps; where no layer mixes examples, nothing else differs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import CLASSES, SGD, batches, cuts, perceptron
from processes import run_processes
from torch import Tensor

import synthgrad as sg
from synthgrad.engines.distributed import DistributedEngine

STAGES, REPLICAS = 2, 2
SIZES = (16, 7, 5, 16, 4, 9)  # rows of the batches; odd ones make unequal parts
TOLERANCE = 1e-6  # of weights of size one, else relative, after six steps; without the sum it would be above 1e-2

LABELED = partial(sg.LinearSynthesizer, classes=CLASSES)


def replayed(shape: tuple[int, ...]) -> sg.Synthesizer:
    return sg.Replay(sg.Averaged(LABELED(shape)), memory=3)


def solved(shape: tuple[int, ...]) -> sg.Synthesizer:
    return sg.Clipped(sg.LeastSquaresSynthesizer(shape, classes=CLASSES, ridge=0.5), 10.0)


def masked(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, ignore_index=0)


MASKED = sg.Loss(masked, terms=lambda target: int((target != 0).sum()))


@dataclass(frozen=True)
class Case:
    schedule: sg.Schedule
    synthesizer: Any = LABELED
    loss: Any = F.cross_entropy
    clip: float | None = None


CASES = {
    "delay 0": Case(sg.update_unlocked()),
    "delay 1, microbatches": Case(sg.update_unlocked(delay=1, microbatches=2)),
    "forward unlocked": Case(sg.forward_unlocked(delay=1)),
    "sporadic": Case(sg.sporadic(0.6, seed=2, delay=1)),
    "backprop": Case(sg.backprop(), None),
    "gpipe": Case(sg.gpipe(2), None),
    "masked": Case(sg.update_unlocked(), loss=MASKED),
    "loss terms": Case(sg.update_unlocked(), loss=partial(F.cross_entropy, reduction="none")),
    "replayed": Case(sg.update_unlocked(delay=1), replayed),
    # Solved for, rounding grows by the condition of the sums; a strong ridge bounds it.
    "least squares": Case(sg.update_unlocked(delay=1, microbatches=2), solved),
    "nothing to train at the cut": Case(sg.update_unlocked(), sg.ZeroSynthesizer),
    "clipped": Case(sg.update_unlocked(), clip=0.1),
}


def data() -> Iterator[tuple[Tensor, Tensor]]:
    for rows, (x, y) in zip(SIZES, batches(len(SIZES), max(SIZES)), strict=True):
        yield x[:rows], y[:rows]


def trained(case: Case) -> dict[str, Any]:
    torch.manual_seed(0)
    model = perceptron(STAGES)
    predicted = any(action.kind is sg.Kind.P for action in case.schedule.actions(STAGES, 3))
    net = sg.decouple(
        model,
        at=cuts(model),
        sample=next(batches(1, 16)),
        loss=case.loss,
        synthesizer=case.synthesizer,
        optimizer=SGD,
        schedule=case.schedule,
        clip=case.clip,
        input_synthesizer=partial(sg.MLPInputSynthesizer, hidden=4) if predicted else None,
        timeout=20.0,
    )
    losses = [net.step(x, target=y).loss for x, y in data()]
    net.flush()
    own = [
        parameter.detach().clone()
        for stage in net.engine.stages
        for one in stage.learners
        for parameter in one.module.parameters()
    ]
    net.gather()
    if isinstance(net.engine, DistributedEngine):
        net.engine.close()
    weights = {key: value for key, value in net.state_dict().items() if isinstance(value, Tensor)}
    return {"losses": torch.stack(losses), "own": own, "weights": weights}


def train_all(rank: int, folder: Path) -> None:
    torch.save({name: trained(case) for name, case in CASES.items()}, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder, world = tmp_path_factory.mktemp("replicas"), STAGES * REPLICAS
    assert run_processes(world, train_all, folder, deadline=90) == [0] * world
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("name", CASES)
def test_replicas_learn_what_the_whole_batch_teaches(spread: list[dict[str, Any]], name: str) -> None:
    one = trained(CASES[name])
    for rank, found in enumerate(spread):
        assert found[name]["weights"].keys() == one["weights"].keys()
        pairs = [(found[name]["weights"][key].double(), value.double()) for key, value in one["weights"].items()]
        off = max(float(((ours - theirs).abs() / theirs.abs().clamp_min(1)).max()) for ours, theirs in pairs)
        assert off < TOLERANCE, f"rank {rank} is off by {off:.2g}"


@pytest.mark.parametrize("name", CASES)
def test_replicas_hold_the_same_bits(spread: list[dict[str, Any]], name: str) -> None:
    for stage in range(STAGES):
        first, second = (spread[stage * REPLICAS + replica][name]["own"] for replica in range(REPLICAS))
        assert len(first) == len(second) > 0 and all(map(torch.equal, first, second))


@pytest.mark.parametrize("name", CASES)
def test_the_loss_told_is_that_of_the_whole_batch(spread: list[dict[str, Any]], name: str) -> None:
    one = trained(CASES[name])["losses"]
    last = [found[name]["losses"] for found in spread[-REPLICAS:]]
    assert all(torch.equal(losses, last[0]) for losses in last)
    torch.testing.assert_close(last[0], one, rtol=0, atol=TOLERANCE)
