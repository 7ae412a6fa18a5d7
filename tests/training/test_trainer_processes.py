"""`Trainer` with one process for each stage ends with the bits of one process, killed and resumed or not (law 8)."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import synthgrad as sg
from synthgrad.core.events import Event, Failed, Started, StepDone, decode

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from processes import run_processes  # noqa: E402
from test_trainer import STEPS, data, fitted, made, noisy, shuffled  # noqa: E402

STRUCK_AT = 9  # a checkpoint is written behind every second step, and at the end of each epoch of five
Found = dict[str, Any]


def wrong() -> list[Any]:
    """The better it learns, the worse it fits these."""
    return [(x, (y + 1) % 3) for x, y in DataLoader(data(13), 5)]


def stopped_early(folder: Path | None) -> sg.Decoupled:
    net = made()
    sg.Trainer(net, epochs=30, patience=2, folder=folder).fit(shuffled(), wrong())
    return net


def tried(net: sg.Decoupled) -> tuple[float, float]:
    found = sg.Trainer(net, epochs=1).evaluate(DataLoader(data(13), 5))
    return found.loss, found.error


def train(rank: int, folder: Path, step: int | None = None) -> None:
    """What the script does; at this step, if any, the second process is killed."""
    whole = sg.Decoupled.step

    def struck(net: sg.Decoupled, *given: Any, **named: Any) -> Any:
        if net.engine.steps == step and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(net, *given, **named)

    sg.Decoupled.step = struck  # type: ignore[method-assign]
    told: list[Event] = []
    logger = sg.JSONLLogger(folder / f"{rank}.jsonl")
    net = fitted(noisy(), folder / "run", callbacks=[told.append], loggers=[logger])
    early = stopped_early(folder / "early")
    found: Found = {"state": net.state_dict(), "tried": tried(net), "told": len(told)}
    found |= {"early": early.state_dict(), "steps": early.engine.steps}
    torch.save(found, folder / f"{rank}.pt")


def played(folder: Path) -> list[Found]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def events(path: Path) -> list[Event]:
    return [decode(line)[0] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    assert run_processes(2, train, folder) == [0, 0]
    return folder


def assert_equal(found: Iterable[Found], one: Found) -> None:
    for other in found:
        for part in ("state", "early"):
            assert other[part].keys() == one[part].keys()
            assert [key for key, value in one[part].items() if not torch.equal(other[part][key], value)] == []
        assert (other["tried"], other["steps"]) == (one["tried"], one["steps"])


def test_two_processes_train_evaluate_and_stop_as_one_does(together: Path, tmp_path: Path) -> None:
    net, early = fitted(noisy(), tmp_path / "run"), stopped_early(tmp_path / "early")
    one = {"state": net.state_dict(), "tried": tried(net), "early": early.state_dict(), "steps": early.engine.steps}
    assert STEPS / 3 < one["steps"] < 30 * STEPS / 3
    assert_equal(played(together), one)


def test_only_the_first_process_is_told_anything(together: Path) -> None:
    first, second = played(together)
    assert first["told"] > STEPS and second["told"] == 0
    assert not (together / "1.jsonl").exists()
    found = events(together / "0.jsonl")
    assert isinstance(found[0], Started)
    assert [one.step for one in found if isinstance(one, StepDone)] == list(range(1, STEPS + 1))


def test_killed_and_resumed_they_end_as_those_that_were_not(together: Path, tmp_path: Path) -> None:
    assert run_processes(2, train, tmp_path, STRUCK_AT) == [1, -signal.SIGKILL]
    last = events(tmp_path / "0.jsonl")[-1]
    assert isinstance(last, Failed) and "rank 1" in last.reason
    (tmp_path / "meeting").unlink(missing_ok=True)
    assert run_processes(2, train, tmp_path) == [0, 0]
    assert_equal(played(tmp_path), played(together)[0])
    steps = [one.step for one in events(tmp_path / "0.jsonl") if isinstance(one, StepDone)]
    assert steps == list(range(1, STEPS + 1))  # the log goes on behind the checkpoint, and holds no step twice


def test_under_torchrun_the_example_ends_as_in_one_process(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "13_trainer.py"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    def said(folder: str, *launcher: str) -> str:
        command = [sys.executable, *launcher, str(example), str(tmp_path / folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    alone, together = said("alone"), said("together", *torchrun)
    assert alone == together and alone.startswith("test error")
    assert said("together") == alone  # one process, from their last checkpoint: there is nothing left to learn
