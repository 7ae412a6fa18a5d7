import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.tasks import TASKS


def test_settings_are_the_same_when_read_back(tmp_path: Path) -> None:
    for task in TASKS:
        place = {"data_dir": tmp_path} if TASKS[task].folder == "needed" else {}
        given = RecurrentComparison.suited_to(task, seeds=2, methods=("dni-8:lr=3e-4", "bptt"), **place)
        assert RecurrentComparison.from_table(given.as_table(), "here") == given


def test_a_method_has_its_window_and_its_own_settings() -> None:
    comparison = RecurrentComparison(methods=("bptt dni-8", "dni-aux-3:lr=3e-4:replay=0", "bptt-4"), unroll=4, lr=1e-2)
    assert comparison.methods == ("bptt-4", "dni-8", "dni-aux-3:lr=3e-4:replay=0")
    plain, _, own = map(comparison.method, comparison.methods)
    assert (plain.training.unroll, plain.training.lr, plain.kind.synthetic) == (4, 1e-2, False)
    assert (own.training.unroll, own.training.lr, own.training.replay, own.kind.auxiliary) == (3, 3e-4, 0, True)
    assert own.training.synthesizer_lr == comparison.synthesizer_lr


def test_what_learns_at_each_step_has_a_window_of_one_whatever_the_others_have() -> None:
    comparison = RecurrentComparison(methods=("dni", "bp-lambda:reach=0.5", "bp-lambda-1"), units=32, unroll=4)
    assert comparison.methods == ("dni-4", "bp-lambda-1:reach=0.5", "bp-lambda-1")
    one, two = map(comparison.method, comparison.methods[1:])
    assert (one.training.unroll, one.training.reach, two.training.reach) == (1, 0.5, 0.9)


@pytest.mark.parametrize(("unroll", "updates"), [(5, 2000), (8, 1250)])
def test_characters_are_the_same_for_all_windows(tmp_path: Path, unroll: int, updates: int) -> None:
    comparison = RecurrentComparison.suited_to("text", data_dir=tmp_path, batch=10, characters=100_000)
    training = comparison.method(f"bptt-{unroll}").training
    assert training.updates == updates and training.updates * unroll * 10 == 100_000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "cpoy"}, "did you mean 'copy'"),
        ({"methods": ("dnl",)}, "did you mean 'dni'"),
        ({"methods": ("dni_4",)}, "expected KIND, KIND-T or KIND-T:setting=value"),
        ({"methods": ("dni-0",)}, "method 'dni-0': unroll is 0"),
        ({"methods": ("dni:units=3",)}, "'units' is no setting of its own"),
        ({"methods": ("dni:lr=fast",)}, "lr is 'fast', expected float"),
        ({"methods": ("dni:lr=-1",)}, "method 'dni:lr=-1': lr is -1.0: expected a number above 0"),
        ({"methods": (" ,",)}, "methods: got none"),
        ({"core": "ltsm"}, "did you mean 'lstm'"),
        ({"scale": -1.0}, "expected 0 or more; 1 is no discount"),
        ({"average": 1.0}, "expected a share from 0 to below 1"),
        ({"steps": 0}, "steps is 0"),
        ({"methods": ("dni:reach=1.5",)}, "method 'dni:reach=1.5': reach is 1.5: expected lambda, from 0 to 1"),
        ({"methods": ("bp-lambda-4",)}, "method 'bp-lambda-4': unroll is 4: expected 1, as it learns at each step"),
        ({"methods": ("bp-lambda",), "core": "gru"}, "core is gru of 1 layers: expected an lstm or rnn of one"),
        ({"methods": ("bp-lambda",), "layers": 2}, "core is lstm of 2 layers: expected an lstm or rnn of one"),
        ({"methods": ("bp-lambda:scale=1.5",)}, "scale is 1.5: expected gamma"),
        ({"methods": ("bp-lambda",), "units": 256}, "the trace would be 512 x 512 x 513 .* above 4 GiB; take fewer"),
        ({"task": "ptb", "methods": ("bp-lambda",)}, "task is ptb: expected copy or repeat-copy"),
        ({"data_dir": Path("/nowhere")}, "makes its sequences itself"),
        ({"task": "text"}, "--task text needs --data-dir"),
        ({"task": "text", "data_dir": Path("/nowhere/at/all")}, "no such file or folder"),
    ],
)
def test_bad_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        RecurrentComparison(**given)


def test_unknown_settings_in_a_file() -> None:
    with pytest.raises(SettingsError, match="run.toml: setting 'unrol' is unknown; did you mean 'unroll'"):
        RecurrentComparison.from_table({"unrol": 3}, "run.toml")
    with pytest.raises(SettingsError, match="run.toml: unroll is 'x', expected int"):
        RecurrentComparison.from_table({"unroll": "x"}, "run.toml")


def test_settings_results_and_tables_do_without_torch() -> None:
    names = ("methods", "results", "spec", "tables", "tasks")
    modules = ", ".join(f"synthgrad.experiments.recurrent.{name}" for name in names)
    code = f"import {modules}, synthgrad.cli.recurrent, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
