import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from synthgrad.core.events import Evaluated, Failed, Finished, Probed, Started, StepDone
from synthgrad.experiments.measures import LOSS
from synthgrad.experiments.results import Result, summarize
from synthgrad.experiments.spec import Comparison
from synthgrad.experiments.tables import Board, cuts_table, legend, summary_markdown, summary_rows, summary_table

ALIGNED = {"cosine": -0.12, "norm_ratio": 12.3, "parameter_cosine": -0.34, "parameter_norm_ratio": 18.3}
LOCKS = {"bp": ("forward", "update", "backward"), "unlock": ()}


def drawn(what: RenderableType, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(data: str = "digits") -> list[Result]:
    """The widest figures that are to be expected."""
    return [
        Result(
            method,
            seed,
            10,
            test_error=0.1 + 0.5 * seed * (method == "unlock"),
            test_loss=1.25 + 2.5 * seed * (method == "unlock"),
            ms_per_step=49.3 if method == "unlock" else 7.2,
            locks=LOCKS[method],
            agreement={"layer1": {"cosine": -0.5, "norm_ratio": 1.0}} if method == "unlock" else {},
            alignment={"layer1": ALIGNED, "layer2": ALIGNED} if method == "unlock" else {},
            settings={"data": data},
        )
        for method in LOCKS
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off_or_wrapped(width: int) -> None:
    text = drawn(summary_table(summarize(cells()), width=width), width) + drawn(cuts_table(summarize(cells())), width)
    assert "…" not in text
    for figure in ("35.00", "-0.50", "-0.12", "-0.34", "49.3", "6.8×", "nothing", "backward"):
        assert figure in text


def test_markdown_has_a_row_for_each_method() -> None:
    lines = summary_markdown(summarize(cells())).splitlines()
    assert lines[0].startswith("| method | waits for (locks) | test error % | Δ to bp (95 %) |")
    assert lines[2] == "| bp | forward, update, backward | 10.00 ± 0.00 | - | 7.2 (1.0×) | - | - | - |"
    assert {line.count("|") for line in lines} == {9}


@pytest.mark.parametrize("width", [80, 120])
def test_of_text_the_loss_is_shown(width: int) -> None:
    summaries = summarize(cells("text"))
    text = drawn(summary_table(summaries, width=width), width)
    assert "…" not in text and "loss (nats)" in text and "error" not in text
    narrow = text.replace(" ± ", "±")
    assert "1.250±0.000" in narrow and "2.500±1.768" in narrow and "+1.250±15.883" in narrow


def test_markdown_of_text_is_in_nats() -> None:
    lines = summary_markdown(summarize(cells("text"))).splitlines()
    assert lines[0].startswith("| method | waits for (locks) | test loss (nats) | Δ to bp (95 %) |")
    assert lines[2] == "| bp | forward, update, backward | 1.250 ± 0.000 | - | 7.2 (1.0×) | - | - | - |"
    assert lines[3].startswith("| unlock | nothing | 2.500 ± 1.768 | +1.250 ± 15.883 |")


def test_an_empty_table_is_headed_by_what_it_is_told() -> None:
    assert summary_rows([])[0][2] == "test error %"
    assert summary_rows([], LOSS)[0][2] == "test loss (nats)"


def test_a_failed_cell_is_seen() -> None:
    summaries = summarize([Result("cdni", 0, 3, failed="loss is nan")])
    assert "1 failed" in drawn(summary_table(summaries, width=80), 80)
    assert "(1 failed)" in summary_markdown(summaries)


def test_the_legend_explains_the_methods_in_the_table() -> None:
    assert "unlock: predicted inputs" in legend(summarize(cells()))


@pytest.mark.parametrize(("data", "name"), [("digits", "error"), ("text", "loss")])
def test_the_legend_says_what_was_tested(data: str, name: str) -> None:
    assert f"\nTest {name}: of the plain model, mean ±" in legend(summarize(cells(data)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_board_tells_how_long_it_will_take() -> None:
    clock = Clock()
    board = Board(Comparison(methods=("bp", "cdni"), seeds=2), clock=clock)
    assert board.seconds_left() is None
    assert "starting" in drawn(board, 80)
    for method, seconds in (("bp", 1.0), ("cdni", 3.0)):
        board.tell(Started({"steps": 10}), {"method": method, "seed": 0})
        for step in range(1, 6):
            clock.now += seconds
            board.tell(StepDone(step, 0.5, {}), {"method": method, "seed": 0})
    # Each has 5 steps to do with this seed and 10 with the next, at 1 and at 3 seconds.
    assert board.seconds_left() == pytest.approx(15 * 1.0 + 15 * 3.0)
    assert "seed 1 of 2 · 20 s gone · about 60 s left" in drawn(board, 80)


def test_the_board_ends_with_nothing_left() -> None:
    clock = Clock()
    board = Board(Comparison(methods=("bp",), seeds=1), clock=clock)
    board.tell(Started({"steps": 1}), {"method": "bp", "seed": 0})
    clock.now += 1
    for event in (StepDone(1, 0.5, {}), Evaluated(1, "test", 0.1, 0.25), Finished(1, 1.0)):
        board.tell(event, {"method": "bp", "seed": 0})
    assert board.seconds_left() == 0.0
    assert "25.00" in drawn(board, 80)


def test_the_board_shows_the_loss_of_text(tmp_path: Path) -> None:
    board = Board(Comparison.suited_to("text", data_dir=tmp_path, methods=("unlock",), seeds=2))
    labels = {"method": "unlock", "seed": 0}
    board.tell(Started({"steps": 4}), labels)
    for event in (Evaluated(4, "valid", 12.5, 0.25), Evaluated(4, "test", 12.75, 0.75)):
        board.tell(event, labels)
    text = drawn(board, 80)
    assert "12.500" in text and "12.750" in text and "(nats)" in text
    assert "error" not in text and "25.00" not in text and "…" not in text


def test_the_board_shows_figures_and_failures() -> None:
    board = Board(Comparison(methods=("cdni",), seeds=2))
    labels = {"method": "cdni", "seed": 0}
    board.tell(Started({"steps": 4}), labels)
    board.tell(StepDone(1, 0.5, {"layer1": {"cosine": 0.25}, "layer2": {"cosine": 0.75}}), labels)
    board.tell(Probed(1, {"layer1": ALIGNED}), labels)
    text = drawn(board, 80)
    assert "0.500" in text and "0.50" in text and "-0.34" in text and "…" not in text
    board.tell(Failed(1, "loss is not finite"), labels)
    assert "failed" in drawn(board, 80)
    assert board.seconds_left() is not None
