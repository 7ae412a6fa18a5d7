"""Law 8: a run that saves every few steps, is killed and resumed ends, bit for bit, as one that was not killed.

Here it is ended between two steps, and goes on in a net newly made; real kills, of real processes at the worst moments,
are in tests/engines/test_restart.py. One process and several can go on from each other's checkpoints.
"""

from collections.abc import Callable, Iterator
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

Factory = Callable[[tuple[int, ...]], sg.Synthesizer]
STEPS, EVERY, STAGES = 7, 2, 3


def noisy_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), sg.linear_head(shape, outputs))


def replayed(shape: tuple[int, ...]) -> sg.Synthesizer:
    return sg.Replay(sg.Averaged(sg.Normalized(sg.LinearSynthesizer(shape, classes=CLASSES))), memory=3)


@dataclass(frozen=True)
class Case:
    schedule: sg.Schedule
    synthesizer: Factory | None
    optimizer: Optimizer = ADAM
    lr_schedule: Callable[[torch.optim.Optimizer], Any] = partial(
        torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5
    )
    synthesizer_lr_schedule: Callable[[torch.optim.Optimizer], Any] | None = None


CASES = {
    "delay 1, dropout": Case(
        sg.update_unlocked(delay=1), partial(sg.CriticSynthesizer, classes=CLASSES, head=noisy_head)
    ),
    "replay": Case(sg.update_unlocked(delay=2, microbatches=2), replayed, SGD),
    "both rates fall": Case(
        sg.update_unlocked(),
        partial(sg.CriticSynthesizer, classes=CLASSES),
        synthesizer_lr_schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.7),
    ),
    "stale": Case(sg.update_unlocked(), partial(sg.StaleSynthesizer, examples=40, decay=0.5)),
    "least squares": Case(sg.update_unlocked(delay=1), partial(sg.LeastSquaresSynthesizer, classes=CLASSES)),
    "forward unlocked": Case(
        sg.forward_unlocked(delay=1),
        partial(sg.LinearSynthesizer, classes=CLASSES),
        lr_schedule=partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 4]),
    ),
    "sporadic": Case(sg.sporadic(0.6, seed=1, delay=1), partial(sg.MLPSynthesizer, hidden=4), SGD),
    "backprop": Case(sg.one_f_one_b(2), None, partial(torch.optim.AdamW, lr=0.01, amsgrad=True)),
    "warm up": Case(sg.warm_up(3, sg.update_unlocked()), partial(sg.LinearSynthesizer, classes=CLASSES)),
}


def made(case: Case, seed: int = 0) -> sg.Decoupled:
    torch.manual_seed(seed)
    model = perceptron(STAGES, batch_norm=True, dropout=True)
    predicted = any(action.kind is sg.Kind.P for action in case.schedule.actions(STAGES, 3))
    return sg.decouple(
        model,
        at=cuts(model),
        sample=next(batches(1, 16)),
        loss=F.cross_entropy,
        synthesizer=case.synthesizer,
        optimizer=case.optimizer,
        schedule=case.schedule,
        input_synthesizer=partial(sg.MLPInputSynthesizer, hidden=4) if predicted else None,
        lr_schedule=case.lr_schedule,
        synthesizer_lr_schedule=case.synthesizer_lr_schedule,
        timeout=20.0,
    )


def run(net: sg.Decoupled, folder: Path | None, until: int = STEPS, start: int = 0) -> list[Tensor]:
    """The script: it draws its own noise from torch's stream, and saves every few steps; or flushes only."""
    losses: list[Tensor] = []
    for step, (x, y) in enumerate(batches(until, 16)):
        if step >= start:
            index = torch.arange(16) + step % 3 * 8
            losses.append(net.step(x + 0.01 * torch.randn_like(x), target=y, index=index).loss)
            if step % EVERY == 1 and folder is not None:
                net.save(folder, extra={"next": step + 1})
            elif step % EVERY == 1:
                net.flush()
    net.flush()
    net.gather()
    return losses


def everything(net: sg.Decoupled) -> Iterator[tuple[str, Any]]:
    """All that the rest of a run can depend on, of this process's stages."""
    yield from net.state_dict().items()
    for stage in net.engine.stages:
        for place, learner in enumerate(stage.learners):
            if learner.optimizer is not None:
                yield f"optimizer {stage.index} {place}", learner.optimizer.state_dict()
    for place, scheduler in enumerate(net.lr_schedulers):
        yield f"lr schedule {place}", scheduler.state_dict()
    yield "steps", (net.engine.steps, net.engine.since)
    yield "random", torch.get_rng_state()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def differences(one: sg.Decoupled, other: dict[str, Any]) -> list[str]:
    return [name for name, value in everything(one) if not same(value, other[name])]


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_ended_and_resumed_is_the_run_that_was_not(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    whole = made(case)
    losses = run(whole, None)
    first = made(case)
    assert first.load(tmp_path / "run") is None  # nothing there yet
    run(first, tmp_path / "run", until=5)  # the fifth step comes after the last save, and is lost
    again = made(case, seed=9)  # other weights, another seed: all comes from the checkpoint
    torch.rand(17)
    found = again.load(tmp_path / "run")
    assert found == {"next": 4}
    rest = run(again, tmp_path / "run", start=found["next"])
    assert all(map(torch.equal, rest, losses[4:]))
    assert differences(again, dict(everything(whole))) == []


# ---- several processes -----------------------------------------------------------------------------------------------


FIRST = 3  # steps, before the first restart; also the seed, as others are taken later
SHARED = ("delay 1, dropout", "replay", "forward unlocked", "sporadic")


def begin(rank: int, folder: Path, until: int) -> None:
    """Some cases up to a step, from the last checkpoint if there is one."""
    for name in SHARED:
        case = CASES[name]
        net = made(case, seed=until)
        found = net.load(folder / name) or {"next": 0}
        run(net, folder / name, until, found["next"])
        if until == STEPS:
            torch.save(dict(everything(net)), folder / f"{name} {rank}.pt")


def test_several_processes_and_one_go_on_from_each_others_checkpoints(tmp_path: Path) -> None:
    assert run_processes(3, begin, tmp_path, FIRST, deadline=60) == [0, 0, 0]
    (tmp_path / "meeting").unlink(missing_ok=True)
    begin(0, tmp_path, 5)
    assert run_processes(2, begin, tmp_path, STEPS, deadline=60) == [0, 0]
    for name in SHARED:
        case = CASES[name]
        whole = made(case, seed=FIRST)
        run(whole, None)
        expected = dict(everything(whole))
        for rank in range(2):
            found = torch.load(tmp_path / f"{name} {rank}.pt")
            gathered = {key for key in whole.state_dict() if rank == 0 or not key.endswith("_extra_state")}
            for key in gathered | {"steps", "random"}:  # what a synthesizer remembers stays with its stage, on rank 0
                assert same(found[key], expected[key]), f"{name}, rank {rank}: {key}"
            own = {key: value for key, value in found.items() if key.startswith("optimizer")}
            assert own and all(same(value, expected[key]) for key, value in own.items()), f"{name}, rank {rank}"
