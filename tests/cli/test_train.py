import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from synthgrad.cli import train
from synthgrad.cli.main import main
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import Training
from synthgrad.experiments.traces import read_trace

TINY = ("--epochs", "1", "--hidden", "8", "--layers", "2", "--quiet")

LOAD = """
import collections, sys
from safetensors.torch import load_file
from torch import nn

def layer(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())

model = nn.Sequential(collections.OrderedDict(layer1=layer(64, 8), layer2=layer(8, 8), output=nn.Linear(8, 10)))
print(model.load_state_dict(load_file(sys.argv[1]), strict=True))
sys.exit(any(name.split(".")[0] == "synthgrad" for name in sys.modules))
"""


def test_the_plain_model_loads_without_us(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["train", "cdni", *TINY, "--seed", "3", "--out", str(out)]) == 0
    assert "test error" in capsys.readouterr().out
    loaded = subprocess.run([sys.executable, "-c", LOAD, str(out)], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert "All keys matched" in loaded.stdout
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    settings, result = json.loads(metadata["settings"]), json.loads(metadata["result"])
    assert (settings["method"], settings["seed"], settings["hidden"]) == ("cdni", 3, 8)
    assert result["steps"] == 20 and 0.0 <= result["test_error"] <= 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_training_gives_the_numbers_of_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["compare", "--methods", "dni", "--seeds", "1", *TINY, "--runs-dir", str(tmp_path / "runs")]) == 0
    (line,) = (tmp_path / "runs" / "digits" / "results.jsonl").read_text("utf-8").splitlines()
    config = str(tmp_path / "runs" / "digits" / "run.toml")
    assert main(["train", "dni", "--config", config, "--quiet", "--out", str(out)]) == 0
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["result"])["test_loss"] == json.loads(line)["test_loss"]


def test_a_training_that_fails_saves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["train", "cdni", *TINY, "--synthesizer-lr", "1e30", "--out", str(out)]) == 1
    assert "failed" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("mnist", "cdni: test error 12.50 %, validation error -, after 4 steps"),
        ("text", "cdni: test loss 1.500 nats, validation loss -, after 4 steps"),
    ],
)
def test_the_last_line_says_what_the_data_is_judged_by(
    tmp_path: Path, data: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(options: train.Options, _listeners: object) -> Result:
        return Result("cdni", 0, 4, test_error=0.125, test_loss=1.5, settings=options.training.as_table())

    monkeypatch.setattr(train, "_run", trained)
    training = Training.suited_to(data, data_dir=tmp_path)
    assert train.train(train.Options("cdni", training, out=tmp_path / "model.safetensors", quiet=True)) == 0
    assert capsys.readouterr().out.splitlines()[0] == said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cdn"], "did you mean 'cdni'"),
        (["cdni", "--data", "idx"], "needs --data-dir"),
        (["cdni", "--cuts", "layer9"], "no layer 'layer9'"),
        (["cdni", "--device", "toaster"], "use one of cpu"),
        (["cdni", "--seed", "-1"], "seed is -1"),
        (["cdni", "--out", "/nowhere/at/all"], "name another file for --out"),
        (["bp", "--trace", "here"], "bp is not traced: it is a plain loop"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split()) and "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_traced_training_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, traced = tmp_path / "model.safetensors", tmp_path / "my trace"
    assert main(["train", "cdni", *TINY, "--out", str(out), "--trace", str(traced)]) == 0
    assert f"Traced: synthgrad trace '{traced}'" in capsys.readouterr().out
    found = read_trace(traced)
    assert found.steps == range(20) and found.missing == () and found.names == ("layer1", "layer2", "output")
    assert main(["trace", str(traced)]) == 0
    assert "update_unlocked(delay=0), steps 0 to 19" in capsys.readouterr().out
    assert (traced / "trace.svg").exists()
    again = ["train", "cdni", *TINY, "--out", str(tmp_path / "other"), "--trace", str(traced)]
    assert main(again) == 2
    assert "there is a trace already" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_tracing_changes_nothing_that_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in (("plain", []), ("traced", ["--trace", str(tmp_path / "trace")])):
        assert main(["train", "cdni", *TINY, "--out", str(tmp_path / name), *more]) == 0
    plain, traced = (load_file(tmp_path / name) for name in ("plain", "traced"))
    assert plain.keys() == traced.keys() and all(plain[name].equal(traced[name]) for name in plain)
