"""Live tables: what they all do, and what each shows."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from synthgrad.core.events import Evaluated, Event, Failed, Finished, Probed, Solved, Started, StepDone
from synthgrad.experiments.board import LiveTable
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.tables import RecurrentBoard
from synthgrad.experiments.spec import Comparison
from synthgrad.experiments.tables import Board

NATS = 0.6931472  # of one bit
ALIGNED = {"cosine": -0.12, "norm_ratio": 12.3, "parameter_cosine": -0.34, "parameter_norm_ratio": 18.3}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def in_depth(seeds: int, clock: Clock) -> LiveTable:
    return Board(Comparison(methods=("bp", "cdni"), seeds=seeds), clock=clock)


def in_time(seeds: int, clock: Clock) -> LiveTable:
    return RecurrentBoard(RecurrentComparison(methods=("bptt-4", "dni-8"), seeds=seeds), clock=clock)


def drawn(board: LiveTable) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(board)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    return text


def told(board: LiveTable, *events: Event, method: str | None = None, seed: int = 0) -> list[str]:
    """What the row of a method, the first if not given, shows after these events."""
    name = board.methods[0] if method is None else method
    for event in events:
        board.tell(event, {"method": name, "seed": seed})
    return next(line for line in drawn(board).splitlines() if line.startswith(name)).split()


@pytest.mark.parametrize("made", [in_depth, in_time])
def test_it_is_told_how_long_it_will_take(made: Callable[[int, Clock], LiveTable]) -> None:
    clock = Clock()
    board = made(2, clock)
    assert board.seconds_left() is None
    assert "starting" in drawn(board)
    for method, seconds in zip(board.methods, (1.0, 3.0), strict=True):
        told(board, Started({"steps": 10}), method=method)
        for step in range(1, 6):
            clock.now += seconds
            told(board, StepDone(step, 0.5, {}), method=method)
    # Each has 5 steps to do with this seed and 10 with the next, at 1 and at 3 seconds.
    assert board.seconds_left() == pytest.approx(15 * 1.0 + 15 * 3.0)
    assert "seed 1 of 2 · 20 s gone · about 60 s left" in drawn(board)


@pytest.mark.parametrize("made", [in_depth, in_time])
def test_at_the_end_nothing_is_left(made: Callable[[int, Clock], LiveTable]) -> None:
    clock = Clock()
    board = made(1, clock)
    for method, end in zip(board.methods, (Finished(1, 1.0), Failed(1, "loss is not finite")), strict=True):
        told(board, Started({"steps": 1}), method=method)
        clock.now += 1
        told(board, StepDone(1, 0.5, {}), end, method=method)
    assert board.seconds_left() == 0.0
    assert board.methods[1] in drawn(board) and "failed" in told(board, method=board.methods[1])
    assert "failed" not in told(board)


def test_networks_show_errors_agreement_and_alignment() -> None:
    board = in_depth(2, Clock())
    both = {"layer1": {"cosine": 0.25}, "layer2": {"cosine": 0.75}}
    row = told(board, Started({"steps": 4}), StepDone(1, 0.5, both), Probed(1, {"layer1": ALIGNED}))
    assert row[-5:] == ["0.500", "-", "0.50", "-0.34", "-"]
    row = told(board, Evaluated(4, "valid", 9.0, 0.125), Evaluated(4, "test", 9.0, 0.25))
    row = told(board, Evaluated(4, "test", 9.0, 0.35), seed=1)
    assert row[-5:] == ["0.500", "12.50", "0.50", "-0.34", "30.00"]


def test_of_text_the_loss_is_shown(tmp_path: Path) -> None:
    board = Board(Comparison.suited_to("text", data_dir=tmp_path, methods=("unlock",), seeds=2))
    row = told(board, Started({"steps": 4}), Evaluated(4, "valid", 12.5, 0.25), Evaluated(4, "test", 12.75, 0.75))
    assert row[-5:] == ["-", "12.500", "-", "-", "12.750"]
    assert "(nats)" in drawn(board) and "error" not in drawn(board)


def test_in_time_what_is_solved_is_shown_and_what_was() -> None:
    board = in_time(2, Clock())
    solved = (StepDone(10, NATS, {"window": {"cosine": 0.25}}), Solved(10, 7), Finished(10, 1.0))
    assert told(board, Started({"steps": 10}), *solved)[-4:] == ["1.000", "7", "0.25", "-"]
    assert told(board, Started({"steps": 10}), seed=1)[-4:] == ["1.000", "0", "0.25", "7"]


def test_of_text_in_time_bits_are_shown(tmp_path: Path) -> None:
    board = RecurrentBoard(RecurrentComparison.suited_to("text", data_dir=tmp_path, methods=("bptt",), seeds=1))
    row = told(board, Started({"steps": 3}), Evaluated(3, "valid", 2 * NATS, 0.5), Evaluated(3, "test", NATS, 0.5))
    assert row[-4:] == ["-", "2.000", "-", "1.000"]
