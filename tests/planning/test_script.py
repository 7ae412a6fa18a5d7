"""What a plan prints, put into a file and started as it says."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from synthgrad.planning.advice import Advice, advise
from synthgrad.planning.balance import Segment
from synthgrad.planning.script import script

MODEL = """
import torch
from torch import Tensor, nn

import synthgrad as sg

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor, *, scale: float) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x) * scale)
        return x

def classes():
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))), (torch.randn(16, 8), torch.randint(0, 8, (16,)))

def tokens():
    return Scaled(), (torch.randn(16, 5, 8), sg.Keywords(scale=0.5), torch.randint(0, 8, (16, 5)))

def values():
    return Scaled(), (torch.randn(16, 8), sg.Keywords(scale=0.5), torch.randn(16, 8))

def own_loss():
    model, sample = classes()
    return model, sample, lambda output, target: nn.functional.cross_entropy(output, target, label_smoothing=0.1)
"""


def advice(names: list[str], option: str) -> Advice:
    """For two devices, with one option."""
    found = advise([Segment(name, 1.0, 2.0, 1.0, 1.0, prediction=0.1) for name in names], 2, 4, ["2s"])
    return replace(found, options=tuple(one for one in found.options if one.name.startswith(option)))


CASES = {
    "classes": ("model.py", "classes", torch.zeros(1, dtype=torch.int64), "zero_bubble"),
    "tokens": ("model.py", "tokens", torch.zeros(1, 1, dtype=torch.int64), "update_unlocked(delay=1)"),
    "values": ("model.py", "values", torch.zeros(1, 1), "forward_unlocked"),
    "own_loss": ("my-model.py", "own_loss", torch.zeros(1, dtype=torch.int64), "eager_one_f_one_b"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_runs_as_it_stands(case: str, tmp_path: Path) -> None:
    file, function, target, option = CASES[case]
    (tmp_path / file).write_text(MODEL, encoding="utf-8")
    layers = [f"layers.{i}" for i in range(3)] if function in ("tokens", "values") else ["0", "1", "2"]
    taken = advice([*layers, "output"], option)
    text = script(taken, f"{file}:{function}", target, loss=function == "own_loss")
    assert f"schedule=sg.{option}" in text
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    (printed,) = started(taken.command, tmp_path)
    assert 0.0 < float(printed.removeprefix("loss ")) < 5.0


def test_data_parallel_stages_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    found = advise([Segment(name, 1.0, 2.0, 1.0, 1.0) for name in ("0", "1", "2", "output")], 4, 4)
    (shared,) = (one for one in found.options if one.replicas == 2 and one.name.startswith("update_unlocked"))
    taken = replace(found, options=(shared,))
    text = script(taken, "model.py:classes", torch.zeros(1, dtype=torch.int64), loss=False)
    assert "at=['1']" in text and taken.command == "torchrun --nproc-per-node 4 train.py"
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    (printed,) = started(taken.command, tmp_path)
    assert 0.0 < float(printed.removeprefix("loss ")) < 5.0


def started(command: str, folder: Path) -> list[str]:
    """What the command prints: `torchrun`, as a module of this Python, and on a port of its own."""
    program, *rest = shlex.split(command)
    assert program == "torchrun"
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", *rest]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_a_module_is_imported_by_its_dotted_name() -> None:
    text = script(advice(["0", "1", "2", "output"], "gpipe"), "some.package:build", torch.zeros(1), loss=False)
    assert text.startswith("# train.py\nimport torch\n") and "\nfrom some.package import build\n" in text
