"""Ctrl-C, at any time, in processes of their own."""

import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from synthgrad.cli.main import main

# A process started in the background may have been told to ignore Ctrl-C; these are to hear it.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from synthgrad.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
LONG = ("--epochs", "100000", "--hidden", "4", "--layers", "1")


def interrupted(where: Path, ready: Callable[[], bool], *arguments: str) -> tuple[int, str, str]:
    """Status, output and complaints of a command that was interrupted as soon as it was ready."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        give_up = time.monotonic() + 60
        while not ready():
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        shown, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, shown, complaints


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.9], ids=str)
def test_while_it_starts_a_comparison_leaves_a_folder_that_says_so(tmp_path: Path, delay: float) -> None:
    description = tmp_path / "runs" / ".digits.partial" / "run.toml"

    def ready() -> bool:
        if not description.exists():
            return False
        time.sleep(delay)  # into the import of torch, or just behind it
        return True

    status, shown, complaints = interrupted(tmp_path, ready, "compare", "--methods", "bp", *LONG)
    assert (status, complaints) == (130, "")
    assert "unfinished" in shown
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits"]
    text = (tmp_path / "runs" / "digits" / "run.toml").read_text("utf-8")
    assert tomllib.loads(text)["status"] == "unfinished"


def test_a_training_that_is_stopped_saves_nothing(tmp_path: Path) -> None:
    begun = time.monotonic()
    status, shown, complaints = interrupted(
        tmp_path, lambda: time.monotonic() - begun > 2.5, "train", "cdni", *LONG, "--out", "model.safetensors"
    )
    assert (status, complaints) == (130, "")
    assert "Nothing has been saved" in shown
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_in_time_leaves_a_folder_that_says_so_and_has_a_page(tmp_path: Path) -> None:
    events = tmp_path / "runs" / ".copy.partial" / "events.jsonl"

    def ready() -> bool:
        return events.exists() and events.read_text("utf-8").count("StepDone") > 3

    long = ("recurrent", "compare", "--units", "6", "--batch", "4", "--steps", "50000", "--methods", "bptt")
    status, shown, complaints = interrupted(tmp_path, ready, *long)
    assert (status, complaints) == (130, "") and "unfinished" in shown
    folder = tmp_path / "runs" / "copy"
    assert tomllib.loads((folder / "run.toml").read_text("utf-8"))["status"] == "unfinished"
    assert all(json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines())
    assert main(["report", str(folder)]) == 0
    said = (folder / "report.html").read_text("utf-8")
    assert "Cut short: bptt-4, seed 0" in said and "has not come to its end" in said
