"""What `Replay` remembers, in replicas: each remembers its own rows, and together they rehearse whole batches."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.engines.distributed import DistributedEngine

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from problems import CLASSES, batches  # noqa: E402
from processes import run_processes  # noqa: E402

STEPS, LESSONS, MEMORY = 9, 3, 4  # the memory is full, and forgets
Factory = Callable[[tuple[int, ...]], sg.Synthesizer]


def linear(shape: tuple[int, ...]) -> sg.Synthesizer:
    return sg.LinearSynthesizer(shape, classes=CLASSES)


CASES: dict[str, Factory] = {
    "replay": lambda shape: sg.Replay(linear(shape), lessons=LESSONS, memory=MEMORY),
    "replay of an average": lambda shape: sg.Replay(sg.Averaged(linear(shape)), lessons=LESSONS, memory=MEMORY),
    "no replay": linear,
}


def net_of(name: str) -> sg.Decoupled:
    torch.manual_seed(0)
    x, y = next(batches(1, 16))
    model = nn.Sequential(nn.Linear(x.shape[1], 12), nn.Tanh(), nn.Linear(12, CLASSES))
    return sg.decouple(
        model,
        at=["1"],
        sample=(x, y),
        loss=F.cross_entropy,
        synthesizer=CASES[name],
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=sg.update_unlocked(delay=1),
        timeout=20.0,
    )


def train(net: sg.Decoupled) -> None:
    for step, (x, y) in enumerate(batches(STEPS, 16)):
        rows = 16 if step % 3 else 11  # replicas then have parts of unequal size
        net.step(x[:rows], target=y[:rows])
    net.flush()


def both_stages_each(rank: int, folder: Path) -> None:
    """Two processes that each hold the whole plan: replicas, and nothing else."""
    for name in CASES:
        net = net_of(name)
        net.engine = DistributedEngine(net.stages, replace(net.plan, ranks=(0, 0)), timeout=20.0)
        assert net.engine.replicas is not None and len(net.engine.stages) == 2
        train(net)
        state = net.state_dict()
        remembered = [len(one) for key in state if key.endswith("_extra_state") for one in state[key]["activations"]]
        weights = {key: value for key, value in state.items() if not key.endswith("_extra_state")}
        torch.save({"weights": weights, "remembered": remembered}, folder / f"{name} {rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("replay")
    assert run_processes(2, both_stages_each, made, deadline=60) == [0, 0]
    return made


@pytest.mark.parametrize("name", CASES)
def test_two_replicas_learn_what_one_process_learns(name: str, folder: Path) -> None:
    """Tolerance: sums of rows in another order, over nine steps of up to four lessons each."""
    net = net_of(name)
    train(net)
    first, second = (torch.load(folder / f"{name} {rank}.pt") for rank in range(2))
    for key, value in first["weights"].items():
        assert torch.equal(second["weights"][key], value), key  # between replicas: the same bits
        torch.testing.assert_close(value, net.state_dict()[key], rtol=1e-5, atol=1e-6, msg=lambda text: key + text)  # noqa: B023


def test_each_replica_remembers_its_own_rows_of_the_latest_batches(folder: Path) -> None:
    found = [torch.load(folder / f"replay {rank}.pt")["remembered"] for rank in range(2)]
    rows = [16 if step % 3 else 11 for step in range(STEPS)][-MEMORY:]
    assert [sum(pair) for pair in zip(*found, strict=True)] == rows and len(found[0]) == MEMORY
    assert found[0] != found[1]
