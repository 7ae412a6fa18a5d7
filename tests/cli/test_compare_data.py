import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from synthgrad.cli.main import main
from synthgrad.experiments.results import Result, read_results

TINY = ("--methods", "bp,cdni", "--seeds", "2", "--epochs", "2", "--layers", "3", "--batch-size", "16", "--quiet")


def idx(folder: Path, *more: str) -> tuple[str, ...]:
    return ("--data", "idx", "--data-dir", str(folder), "--valid", "40", *TINY, *more)


def numbers(folder: Path) -> list[Result]:
    """All that must be the same in a rerun."""
    results = read_results(folder / "results.jsonl")
    return [replace(result, ms_per_step=None, command="") for result in results]


@pytest.mark.parametrize(
    "more",
    [
        ("--cuts", "1", "--rank", "2", "--hidden", "8"),
        ("--model", "convolutional", "--channels", "2", "--cuts", "layer1,layer3"),
    ],
)
def test_a_run_with_all_its_settings_can_be_run_again(
    tmp_path: Path, small_idx: Path, more: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert main(["compare", *idx(small_idx, *more), "--runs-dir", str(runs)]) == 0
    assert main(["compare", "--config", str(runs / "idx" / "run.toml"), "--quiet", "--runs-dir", str(runs)]) == 0
    assert sorted(path.name for path in runs.iterdir()) == ["idx", "idx-2"]
    assert numbers(runs / "idx") == numbers(runs / "idx-2") != []
    first, again = (tomllib.loads((runs / name / "run.toml").read_text("utf-8")) for name in ("idx", "idx-2"))
    assert first["comparison"] == again["comparison"]
    assert first["comparison"]["cuts"] == more[more.index("--cuts") + 1]


def test_the_report_is_written_and_can_be_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *TINY, "--hidden", "8", "--runs-dir", str(tmp_path)]) == 0
    (report,) = (tmp_path / "digits").glob("report*")
    assert f"Report: {report}" in capsys.readouterr().out
    report.unlink()
    assert main(["report", str(tmp_path / "digits")]) == 0
    assert report.exists()


def test_a_report_of_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_defaults_are_those_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for data in ("digits", "mnist"):
        with pytest.raises(SystemExit):
            main(["compare", "--data", data, "--help"])
        shown.append(" ".join(capsys.readouterr().out.split()))
    assert "(default: 64)" in shown[0] and "(default: 20)" in shown[0]
    assert "(default: 256)" in shown[1] and "(default: 8)" in shown[1]


def broken(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"not idx")


def missing(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte").unlink()


@pytest.mark.parametrize(("spoil", "message"), [(broken, "t10k-labels-idx1-ubyte"), (missing, "train-images")])
def test_a_broken_folder_is_one_message_and_nothing_is_left(
    tmp_path: Path, small_idx: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(small_idx)
    command = [sys.executable, "-m", "synthgrad.cli.main", "compare", *idx(small_idx), "--results", "all.jsonl"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2
    assert message in ran.stderr and "Traceback" not in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small-idx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "idx"), "--data idx needs --data-dir"),
        (("--data", "mnits"), "did you mean 'mnist'"),
        (("--data", "idx", "--data-dir", "/nowhere/at/all"), "no such folder"),
        (("--model", "convolution"), "did you mean 'convolutional'"),
        (("--cuts", "layr2"), "did you mean 'layer2'"),
        (("--cuts", "7"), "expected 1 to 4"),
        (("--device", "toaster"), "use one of cpu"),
        (("--download",), "cannot be downloaded"),
        (("--data", "mnist", "--data-dir", "."), "got no folder with all four files"),
    ],
)
def test_bad_settings_are_one_message_and_nothing_is_left(
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split()) and "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["compare", *TINY, "--runs-dir", str(tmp_path / "file" / "runs")]) == 2
    assert "choose another place with --runs-dir" in " ".join(capsys.readouterr().err.split())
