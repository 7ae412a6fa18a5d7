"""Checkpoints that are not what they should be: one clear error on each rank, and the one before stays."""

import json
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import synthgrad as sg
from synthgrad.core.errors import CheckpointError, TransportError
from synthgrad.engines.values import Tensors, put_together, take_apart, tensors_in

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from processes import run_processes  # noqa: E402


def made(width: int = 8, at: tuple[str, ...] = ("1",), timeout: float = 10.0, **given: Any) -> sg.Decoupled:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))
    settings: dict[str, Any] = {
        "synthesizer": partial(sg.LinearSynthesizer, classes=4),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "timeout": timeout,
    } | given
    return sg.decouple(model, at=at, sample=batch(0), loss=F.cross_entropy, **settings)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 8, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def trained(net: sg.Decoupled, steps: int = 2) -> sg.Decoupled:
    for _ in range(steps):
        x, y = batch(net.engine.steps)
        net.step(x, target=y)
    return net


def weights(net: sg.Decoupled) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---- values ----------------------------------------------------------------------------------------------------------


def test_plain_values_and_tensors_come_back_as_they_were_through_json() -> None:
    value = {
        "none": None,
        "numbers": [1, 2.5, float("inf"), True],
        "tuple": (1, ("a", [])),
        "keys": {0: "zero", (1, 2): {"deep": torch.ones(2)}},
        "counter": Counter({3: 2}),
        "empty": {},
        "tensor": torch.arange(3),
    }
    tensors = Tensors()
    parts = json.loads(json.dumps(take_apart(value, "x", tensors)))
    assert set(tensors_in(parts)) == set(tensors.by_name) == {"x/keys/(1, 2)/deep", "x/tensor"}
    back = put_together(parts, tensors.by_name.__getitem__)
    assert torch.equal(back["keys"].pop((1, 2))["deep"], torch.ones(2)) and torch.equal(
        back.pop("tensor"), torch.arange(3)
    )
    value["keys"].pop((1, 2))
    value.pop("tensor")
    assert back == value and type(back["counter"]) is Counter


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", lambda: None])
def test_what_is_not_plain_is_named(value: object, tmp_path: Path) -> None:
    net = trained(made())
    with pytest.raises(CheckpointError, match=r"extra/here/0: got a builtins.*expected None, a bool"):
        net.save(tmp_path, extra={"here": [value]})
    assert list(tmp_path.iterdir()) == []
    net.save(tmp_path)  # and all is well


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_the_latest_are_kept_and_the_pointer_tells_the_newest(tmp_path: Path) -> None:
    net = made()
    for _ in range(4):
        saved = trained(net).save(tmp_path, keep=2)
    assert saved == tmp_path / "step-00000008"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-00000006", "step-00000008"]
    net.save(tmp_path, keep=1)  # again after the same step: the one before goes when the new one is there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-00000008+"]
    assert made().load(tmp_path) is None and (tmp_path / "LATEST").read_text(encoding="utf-8") == "step-00000008+"
    with pytest.raises(CheckpointError, match="keep=0"):
        net.save(tmp_path, keep=0)


def test_without_a_checkpoint_loading_does_nothing(tmp_path: Path) -> None:
    net = made()
    before = weights(net)
    assert net.load(tmp_path / "nowhere") is None and net.load(tmp_path) is None
    assert same(weights(net), before) and net.engine.steps == 0


def test_nothing_that_is_read_is_a_pickle(tmp_path: Path) -> None:
    saved = trained(made()).save(tmp_path, extra={"seen": torch.arange(4)})
    assert {path.suffix for path in saved.iterdir()} == {".json", ".safetensors"}


def test_in_the_middle_of_a_run_one_can_go_back(tmp_path: Path) -> None:
    net = trained(made(schedule=sg.update_unlocked(delay=1)))
    net.save(tmp_path)
    expected = weights(trained(net, 3))
    net.load(tmp_path)
    assert net.engine.steps == 2 and same(weights(trained(net, 3)), expected)


# ---- what is refused, before anything has changed --------------------------------------------------------------------


def cut_short(path: Path) -> None:
    (shard,) = path.glob("*.safetensors")
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a stage is missing": (lambda path: (path / "stage-1.json").unlink(), r"not whole: stage-1.json missing"),
    "a shard is missing": (lambda path: next(path.glob("*.safetensors")).unlink(), "tensors are missing"),
    "cut short": (cut_short, "may be cut short"),
    "no json": (lambda path: (path / "stage-0.json").write_text("{", encoding="utf-8"), "stage-0.json cannot be read"),
    "no header": (lambda path: (path / "checkpoint.json").unlink(), "checkpoint.json cannot be read"),
    "gone": (shutil.rmtree, "checkpoint.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_remedy_works(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGES[name]
    net = trained(made())
    older = net.save(tmp_path)
    expected = weights(net)
    damage(trained(net).save(tmp_path))
    other = made()
    before = weights(other)
    with pytest.raises(CheckpointError, match=f"(?s){message}.*write one of {older.name} into"):
        other.load(tmp_path)
    assert same(weights(other), before) and other.engine.steps == 0
    (tmp_path / "LATEST").write_text(older.name, encoding="utf-8")
    other.load(tmp_path)
    assert same(weights(other), expected) and other.engine.steps == 2


OTHERS: dict[str, tuple[Callable[[], sg.Decoupled], str]] = {
    "cuts": (lambda: made(at=("3",)), r"its cuts: \['1'\], here: \['3'\]"),
    "schedule": (lambda: made(schedule=sg.update_unlocked(delay=1)), r"its schedule: update_unlocked\(delay=0\), here"),
    "synthesizers": (
        lambda: made(synthesizer=sg.ZeroSynthesizer),
        r"its synthesizers: \['LinearSynthesizer', None\], here: \['ZeroSynthesizer', None\]",
    ),
    "shapes": (lambda: made(width=6), r"'0.bias' is torch.float32 \(8,\) there, and torch.float32 \(6,\) here"),
    "types": (
        lambda: made().double(),
        r"'0.bias' is torch.float32 \(8,\) there, and torch.float64 \(8,\) here",
    ),
    "lr schedule": (
        lambda: made(lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=2)),
        "stage 0: got a learning-rate schedule here",
    ),
    "synthesizers' lr schedule": (
        lambda: made(synthesizer_lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=2)),
        "stage 0: got a learning-rate schedule here",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_model_is_refused_naming_what_differs(name: str, tmp_path: Path) -> None:
    other, message = OTHERS[name]
    trained(made()).save(tmp_path)
    net = other()
    before = weights(net)
    with pytest.raises(CheckpointError, match=message):
        net.load(tmp_path)
    assert same(weights(net), before) and net.engine.steps == 0


def test_tied_weights_within_a_stage_and_buffers_come_back(tmp_path: Path) -> None:
    def tied() -> sg.Decoupled:
        torch.manual_seed(1)
        first = nn.Linear(8, 8)
        second = nn.Linear(8, 8)
        second.weight = first.weight
        model = nn.Sequential(nn.Sequential(first, nn.BatchNorm1d(8), nn.ReLU(), second), nn.Linear(8, 4))
        return sg.decouple(model, at=["0"], sample=batch(0), loss=F.cross_entropy, optimizer=torch.optim.Adam)

    net, other = trained(tied()), tied()
    net.save(tmp_path)
    other.load(tmp_path)
    assert same(weights(trained(net)), weights(trained(other)))
    sg.export(tmp_path, tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == net.plain.state_dict().keys()


# ---- plain weights ---------------------------------------------------------------------------------------------------


def test_plain_weights_are_exported_from_a_model_or_its_folder(tmp_path: Path) -> None:
    net = trained(made())
    net.save(tmp_path)
    sg.export(tmp_path, tmp_path / "folder.safetensors")
    sg.export(net, tmp_path / "net.safetensors")
    expected = net.plain.state_dict()
    for name in ("folder", "net"):
        assert same(load_file(tmp_path / f"{name}.safetensors"), expected)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        sg.export(tmp_path / "nowhere", tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="cannot be written"):
        sg.export(net, tmp_path / "no" / "w.safetensors")


# ---- two processes ---------------------------------------------------------------------------------------------------


def failing(act: Callable[[], object]) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        act()
    except sg.SynthgradError as error:
        return {"error": type(error).__name__, "message": str(error), "seconds": time.monotonic() - begun}
    return {"error": None}


def play(rank: int, folder: Path) -> None:
    told: dict[str, Any] = {}
    net = trained(made(width=64))
    net.save(folder / "run", extra=1)
    whole = sorted(path.name for path in (folder / "run").iterdir())
    trained(net)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # as a full disk: nothing can be written beyond
    told["full disk"] = failing(lambda: net.save(folder / "run", extra=2))
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    dist.barrier()
    told["left"] = sorted(path.name for path in (folder / "run").iterdir()) == whole
    dist.barrier()  # the next save begins a folder, which the other rank shall not see yet
    net.save(folder / "run", extra=3)  # there is room again
    told["after"] = made(width=64).load(folder / "run")
    if rank == 0:
        shutil.copytree(folder / "run", folder / "bad")
        (folder / "bad" / (folder / "run" / "LATEST").read_text(encoding="utf-8") / "stage-1.json").write_text("?")
    dist.barrier()
    other = made(width=64)
    before = weights(other)
    told["damaged"] = failing(lambda: other.load(folder / "bad"))
    told["unchanged"] = same(weights(other), before)
    told["other folders"] = failing(lambda: other.load(folder / ("run" if rank else "nowhere")))
    told["other extra"] = failing(lambda: net.save(folder / "run", extra=print if rank == 0 else None))
    late = made(width=64, timeout=1.0)
    told["alone"] = failing(lambda: late.save(folder / "run")) if rank == 0 else {}
    dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("checkpoint")
    assert run_processes(2, play, folder, deadline=60) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_a_full_disk_on_one_rank_is_told_to_all_and_the_checkpoint_before_stays(played: list[dict[str, Any]]) -> None:
    for told in played:
        assert told["full disk"]["error"] == "CheckpointError"
        assert "rank 1: OSError: [Errno 27] File too large" in told["full disk"]["message"]
        assert told["left"] and told["after"] == 3


def test_what_one_rank_cannot_read_no_rank_loads(played: list[dict[str, Any]]) -> None:
    for told in played:
        assert told["damaged"]["error"] == "CheckpointError" and told["unchanged"]
        assert "rank 1: " in told["damaged"]["message"] and "stage-1.json cannot be read" in told["damaged"]["message"]


def test_ranks_that_name_other_folders_or_values_are_told(played: list[dict[str, Any]]) -> None:
    for told in played:
        assert told["other folders"]["error"] == told["other extra"]["error"] == "CheckpointError"
        assert "name a folder that all of them see" in told["other folders"]["message"]
        assert "rank 0: common/extra: got a builtins" in told["other extra"]["message"]


def test_who_saves_alone_does_not_wait_for_ever(played: list[dict[str, Any]]) -> None:
    assert played[0]["alone"]["error"] == TransportError.__name__ and played[0]["alone"]["seconds"] < 4
