import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from synthgrad.cli.main import main
from synthgrad.experiments.recurrent.results import RecurrentResult, read_recurrent_results

SIZES = ("--units", "6", "--batch", "4", "--width", "2")
TINY = (*SIZES, "--steps", "40", "--seeds", "2", "--methods", "bptt,dni")


def compare(*arguments: str, runs: Path) -> int:
    return main(["recurrent", "compare", *arguments, "--runs-dir", str(runs)])


def numbers(path: Path) -> list[RecurrentResult]:
    """All that must be the same in a rerun."""
    results = read_recurrent_results(path)
    return [replace(result, ms_per_step=None, seconds=None, command="") for result in results]


def test_a_comparison_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synthgrad.cli.main", "recurrent", "compare", *TINY, "--results", "all.jsonl"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "" and "seed 2 of 2" in ran.stdout and "dni-4" in ran.stdout
    folder = tmp_path / "runs" / "copy"
    files = ["events.jsonl", "metrics.csv", "report.html", "results.jsonl", "run.toml"]
    assert sorted(path.name for path in folder.iterdir()) == files
    kept, appended = (read_recurrent_results(path) for path in (folder / "results.jsonl", tmp_path / "all.jsonl"))
    assert kept == appended
    assert [(one.method, one.seed) for one in kept] == [("bptt-4", 0), ("dni-4", 0), ("bptt-4", 1), ("dni-4", 1)]
    for one in kept:
        assert one.command.startswith("synthgrad recurrent compare --units 6") and one.steps == 40
        assert one.versions["torch"] and one.hardware["cpu"] and one.settings["task"] == "copy" and one.seconds
    description = tomllib.loads((folder / "run.toml").read_text("utf-8"))
    assert description["status"] == "finished" and description["comparison"]["methods"] == ["bptt-4", "dni-4"]
    said = (folder / "report.html").read_text("utf-8")
    assert "longest solved (characters)" in said and "synthgrad recurrent compare --config run.toml" in said


def test_a_run_can_be_run_again_and_changed(tmp_path: Path) -> None:
    assert compare(*TINY, "--quiet", "--lr", "2e-3", runs=tmp_path) == 0
    config = ("--config", str(tmp_path / "copy" / "run.toml"), "--quiet")
    assert compare(*config, runs=tmp_path) == 0
    assert compare(*config, "--methods", "bptt", "--seeds", "1", runs=tmp_path) == 0
    first, again, changed = (numbers(tmp_path / name / "results.jsonl") for name in ("copy", "copy-2", "copy-3"))
    assert first == again
    assert [one.settings for one in changed] == [first[0].settings] and changed[0].settings["lr"] == 2e-3


def test_a_text_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.txt").write_text("to be or not to be, " * 60, encoding="utf-8")
    given = ("--task", "text", "--data-dir", str(tmp_path / "some.txt"), "--methods", "bptt,bptt-8,dni", "--seeds", "1")
    runs = tmp_path / "runs"
    assert compare(*given, *SIZES, "--characters", "1600", runs=runs) == 0
    results = read_recurrent_results(runs / "text" / "results.jsonl")
    assert [(one.method, one.characters) for one in results] == [("bptt-5", 1600), ("bptt-8", 1600), ("dni-5", 1600)]
    assert all(one.test_bits is not None and one.score == one.test_bits < 6 for one in results)
    assert "bits per character" in capsys.readouterr().out
    said = (runs / "text" / "report.html").read_text("utf-8")
    assert "validation, bits per character" in said and "time steps of a lane are counted" in said


def test_a_failure_is_a_row_and_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (*SIZES, "--steps", "40", "--seeds", "1", "--methods", "bptt,dni:lr=1e38")
    assert compare(*given, "--quiet", runs=tmp_path) == 1
    shown = capsys.readouterr().out
    assert "1 failed" in shown and "dni-4:lr=1e38, seed 0, failed: " in shown
    assert "dni-4:lr=1e38, seed 0, failed after update" in (tmp_path / "copy" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "cpoy"), "did you mean 'copy'"),
        (("--task", "text"), "--task text needs --data-dir"),
        (("--methods", "dnl"), "did you mean 'dni'"),
        (("--methods", "dni:repaly=3"), "did you mean 'replay'"),
        (("--unroll", "0"), "unroll is 0"),
        (("--device", "toaster"), "use one of cpu"),
        (("--config", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("--methods", "dni-aux-1"), "in unroll=1 no step lies between first and last"),
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
    assert main(["recurrent", "compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split()) and "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.txt").touch()
    assert compare("--task", "text", "--data-dir", str(tmp_path / "some.txt"), runs=tmp_path / "runs") == 2
    assert "got an empty file, expected text" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()
