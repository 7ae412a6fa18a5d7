"""`synthgrad reproduce two-speeds`, through the command line, with stretches few enough for a test."""

from pathlib import Path

import pytest

from synthgrad.cli.main import main
from synthgrad.experiments.results import decode_result
from synthgrad.experiments.suites import speeds
from synthgrad.experiments.suites.catalog import suite_named


def test_the_command_trains_each_cell_once_and_goes_on_with_what_is_missing(
    tmp_path: Path, tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(speeds.LENGTHS, "small", (2, 3))
    where = ["--data-dir", str(tiny_mnist), "--results", str(tmp_path), "--seeds", "1", "--quiet"]
    assert main(["reproduce", "two-speeds", "--only", "T = 3, 2 stretches", *where]) == 0
    file = tmp_path / "two-speeds-small.jsonl"
    before = file.read_text("utf-8").splitlines()
    assert [decode_result(line).method for line in before] == list(speeds.COLUMNS)
    assert main(["reproduce", "two-speeds", *where]) == 0
    after = [decode_result(line) for line in file.read_text("utf-8").splitlines()]
    assert file.read_text("utf-8").splitlines()[: len(before)] == before
    assert [(one.steps, one.method) for one in after] == [(steps, name) for steps in (2, 3) for name in speeds.COLUMNS]
    assert all(one.command.startswith("synthgrad reproduce two-speeds") and one.versions["torch"] for one in after)
    shown = " ".join(capsys.readouterr().out.split())
    assert "T = 3, 3 stretches" in shown and "points from nothing that comes back" in shown


@pytest.mark.parametrize("budget", speeds.LENGTHS)
def test_a_row_differs_in_its_method_alone(budget: str) -> None:
    entries = suite_named("two-speeds", budget).entries
    assert len({entry.training for entry in entries}) == len({entry.row for entry in entries})
    assert {entry.method(0).synthesizer is None for entry in entries if entry.column == "bp"} == {True}
