import io

import pytest
from rich.console import Console, RenderableType

from synthgrad.experiments.measures import LOSS
from synthgrad.experiments.results import Result, summarize
from synthgrad.experiments.tables import cuts_table, legend, summary_markdown, summary_rows, summary_table

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
