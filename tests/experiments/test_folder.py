import csv
import tomllib
from pathlib import Path

import pytest

from synthgrad.core.errors import ScheduleError
from synthgrad.core.events import Evaluated, StepDone, decode
from synthgrad.experiments.folder import FolderError, RunFolder
from synthgrad.experiments.results import Result, read_results

LABELS = {"method": "bp", "seed": 0}


def status(folder: Path) -> str:
    return tomllib.loads((folder / "run.toml").read_text(encoding="utf-8"))["status"]


def test_a_finished_run_is_all_there(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs", "first", {"command": "x", "comparison": {"seeds": 1}}) as folder:
        assert not folder.path.exists()
        for step, loss in enumerate((1.0, 0.5), start=1):
            folder.tell(StepDone(step, loss, {}), LABELS)
        folder.tell(Evaluated(2, "valid", 0.4, 0.25), LABELS)
        folder.keep(Result("bp", 0, 2))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["first"]
    assert status(folder.path) == "finished"
    lines = (folder.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [decode(line) for line in lines][-1] == (Evaluated(2, "valid", 0.4, 0.25), LABELS)
    with (folder.path / "metrics.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["method"], row["split"], row["error"], row["train_loss"]) == ("bp", "valid", "0.25", "0.75")
    assert read_results(folder.path / "results.jsonl") == [Result("bp", 0, 2)]


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ScheduleError), RunFolder(tmp_path, "run", {}):
        raise ScheduleError("no such schedule")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_run_is_kept_and_marked(tmp_path: Path, reason: type[BaseException]) -> None:
    with pytest.raises(reason), RunFolder(tmp_path, "run", {}) as folder:
        folder.tell(StepDone(1, 1.0, {}), LABELS)
        raise reason
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert status(tmp_path / "run") == "unfinished"


def test_a_run_under_way_is_readable_and_marked(tmp_path: Path) -> None:
    # So it is found if the process is killed.
    with RunFolder(tmp_path, "run", {}) as folder:
        folder.tell(StepDone(1, 1.0, {}), LABELS)
        assert status(tmp_path / ".run.partial") == "unfinished"
        assert len((tmp_path / ".run.partial" / "events.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_a_name_is_used_once(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "run", {}):
        with pytest.raises(FolderError, match="under way"):
            RunFolder(tmp_path, "run", {})
    with pytest.raises(FolderError, match="choose another --name"):
        RunFolder(tmp_path, "run", {})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_a_name_there_is_always_a_fresh_one(tmp_path: Path) -> None:
    with RunFolder(tmp_path, None, {}), RunFolder(tmp_path, None, {}):
        pass
    with RunFolder(tmp_path, None, {}):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits-2", "digits-3"]


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b"])
def test_a_name_must_be_one_for_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(FolderError, match="plain folder name"):
        RunFolder(tmp_path / "runs", name, {})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be written to .*--runs-dir"):
        RunFolder(tmp_path / "file" / "runs", None, {})
