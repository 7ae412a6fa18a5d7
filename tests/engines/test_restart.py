"""A stage process dies, or stands still, at the worst moments: it is noticed in time, and after a restart all is well.

Two processes, real signals. The injector strikes at one step, once; that it did is asserted. As torchrun does, whoever
starts the processes ends those that are left when one has failed, and starts them all anew with the same script.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

import synthgrad as sg
from synthgrad.engines import checkpoint
from synthgrad.engines.transport import ProcessTransport

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from problems import ADAM, CLASSES, batches, cuts, perceptron  # noqa: E402

STEPS, EVERY = 7, 2
STRUCK_AT = 3  # the steps are counted from 0; a checkpoint is written before step 2, and behind steps 3 and 5
SAVED_AS = f"step-{STRUCK_AT + 1:08d}"
TIMEOUT = 6.0  # a process waits so long for another one
WORLD = 2


@dataclass(frozen=True)
class Fault:
    """Where a rank is struck, and by what."""

    point: str
    rank: int
    blow: signal.Signals

    @property
    def name(self) -> str:
        return f"{self.blow.name} {self.point}"


POINTS = {"before a send": 0, "between isend and wait": 1, "in a save": 1, "before the pointer": 0, "behind it": 0}
FAULTS = [Fault(point, rank, blow) for blow in (signal.SIGKILL, signal.SIGSTOP) for point, rank in POINTS.items()]


def arm(fault: Fault, folder: Path) -> None:
    """From now on this process is struck at the fault's point, once."""

    def strike() -> None:
        (folder / "struck").touch(exist_ok=False)
        os.kill(os.getpid(), fault.blow)

    def around(owner: Any, name: str, here: Callable[..., bool], *, before: bool) -> None:
        whole = getattr(owner, name)

        def struck(*args: Any, **kwargs: Any) -> Any:
            if before and here(*args):
                strike()
            done = whole(*args, **kwargs)
            if not before and here(*args):
                strike()
            return done

        setattr(owner, name, struck)

    if "send" in fault.point:
        before = fault.point.startswith("before")
        around(ProcessTransport, "send", lambda post, *_: post.step.number == STRUCK_AT, before=before)
    elif fault.point == "in a save":
        around(checkpoint, "_write", lambda path, _: path.parent.name.startswith(SAVED_AS), before=True)
    else:
        around(checkpoint, "_point", lambda _, name: name == SAVED_AS, before=fault.point.startswith("before"))


def made() -> sg.Decoupled:
    torch.manual_seed(0)
    model = perceptron(3, dropout=True)
    return sg.decouple(
        model,
        at=cuts(model),
        sample=next(batches(1, 16)),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=CLASSES),
        optimizer=ADAM,
        schedule=sg.update_unlocked(delay=1),
        timeout=TIMEOUT,
    )


def script(folder: Path) -> sg.Decoupled:
    """What a user writes."""
    net = made()
    start = net.load(folder) or 0
    for step, (x, y) in enumerate(batches(STEPS, 16)):
        if step >= start:
            net.step(x, target=y)
            if step % EVERY == 1:
                net.save(folder, extra=step + 1)
    net.flush()
    net.gather()
    return net


def run_rank(rank: int, folder: Path, attempt: int, fault: Fault | None) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    sys.stderr = (folder / f"{attempt} {rank}.txt").open("w", encoding="utf-8")
    meeting = f"file://{folder / f'meeting {attempt}'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=timedelta(seconds=40))
    if fault is not None and fault.rank == rank:
        arm(fault, folder)
    try:
        net = script(folder / "run")
    except sg.SynthgradError as error:
        (folder / "told").write_text(f"{time.time()} {type(error).__name__} {error}", encoding="utf-8")
        os._exit(1)
    torch.save(final(net), folder / f"{rank}.pt")
    dist.destroy_process_group()


def final(net: sg.Decoupled) -> dict[str, Any]:
    pieces = {stage.index: stage.piece.optimizer for stage in net.engine.stages}
    optimizers = {stage: optimizer.state_dict()["state"] for stage, optimizer in pieces.items() if optimizer}
    return {"state": net.state_dict(), "optimizers": optimizers, "steps": net.engine.steps}


def launch(folder: Path, attempt: int, fault: Fault | None) -> Sequence[BaseProcess]:
    context = get_context("forkserver")  # torch is imported once, not by every process
    context.set_forkserver_preload(["pytest", "torch.distributed.checkpoint", "synthgrad.decoupled"])
    ranks = [context.Process(target=run_rank, args=(rank, folder, attempt, fault)) for rank in range(WORLD)]
    for process in ranks:
        process.start()
    return ranks


def end(ranks: Sequence[BaseProcess], deadline: float) -> list[int | None]:
    """Wait until all have ended, or one has failed, or it is late; end those that are left. Their exit codes."""
    while any(process.is_alive() for process in ranks) and time.monotonic() < deadline:
        if any(process.exitcode == 1 for process in ranks):
            break
        time.sleep(0.02)
    for process in ranks:
        process.kill()
        process.join()
    return [process.exitcode for process in ranks]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[int | None], list[int | None]]]:
    """All faults at once, since they mostly wait: by name its folder, and the exit codes of both attempts."""
    folders = {fault: tmp_path_factory.mktemp("restart") for fault in FAULTS}
    first = {fault: launch(folder, 0, fault) for fault, folder in folders.items()}
    deadline = time.monotonic() + 40
    codes = {fault: end(ranks, deadline) for fault, ranks in first.items()}
    second = {fault: launch(folder, 1, None) for fault, folder in folders.items()}
    deadline = time.monotonic() + 40
    return {fault.name: (folders[fault], codes[fault], end(ranks, deadline)) for fault, ranks in second.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return final(script(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_is_noticed_in_time_and_after_the_restart_the_run_ends_as_if_nothing_had_been(
    fault: Fault, runs: dict[str, tuple[Path, list[int | None], list[int | None]]], undisturbed: dict[str, Any]
) -> None:
    folder, first, second = runs[fault.name]
    struck = (folder / "struck").stat().st_mtime
    assert first[fault.rank] == -signal.SIGKILL and first[1 - fault.rank] == 1, first
    told, name, _ = (folder / "told").read_text(encoding="utf-8").split(" ", 2)
    assert name == "TransportError"
    late = TIMEOUT if fault.blow is signal.SIGSTOP else 0.0
    assert late - 0.5 <= float(told) - struck < late + 5.0
    assert second == [0, 0]
    for rank in range(WORLD):
        found = torch.load(folder / f"{rank}.pt")
        assert found["steps"] == STEPS
        assert all(torch.equal(found["state"][key], value) for key, value in undisturbed["state"].items())
        assert found["optimizers"]
        for stage, state in found["optimizers"].items():
            pairs = (
                (state[place][key], value)
                for place, one in undisturbed["optimizers"][stage].items()
                for key, value in one.items()
            )
            assert all(torch.equal(a, b) for a, b in pairs)


def test_the_checkpoint_that_was_begun_is_not_the_newest(
    runs: dict[str, tuple[Path, list[int | None], list[int | None]]],
) -> None:
    for fault in FAULTS:
        folder = runs[fault.name][0] / "run"
        assert (folder / "LATEST").read_text(encoding="utf-8") == "step-00000006"
        assert sorted(path.name for path in folder.iterdir()) == ["LATEST", "step-00000004", "step-00000006"]
