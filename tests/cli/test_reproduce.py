"""`synthgrad reproduce`, stopped at any moment, loses no cell that has ended, and goes on where it was."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synthgrad.cli.main import main
from synthgrad.experiments.results import decode_result

# A process started in the background may have been told to ignore Ctrl-C; these are to hear it.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from synthgrad.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
COLUMNS = ["bp", "zero", "dni", "cdni", "cdni-exact", "cdni-belief", "sobolev", "local-block"]


def arguments(tiny_mnist: Path, results: Path) -> list[str]:
    return [
        "reproduce",
        "table2",
        "--only",
        "FCN 3",
        "--data-dir",
        str(tiny_mnist),
        "--results",
        str(results),
        "--seeds",
        "1",
    ]


def lines(results: Path) -> list[str]:
    file = results / "table2-small.jsonl"
    return file.read_text("utf-8").splitlines() if file.exists() else []


def stopped(tiny_mnist: Path, results: Path, how: signal.Signals) -> tuple[int, str, str]:
    """Status, output and complaints of a run that was stopped once it had two cells and was training the third."""
    command = [sys.executable, "-c", PROGRAM, *arguments(tiny_mnist, results)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        give_up = time.monotonic() + 90
        while len(lines(results)) < 2:
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.002)
        process.send_signal(how)
        shown, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, shown, complaints


def figures(results: Path) -> list[tuple[str, int, float | None, float | None]]:
    found = [decode_result(line) for line in lines(results)]
    return [(one.method, one.seed, one.test_loss, one.valid_loss) for one in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_mnist: Path) -> Path:
    """The results of a run that was not stopped."""
    results = tmp_path_factory.mktemp("whole")
    assert main([*arguments(tiny_mnist, results), "--quiet"]) == 0
    return results


def test_it_trains_each_cell_once_and_shows_the_table(
    tiny_mnist: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [method for method, *_ in figures(whole)] == COLUMNS
    before = lines(whole)
    assert json.loads(before[0])["command"].startswith("synthgrad reproduce table2 --only 'FCN 3'")
    assert main(arguments(tiny_mnist, whole)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert lines(whole) == before  # nothing was trained again
    assert "FCN 3" in shown and "paper 2 9.3 1.9 2.2 - -" in shown
    assert "FCN 3: cdni is" in shown and "cells on CIFAR-10" not in shown


def test_killed_it_goes_on_and_ends_with_the_figures_of_one_that_was_not(
    tmp_path: Path, tiny_mnist: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, _ = stopped(tiny_mnist, tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    before = lines(tmp_path)
    assert 2 <= len(before) < len(COLUMNS)
    assert main([*arguments(tiny_mnist, tmp_path), "--quiet"]) == 0
    assert lines(tmp_path)[: len(before)] == before
    assert figures(tmp_path) == figures(whole)


def test_ctrl_c_is_status_130_and_tells_what_is_left(tmp_path: Path, tiny_mnist: Path) -> None:
    status, shown, complaints = stopped(tiny_mnist, tmp_path, signal.SIGINT)
    assert (status, complaints) == (130, "")
    there = len(lines(tmp_path))
    said = " ".join(shown.split())
    assert f"{len(COLUMNS) - there} of {len(COLUMNS)} cells are left, and the same command goes on" in said
    assert "FCN 3" in said and [method for method, *_ in figures(tmp_path)] == COLUMNS[:there]


def test_a_broken_line_is_reported_with_its_number_and_its_cell_trained_again(
    tmp_path: Path, tiny_mnist: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = lines(whole)
    file = tmp_path / "table2-small.jsonl"
    file.write_text("\n".join([good[0], good[1][:50], *good[2:]]) + "\n", encoding="utf-8")
    assert main([*arguments(tiny_mnist, tmp_path), "--quiet"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Passed over:" in shown and "table2-small.jsonl, line 2:" in shown
    again = lines(tmp_path)
    assert len(again) == len(COLUMNS) + 1 and again[0] == good[0] and json.loads(again[-1])["method"] == "zero"


def test_a_missing_folder_says_how_to_get_the_data_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    results = tmp_path / "results"
    assert main(arguments(tmp_path / "empty", results)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "train-images-idx3-ubyte.gz" in said and "--download" in said
    assert main(arguments(tmp_path / "nowhere", results)) == 2
    assert "no such folder" in capsys.readouterr().err
    assert lines(results) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["tabel2"], "did you mean 'table2'"),
        (["table2", "--budget", "big"], "expected one of small, full"),
        (["table2", "--only", "RNN"], "begins no row of table2"),
        (["table2", "--seeds", "0"], "seeds is 0"),
        (["table2", "--device", "abacus"], "device 'abacus'"),
    ],
)
def test_bad_input_is_one_message(
    tmp_path: Path, tiny_mnist: Path, wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tiny_mnist), "--results", str(tmp_path)]
    assert main(["reproduce", *wrong, *where]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_rows_on_cifar_10_wait_for_its_folder(
    tmp_path: Path, tiny_mnist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table2", "--only", "CIFAR-10 FCN 3", "--seeds", "1", "--results", str(tmp_path)]
    assert main([*command, "--data-dir", str(tiny_mnist)]) == 0
    assert f"{len(COLUMNS)} cells on CIFAR-10 are left out; name its folder with --cifar-dir" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main([*command, "--cifar-dir", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
