"""Stages on GPUs, one process each: messages go through the memory of the host, and arrive on the receiver's GPU.

Tolerance: kernels add in another order than those of a CPU; a few steps carry that on.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.engines.distributed import DistributedEngine, _expect_present_device

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from problems import CLASSES, batches  # noqa: E402
from processes import run_processes  # noqa: E402

WORLDS = {2: 1, 4: 2}  # processes, and replicas among them
SCHEDULES: dict[str, tuple[sg.Schedule, bool]] = {
    "unlocked": (sg.update_unlocked(), True),
    "late": (sg.update_unlocked(delay=1, microbatches=2), True),
    "1f1b": (sg.one_f_one_b(2), False),
}


def trained(name: str, device: str, folder: Path) -> dict[str, Any]:
    """It saves on the way, and so flushes: what is learned is no longer late then."""
    schedule, synthetic = SCHEDULES[name]
    torch.manual_seed(0)
    x, y = next(batches(1, 16))
    first = nn.Sequential(nn.Linear(x.shape[1], 12), nn.LayerNorm(12), nn.Tanh())
    model = nn.Sequential(first, nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, CLASSES))).to(device)
    net = sg.decouple(
        model,
        at=["0"],
        sample=(x.to(device), y.to(device)),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=CLASSES) if synthetic else None,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=schedule,
        timeout=60.0,
    )
    for step, (x, y) in enumerate(batches(6, 16)):
        rows = 16 if step % 3 else 11
        net.step(x[:rows].to(device), target=y[:rows].to(device))
        if step == 3:
            net.save(folder / name)
    net.flush()
    net.gather()
    assert not net.engine.mailbox and {value.device.type for value in net.parameters()} == {torch.device(device).type}
    if isinstance(net.engine, DistributedEngine):
        net.engine.close()
    return {key: value.cpu() for key, value in net.state_dict().items()}


def own_gpu(rank: int, folder: Path) -> None:
    """As a script under torchrun: each process has a GPU of its own, where there are enough; else they share."""
    torch.cuda.set_device(rank % torch.cuda.device_count())
    for name in SCHEDULES:
        torch.save(trained(name, f"cuda:{torch.cuda.current_device()}", folder), folder / f"{name} {rank}.pt")


@pytest.mark.gpu
@pytest.mark.parametrize("world", WORLDS)
def test_processes_on_gpus_learn_what_one_process_learns_on_the_cpu(world: int, tmp_path: Path) -> None:
    assert run_processes(world, own_gpu, tmp_path, deadline=240) == [0] * world
    for name in SCHEDULES:
        expected = trained(name, "cpu", tmp_path / "alone")
        for rank in range(world):
            for key, value in torch.load(tmp_path / f"{name} {rank}.pt").items():
                torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4, msg=lambda text: key + text)  # noqa: B023


def test_what_is_done_on_gpus_is_right_on_the_cpu(tmp_path: Path) -> None:
    assert run_processes(2, on_cpu, tmp_path, deadline=60) == [0, 0]
    for name in SCHEDULES:
        expected = trained(name, "cpu", tmp_path / "alone")
        found = torch.load(tmp_path / f"{name} 1.pt")
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def on_cpu(rank: int, folder: Path) -> None:
    for name in SCHEDULES:
        torch.save(trained(name, "cpu", folder), folder / f"{name} {rank}.pt")


class Elsewhere(nn.Parameter):
    """A weight that says it is on a GPU."""

    device = torch.device("cuda", 1)  # type: ignore[assignment]


def test_a_stage_on_another_gpu_than_the_process_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    x, y = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    net = sg.decouple(model, at=["0"], sample=(x, y), loss=F.cross_entropy, optimizer=torch.optim.SGD)
    _expect_present_device(net.stages)
    monkeypatch.setattr(net.stages[1].piece.module, "parameters", lambda: iter([Elsewhere(torch.zeros(2))]))
    with pytest.raises(sg.SynthgradError, match=r"stage 1 \(output\) is on cuda:1, .* own GPU is cuda:0.*LOCAL_RANK"):
        _expect_present_device(net.stages)


# ---- models that others have spread already --------------------------------------------------------------------------


def wrapped(rank: int, folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ.setdefault("LOCAL_RANK", str(rank))
    made = partial(sg.decouple, sample=(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)), loss=F.cross_entropy)
    told = []
    for spread in ("ddp", "sharded"):
        torch.manual_seed(0)
        model: nn.Module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        if spread == "ddp":
            model, at = nn.parallel.DistributedDataParallel(model), "module.0"
        else:
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
            at = "0"
        try:
            made(model, at=[at], optimizer=torch.optim.SGD)
        except sg.PartitionError as error:
            told.append(str(error))
    torch.save(told, folder / f"{rank}.pt")


def test_a_model_that_is_sharded_or_wrapped_already_is_refused_on_every_rank(tmp_path: Path) -> None:
    assert run_processes(2, wrapped, tmp_path, deadline=60) == [0, 0]
    for rank in range(2):
        ddp, sharded = torch.load(tmp_path / f"{rank}.pt")
        assert "DistributedDataParallel" in ddp and "pass the model as it was" in ddp
        assert "'0.weight' is sharded (fully_shard, a DTensor)" in sharded and "cut the model into more" in sharded
