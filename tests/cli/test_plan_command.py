from pathlib import Path

import pytest

from synthgrad.cli.main import main

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
    return model, (torch.randn(64, 32), torch.randint(0, 32, (64,)))

def with_loss():
    model, (x, _) = build()
    return model, (x, torch.randn(64, 3)), lambda output, target: output.square().mean()

def alone():
    return build()[0]

def broken():
    raise RuntimeError("no data here")

number = 3
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL, "utf-8")
    return path


@pytest.mark.parametrize("function", ["build", "with_loss"])
def test_it_ends_with_what_to_type(function: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", f"{model}:{function}", "--devices", "3", "--link", "1GBps,2ms", "0-1=50ms", "--seconds", "0.05"]
    assert main(line) == 0
    said = capsys.readouterr().out
    for word in ("gpipe(", "zero_bubble(", "pipedream_2bw(", "update_unlocked(", "data parallel", "wins only if"):
        assert word in said, word
    assert "net = sg.decouple(" in said and said.rstrip().endswith("torchrun --nproc-per-node 3 train.py")
    assert "forward_unlocked(" in said and "Stages of " in said


def test_what_it_ends_with_is_a_script(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That it runs is tested in tests/planning/test_script.py."""
    assert main(["plan", f"{model}:build", "--devices", "2", "--seconds", "0.05"]) == 0
    said = capsys.readouterr().out
    text = said[said.index("# train.py, beside model.py\n") : said.index("torchrun ")]
    compile(text, "train.py", "exec")
    assert "from model import build\n" in text and "loss=torch.nn.functional.cross_entropy" in text


def test_one_device_is_told_to_stay_as_it_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{model}:build", "--devices", "1", "--seconds", "0.05"]) == 0
    said = capsys.readouterr().out
    assert "decouple(" not in said and said.rstrip().endswith("python train.py")


def test_microbatches_and_places_are_taken_as_given(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", f"{model}:build", "--devices", "2", "--microbatches", "8", "--at", "2", "--seconds", "0.05"]
    assert main(line) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "gpipe(8)" in said and "at=['2']" in said and "2 stages and 8 microbatches" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{}",), "expected FILE.py:FUNCTION"),
        (("{}:nothing",), "has no function 'nothing'"),
        (("{}:number",), "has no function 'number'"),
        (("/nowhere/model.py:build",), "no such file"),
        (("no_such_package.here:build",), "cannot be imported"),
        (("{}:broken",), "RuntimeError: no data here"),
        (("{}:alone",), "no sample batch"),
        (("{}:build", "--link", "quick"), "cannot read 'quick'"),
        (("{}:build", "--link", "0-9=1ms"), "names no two of the devices"),
        (("{}:build", "--devices", "0"), "devices is 0"),
        (("{}:build", "--devices", "9", "--seconds", "0.01"), "can be cut at '0'"),
        (("{}:build", "--at", "seven"), "the model could be cut at '0'"),
        (("{}:build", "--microbatches", "0"), "microbatches is 0"),
        (("{}:build", "--seconds", "nan"), "seconds is nan"),
    ],
)
def test_bad_input_is_one_message(
    arguments: tuple[str, ...], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(model) for argument in arguments]
    devices = [] if "--devices" in given else ["--devices", "2"]
    assert main(["plan", *given, *devices]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""
