import subprocess
import sys
from pathlib import Path

import pytest

from synthgrad.core.errors import SynthgradError
from synthgrad.experiments.methods import METHODS, UnknownMethodError, method_named
from synthgrad.experiments.spec import Comparison, SettingsError
from synthgrad.experiments.toml import to_toml


def test_reading_the_settings_needs_no_torch() -> None:
    program = "import sys, synthgrad.experiments.tables, synthgrad.experiments.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_methods_are_registered_under_their_names() -> None:
    assert all(name == method.name for name, method in METHODS.items())
    assert set(Comparison().methods) < set(METHODS)


@pytest.mark.parametrize(("name", "meant"), [("cdn", "'cdni'"), ("UNLOCKED", "'unlock'"), ("xyzzy", "one of bp")])
def test_an_unknown_method_is_told_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UnknownMethodError, match=meant) as caught:
        method_named(name)
    assert isinstance(caught.value, SynthgradError) and isinstance(caught.value, ValueError)


def test_methods_may_be_joined_by_commas_and_come_once() -> None:
    assert Comparison(methods=("bp,cdni", "bp dni")).methods == ("bp", "cdni", "dni")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seeds": 0},
        {"epochs": -1},
        {"batch_size": 1},
        {"batch_size": 5000},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"methods": ()},
        {"methods": (",",)},
        {"threads": 0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(SettingsError, match=name):
        Comparison(**wrong)  # pyrefly: ignore


def test_settings_read_back_as_written(tmp_path: Path) -> None:
    comparison = Comparison(methods=("dni", "bp"), seeds=2, lr=3e-5, layers=7)
    path = tmp_path / "run.toml"
    path.write_text(to_toml({"status": "finished", "comparison": comparison.as_table()}), encoding="utf-8")
    assert Comparison.read(path) == comparison


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[comparison]\nepoch = 3\n", "'epoch' is unknown; did you mean 'epochs'"),
        ("[comparison]\nepochs = 3.5\n", "epochs is 3.5, expected int"),
        ("[comparison]\nseeds = true\n", "seeds is True, expected int"),
        ("[comparison]\nmethods = 'bp'\n", "expected list of names"),
        ("[comparison]\nmethods = ['nobody']\n", "'nobody': unknown"),
        ("seeds = 3\n", "no table"),
        ("seeds = \n", "is not TOML"),
    ],
)
def test_a_bad_settings_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        Comparison.read(path)


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere.toml: cannot be read"):
        Comparison.read(tmp_path / "nowhere.toml")


def test_a_whole_number_will_do_for_a_fraction(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[comparison]\nlr = 1\n", encoding="utf-8")
    assert Comparison.read(path).lr == 1.0
