"""Folders of runs of all kinds, read back and written about."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synthgrad.core.events import Evaluated, Event, Failed, Finished, Solved, Started, StepDone, encode
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.results import RecurrentResult
from synthgrad.experiments.report import write_report
from synthgrad.experiments.report.record import AnyRun
from synthgrad.experiments.report.recurrent_run import read_recurrent_run
from synthgrad.experiments.report.run import read_run
from synthgrad.experiments.results import Result, encode_result

NAN = float("nan")


@dataclass(frozen=True)
class Kind:
    """A kind of comparison: how its runs are read, two of its methods, and what its steps are called."""

    read: Callable[[Path], AnyRun]
    settings: str
    methods: tuple[str, str]
    step: str
    result: Callable[[str, int], Any]

    def started(self, method: str) -> Started:
        return Started({"steps": 9} if "-" not in method else {"steps": 9, "unroll": int(method[-1])})

    def folder(self, path: Path, events: list[tuple[str, int, Event]], results: list[Any], more: str = "") -> Path:
        path.mkdir()
        lines = [encode(event, method=method, seed=seed) for method, seed, event in events]
        (path / "events.jsonl").write_text("".join(f"{line}\n" for line in lines) + more, encoding="utf-8")
        kept = [encode_result(one) for one in results]
        (path / "results.jsonl").write_text("".join(f"{line}\n" for line in kept) + more, encoding="utf-8")
        asked = ", ".join(f'"{name}"' for name in reversed((*self.methods, "never-4")))
        text = f'status = "unfinished"\n[comparison]\nmethods = [{asked}]\n{self.settings}\n'
        (path / "run.toml").write_text(text, encoding="utf-8")
        return path


IN_DEPTH = Kind(read_run, "layers = 2", ("bp", "cdni"), "step", lambda method, seed: Result(method, seed, 9))
IN_TIME = Kind(
    read_recurrent_run,
    'task = "copy"',
    ("bptt-4", "dni-4"),
    "update",
    lambda method, seed: RecurrentResult("copy", method, 4, seed, 9, solved=5),
)
KINDS = pytest.mark.parametrize("kind", [IN_DEPTH, IN_TIME], ids=["in depth", "in time"])


def begun(kind: Kind) -> list[tuple[str, int, Event]]:
    """One cell that has come to its end, one that failed, one that was cut short, the seeds in no order."""
    one, other = kind.methods
    return [
        *((one, 1, event) for event in (kind.started(one), StepDone(9, 0.5, {}), Finished(9, 1.0))),
        *((one, 0, event) for event in (kind.started(one), StepDone(6, NAN, {}), Failed(6, "loss is <nan>"))),
        *((other, 0, event) for event in (kind.started(other), StepDone(4, 0.25, {}))),
    ]


@KINDS
def test_cells_stand_in_the_order_that_was_asked_for_each_with_its_result(kind: Kind, tmp_path: Path) -> None:
    one, other = kind.methods
    result = kind.result(one, 1)
    run = kind.read(kind.folder(tmp_path / ".some.partial", begun(kind), [result, kind.result("never-4", 0)]))
    assert [(cell.method, cell.seed) for cell in run.cells] == [(other, 0), (one, 0), (one, 1)]
    assert [cell.result for cell in run.cells] == [None, None, result]
    assert [(cell.steps, cell.total, cell.finished, cell.failed) for cell in run.cells] == [
        (4, 9, False, None),
        (6, 9, False, "loss is <nan>"),
        (9, 9, True, None),
    ]
    assert (run.name, run.finished, run.unreadable) == ("some", False, 0) and "status" not in run.description
    assert (run.methods, run.seeds, run.steps) == ([other, one], [0, 1], 9)
    assert [len(cell.losses) for cell in run.cells] == [1, 0, 1]  # what is not finite is left out


@KINDS
def test_lines_that_cannot_be_read_are_counted(kind: Kind, tmp_path: Path) -> None:
    broken = '{"event": "Started", "se\n\n[1]\n{"method": []}\n'
    run = kind.read(kind.folder(tmp_path / "run", begun(kind), [], broken))
    assert run.unreadable == 8 and len(run.cells) == 3


@KINDS
def test_the_page_says_what_went_wrong(kind: Kind, tmp_path: Path) -> None:
    one, other = kind.methods
    folder = kind.folder(tmp_path / "run", begun(kind), [kind.result(one, 1)], "{\n")
    said = write_report(folder).read_text(encoding="utf-8")
    notice = re.sub("<.*?>", " ", said[said.index('<div class="notice">') : said.index("</div>")])
    assert "This run has not come to its end." in notice
    assert f"{one}, seed 0, failed after {kind.step} 6: loss is &lt;nan&gt;" in notice
    assert f"Cut short: {other}, seed 0, at {kind.step} 4 of 9." in notice
    assert "Not started: never-4." in notice
    assert "2 lines of the run's files could not be read" in notice
    assert "2 methods · 2 seeds" in said and "· unfinished" in said


@KINDS
def test_a_run_that_came_to_its_end_has_no_notice(kind: Kind, tmp_path: Path) -> None:
    events = [event for event in begun(kind) if event[:2] == (kind.methods[0], 1)]
    folder = kind.folder(tmp_path / "run", events, [])
    toml = folder / "run.toml"
    text = toml.read_text(encoding="utf-8").replace("unfinished", "finished")
    toml.write_text(re.sub(r"methods = .*", "methods = []", text), encoding="utf-8")
    said = write_report(folder).read_text(encoding="utf-8")
    assert 'class="notice"' not in said and "· finished" in said


def test_in_time_losses_are_kept_in_bits_and_what_was_solved_is_what_counts(tmp_path: Path) -> None:
    both = {"window": {"cosine": 0.25, "norm_ratio": 2.0}}
    events = (Started({"steps": 9, "unroll": 4}), StepDone(5, 0.6931472, both), Solved(7, 3), Finished(9, 1.0))
    run = read_recurrent_run(IN_TIME.folder(tmp_path / "run", [("dni-4", 0, event) for event in events], []))
    (cell,) = run.cells
    assert cell.losses == [(5, pytest.approx(1.0))] and cell.solved == [(7, 3.0)] and cell.unroll == 4
    assert cell.figures == {"agreement": {"window": [(5, 0.25)]}, "sizes": {"window": [(5, 2.0)]}}
    (summary,) = run.summaries()
    assert summary.score is not None and summary.score.mean == 3.0


def test_of_text_in_time_the_test_part_counts(tmp_path: Path) -> None:
    kind = Kind(read_recurrent_run, 'task = "ptb"', ("bptt-5", "dni-5"), "update", IN_TIME.result)
    events = (kind.started("dni-5"), Evaluated(9, "valid", 2 * 0.6931472, 0.5), Evaluated(9, "test", 0.6931472, 0.5))
    run = read_recurrent_run(kind.folder(tmp_path / "run", [("dni-5", 0, event) for event in events], []))
    (summary,) = run.summaries()
    assert run.cells[0].valid == [(9, pytest.approx(2.0))]
    assert summary.score is not None and summary.score.mean == pytest.approx(1.0)


def test_a_task_that_there_is_not_is_refused(tmp_path: Path) -> None:
    kind = Kind(read_recurrent_run, 'task = "cpoy"', IN_TIME.methods, "update", IN_TIME.result)
    folder = kind.folder(tmp_path / "run", [], [])
    with pytest.raises(SettingsError, match=r"run.toml: task 'cpoy' is unknown"):
        write_report(folder)
