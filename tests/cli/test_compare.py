import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from synthgrad.cli.main import main
from synthgrad.core.errors import TraceError
from synthgrad.core.events import decode
from synthgrad.experiments.results import Result, read_results
from synthgrad.experiments.traces import read_trace

TINY = ("--methods", "bp,cdni", "--seeds", "2", "--epochs", "1", "--hidden", "8", "--layers", "2")


def compare(*arguments: str, runs: Path) -> int:
    return main(["compare", *arguments, "--runs-dir", str(runs)])


def numbers(path: Path) -> list[Result]:
    """All that must be the same in a rerun."""
    return [replace(result, ms_per_step=None, command="") for result in read_results(path)]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_comparison_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synthgrad.cli.main", "compare", *TINY, "--results", "all.jsonl"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "seed 2 of 2" in ran.stdout and "cdni" in ran.stdout and "forward" in ran.stdout
    assert ran.stderr == ""
    folder = tmp_path / "runs" / "digits"
    assert sorted(path.name for path in folder.iterdir()) == [
        "events.jsonl",
        "metrics.csv",
        "report.html",
        "results.jsonl",
        "run.toml",
    ]
    assert numbers(tmp_path / "all.jsonl") == numbers(folder / "results.jsonl")
    assert len(lines(folder / "results.jsonl")) == 4


def test_a_run_can_be_run_again_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*TINY, runs=tmp_path) == 0
    assert compare("--config", str(tmp_path / "digits" / "run.toml"), runs=tmp_path) == 0
    assert numbers(tmp_path / "digits" / "results.jsonl") == numbers(tmp_path / "digits-2" / "results.jsonl")
    first, again = (tomllib.loads((tmp_path / name / "run.toml").read_text("utf-8")) for name in ("digits", "digits-2"))
    assert first["comparison"] == again["comparison"]
    assert first["status"] == "finished"


def test_options_win_over_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[comparison]\nmethods = ["zero"]\nseeds = 3\nepochs = 1\nhidden = 4\nlayers = 1\n', "utf-8")
    assert compare("--config", str(config), "--seeds", "1", "--quiet", runs=tmp_path) == 0
    (result,) = read_results(tmp_path / "digits" / "results.jsonl")
    assert (result.method, result.settings["hidden"]) == ("zero", 4)


def test_quiet_shows_results_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*TINY, "--quiet", runs=tmp_path) == 0
    shown = capsys.readouterr().out
    assert "cdni" in shown
    assert "seed 1" not in shown and "Waits for:" not in shown


@pytest.mark.parametrize(
    "arguments",
    [("--name", "a/b"), ("--seeds", "0"), ("--config", "nowhere.toml"), ("--results", "/nowhere/at/all.jsonl")],
)
def test_bad_input_leaves_no_folder(
    tmp_path: Path, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*TINY[:4], *arguments, runs=tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_same_name_twice_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*TINY, "--name", "one", runs=tmp_path) == 0
    results = tmp_path / "more.jsonl"
    assert compare(*TINY, "--name", "one", "--results", str(results), runs=tmp_path) == 2
    assert "choose another --name" in " ".join(capsys.readouterr().err.split())
    assert not results.exists()


def test_a_failed_cell_is_shown_and_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*TINY, "--synthesizer-lr", "1e30", runs=tmp_path) == 1
    shown = capsys.readouterr().out
    assert "2 failed" in shown and "cdni, seed 1, failed:" in shown
    results = read_results(tmp_path / "digits" / "results.jsonl")
    assert [result.method for result in results if result.failed] == ["cdni", "cdni"]


def test_a_traced_comparison_is_drawn_cell_by_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*TINY, "--trace", runs=tmp_path) == 0
    shown = capsys.readouterr().out
    assert "bp is not traced: it is a plain loop" in shown
    assert f"Traced: synthgrad trace {tmp_path / 'digits'}" in " ".join(shown.split())
    cells = tmp_path / "digits" / "trace"
    assert sorted(path.name for path in cells.iterdir()) == ["cdni-0", "cdni-1"]
    assert main(["trace", str(tmp_path / "digits")]) == 0
    drawn = capsys.readouterr().out
    for cell in cells.iterdir():
        found = read_trace(cell)
        assert found.steps == range(20) and found.missing == ()
        assert str(cell) in drawn and (cell / "trace.svg").exists() and (cell / "trace.html").exists()
    with pytest.raises(TraceError, match="holds 2 traces; name one of them, such as .*cdni-0"):
        read_trace(tmp_path / "digits")
    assert main(["trace", str(tmp_path / "digits"), "--perfetto", str(tmp_path / "all.json")]) == 2
    assert "holds 2 traces" in capsys.readouterr().err and not (tmp_path / "all.json").exists()


def test_of_one_cell_the_run_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--methods", "zero", *TINY[4:], "--seeds", "1", "--trace", "--quiet", runs=tmp_path) == 0
    assert main(["trace", str(tmp_path / "digits")]) == 0
    assert (tmp_path / "digits" / "trace.svg").exists()


def test_without_stages_nothing_is_traced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--methods", "bp", *TINY[2:], "--trace", runs=tmp_path) == 2
    assert "staged learns the same" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_what_there_is(tmp_path: Path) -> None:
    # A process started in the background may have been told to ignore Ctrl-C; this one is to hear it.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from synthgrad.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    more = ["compare", "--methods", "bp,cdni,zero", "--epochs", "100000", "--hidden", "4", "--trace"]
    command = [sys.executable, "-c", program, *more]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        events = tmp_path / "runs" / ".digits.partial" / "events.jsonl"
        give_up = time.monotonic() + 60
        while not (events.exists() and len(lines(events)) > 120):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        shown, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert complaints == "" and "unfinished" in shown
    for name in ("cdni-0", "zero-0"):  # whoever's turn it was
        (missing,) = read_trace(tmp_path / "runs" / "digits" / "trace" / name).missing
        assert missing.endswith("(stopped)")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits"]
    folder = tmp_path / "runs" / "digits"
    assert tomllib.loads((folder / "run.toml").read_text("utf-8"))["status"] == "unfinished"
    assert all(decode(line) for line in lines(folder / "events.jsonl"))
    assert json.loads(lines(folder / "events.jsonl")[-1])["method"] in ("bp", "cdni", "zero")
