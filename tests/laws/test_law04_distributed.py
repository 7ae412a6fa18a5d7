"""Law 4: the distributed engine equals the local engine on the same plan, bit for bit on CPU, with equal threads.

Dropout included: random numbers are keyed by the stage and the microbatch, whatever process draws them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import ADAM, CLASSES, SGD, Optimizer, batches, cuts, perceptron
from processes import run_processes
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.engines.distributed import DistributedEngine

LABELLED = partial(sg.LinearSynthesizer, classes=CLASSES)


def noisy_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), sg.linear_head(shape, outputs))


NOISY = partial(sg.CriticSynthesizer, classes=CLASSES, head=noisy_head)
Factory = Callable[[tuple[int, ...]], sg.Synthesizer]


@dataclass(frozen=True)
class Case:
    schedule: sg.Schedule
    synthesizer: Factory | None = LABELLED
    optimizer: Optimizer = ADAM
    mixing: float = 1.0
    dropout: bool = False
    recompute: bool = False


CASES = {
    "delay 0": Case(sg.update_unlocked()),
    "delay 1": Case(sg.update_unlocked(delay=1), optimizer=SGD),
    "delay 2": Case(sg.update_unlocked(delay=2)),
    "microbatches": Case(sg.update_unlocked(microbatches=2)),
    "microbatches, late": Case(sg.update_unlocked(delay=1, microbatches=2)),
    "forward unlocked": Case(sg.forward_unlocked()),
    "forward unlocked, late": Case(sg.forward_unlocked(delay=1, microbatches=2)),
    "backprop": Case(sg.backprop(), None),
    "mixing": Case(sg.backprop(teach=True), mixing=0.5),
    "gpipe": Case(sg.gpipe(2), None),
    "1f1b": Case(sg.one_f_one_b(2), None),
    "sporadic": Case(sg.sporadic(0.6, seed=1)),
    "sporadic, late": Case(sg.sporadic(0.6, seed=2, delay=1)),
    "warm up": Case(sg.warm_up(2, sg.update_unlocked())),
    "nothing fed back": Case(sg.update_unlocked(), sg.ZeroSynthesizer),
    "output fed back": Case(
        sg.update_unlocked(), partial(sg.CriticSynthesizer, classes=CLASSES, learns=("output", "gradient"))
    ),
    "dropout": Case(sg.update_unlocked(microbatches=2), dropout=True),
    "dropout, late": Case(sg.update_unlocked(delay=1), NOISY, dropout=True),
    "dropout, late, recomputed": Case(sg.update_unlocked(delay=1), NOISY, dropout=True, recompute=True),
    "dropout, forward unlocked": Case(sg.forward_unlocked(delay=1), NOISY, dropout=True),
    "dropout, sporadic": Case(sg.sporadic(0.6, seed=3, delay=1), NOISY, dropout=True),
    "error": Case(sg.error_broadcast(microbatches=2), partial(sg.FeedbackAlignmentSynthesizer, outputs=CLASSES)),
}
# Stages for each number of processes: one each, and several.
WORLDS = {3: 3, 2: 5}
STEPS = 5


def data() -> Iterator[tuple[Tensor, Tensor]]:
    """The last batch is short."""
    for step, (x, y) in enumerate(batches(STEPS, 16)):
        rows = 5 if step == STEPS - 1 else 16
        yield x[:rows], y[:rows]


def trained(case: Case, stages: int) -> dict[str, Any]:
    """What a process holds in the end, and what it was told on the way."""
    torch.manual_seed(0)
    model = perceptron(stages, batch_norm=True, dropout=case.dropout)
    predicted = any(action.kind is sg.Kind.P for action in case.schedule.actions(stages, 3))
    net = sg.decouple(
        model,
        at=cuts(model),
        sample=next(batches(1, 16)),
        loss=F.cross_entropy,
        synthesizer=case.synthesizer,
        optimizer=case.optimizer,
        schedule=case.schedule,
        mixing=case.mixing,
        recompute=case.recompute,
        input_synthesizer=partial(sg.MLPInputSynthesizer, hidden=4) if predicted else None,
        lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
        timeout=20.0,
    )
    losses: list[Tensor] = []
    drawn: list[int] = []  # by the script, from the stream that all processes have in common
    products: dict[str, list[Tensor]] = {}  # by cut, answer times target, row by row

    def note(agreements: Mapping[str, sg.Agreement]) -> None:
        for name, agreement in agreements.items():
            products.setdefault(name, []).append(agreement.products)

    for step, (x, y) in enumerate(data()):
        outcome = net.step(x, target=y)
        losses.append(outcome.loss)
        drawn.append(int(torch.randint(1 << 30, ())))
        note(outcome.agreement)
        if step == 2:
            note(net.flush())
    note(net.flush())
    assert not net.engine.mailbox and not any(stage.passages for stage in net.engine.stages)
    assert len(net.lr_schedulers) == len(net.engine.stages)
    net.gather()
    lessons = {name: torch.cat(rows) for name, rows in products.items()}
    found: dict[str, Any] = {
        "state": net.state_dict(),
        "losses": torch.stack(losses),
        "lessons": lessons,
        "drawn": drawn,
    }
    if isinstance(net.engine, DistributedEngine):
        found["newest"] = net.engine.transport.news.loss
        net.engine.close()
    return found


def train_all(rank: int, folder: Path, stages: int) -> None:
    for number, case in enumerate(CASES.values()):
        torch.save(trained(case, stages), folder / f"{number} {rank}.pt")


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world} processes")
def spread(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    world: int = request.param
    folder = tmp_path_factory.mktemp(f"world-{world}")
    assert run_processes(world, train_all, folder, WORLDS[world], deadline=60) == [0] * world
    return world, folder


@pytest.mark.parametrize("name", CASES)
def test_several_processes_learn_the_same_bits_as_one(spread: tuple[int, Path], name: str) -> None:
    world, folder = spread
    one = trained(CASES[name], WORLDS[world])
    several = [torch.load(folder / f"{list(CASES).index(name)} {rank}.pt") for rank in range(world)]
    for rank, found in enumerate(several):
        assert found["state"].keys() == one["state"].keys()
        for key, value in one["state"].items():
            assert torch.equal(found["state"][key], value), f"rank {rank}: {key}"
    assert torch.equal(several[-1]["losses"], one["losses"])
    assert all(found["drawn"] == one["drawn"] for found in several)
    lessons = dict(lesson for found in several for lesson in found["lessons"].items())
    assert lessons.keys() == one["lessons"].keys()
    assert all(torch.equal(lessons[name], rows) for name, rows in one["lessons"].items())


@pytest.mark.parametrize("name", CASES)
def test_the_loss_elsewhere_is_the_newest_that_has_come_with_a_gradient(spread: tuple[int, Path], name: str) -> None:
    world, folder = spread
    *others, last = (torch.load(folder / f"{list(CASES).index(name)} {rank}.pt") for rank in range(world))
    true = last["losses"].tolist()
    for found in others:
        heard = found["losses"].tolist()
        known = [-1 if math.isnan(loss) else true.index(loss) for loss in heard]
        assert known == sorted(known) and all(loss < step for step, loss in enumerate(known))
        assert found["newest"] == true[-1]  # gathered
        if "backprop" in CASES[name].schedule.name:  # in every step one came from the last stage
            assert known == [step - 1 for step in range(STEPS)]
