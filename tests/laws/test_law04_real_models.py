"""Law 4 for models from the wild, split over two processes: bit for bit what one process ends with."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_processes
from torch import Tensor

import synthgrad as sg
from synthgrad.engines.distributed import DistributedEngine

sys.path.append(str(Path(__file__).parents[1]))

from test_real_models import MODELS, Case, decoupled, gpt2, made, tokens, train  # noqa: E402

CASES = MODELS | {
    "gpt-2, with dropout": Case(
        partial(gpt2, dropout=0.2), ("transformer.h.0", "transformer.h.2"), lambda: (tokens(), tokens())
    )
}

Ended = tuple[dict[str, Tensor], list[float]]


def trained(name: str, schedule: sg.Schedule, *, flush: bool = True) -> Ended:
    """The weights, and the losses; with several processes, those that are known here."""
    case = CASES[name]
    net = decoupled(case, made(case), schedule=schedule, timeout=20.0)
    losses = train(net, case, 3)
    if flush:
        net.flush()
    net.gather()
    if isinstance(net.engine, DistributedEngine):
        net.engine.close()
    return net.state_dict(), losses


def train_all(rank: int, folder: Path) -> None:
    for number, name in enumerate(CASES):
        torch.save(trained(name, sg.update_unlocked(delay=1)), folder / f"{number} {rank}.pt")
    torch.save(trained("gpt-2", sg.update_unlocked(delay=2), flush=False), folder / f"pending {rank}.pt")


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    assert run_processes(2, train_all, folder, deadline=60) == [0, 0]
    return folder


def test_dropout_learns_something_else_than_no_dropout(spread: Path) -> None:
    (_, noisy), (_, quiet) = (
        torch.load(spread / f"{list(CASES).index(name)} 1.pt") for name in ("gpt-2, with dropout", "gpt-2")
    )
    assert noisy != quiet


def expect_the_same(folder: Path, stem: str, one: Ended) -> None:
    several: Any = [torch.load(folder / f"{stem} {rank}.pt") for rank in range(2)]
    for state, _ in several:
        assert state.keys() == one[0].keys()
        assert [key for key, value in one[0].items() if not torch.equal(state[key], value)] == []
    assert several[1][1] == one[1]


@pytest.mark.parametrize("name", list(CASES))
def test_a_model_from_the_wild_learns_the_same_bits_in_two_processes_as_in_one(spread: Path, name: str) -> None:
    expect_the_same(spread, str(list(CASES).index(name)), trained(name, sg.update_unlocked(delay=1)))


def test_weights_are_gathered_while_lessons_are_pending_whose_messages_do_not_fit_their_buffers(spread: Path) -> None:
    """No buffer has grown yet: each gradient's second part goes only when the other rank takes it."""
    one = trained("gpt-2", sg.update_unlocked(delay=2), flush=False)
    several: Any = [torch.load(spread / f"pending {rank}.pt") for rank in range(2)]
    weights = {key: value for key, value in one[0].items() if not key.startswith("synthgrad.")}
    assert all(torch.equal(state[key], value) for state, _ in several for key, value in weights.items())
