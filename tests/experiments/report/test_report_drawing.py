import pytest

from synthgrad.experiments.report.curves import binned, curve
from synthgrad.experiments.report.drawing import Markup, Scale, join, number, shortened, tag
from synthgrad.experiments.report.record import CellRecord
from synthgrad.experiments.report.style import LEVELS, method_class, stylesheet


def test_text_and_attributes_are_escaped_and_markup_is_not() -> None:
    drawn = tag("text", '<b> & "', tag("tspan", "c"), fill='"<&>', stroke_width=2)
    assert drawn == '<text fill="&quot;&lt;&amp;&gt;" stroke-width="2">&lt;b&gt; &amp; "<tspan>c</tspan></text>'
    assert join(["<", Markup("<br/>")]) == "&lt;<br/>"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_drawing_has_finite_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        tag("rect", x=value)


def test_numbers_are_short() -> None:
    assert [number(value) for value in (1.0, 1.501, -0.001, 12.346)] == ["1", "1.5", "0", "12.35"]


def test_a_long_name_loses_its_middle() -> None:
    assert shortened("blocks.10.conv2", 9) == "bloc…onv2"
    assert shortened("layer1", 9) == "layer1"


def test_scales_and_their_ticks() -> None:
    up = Scale(0, 10, 100, 0)
    assert (up(0), up(5), up(10), up(11)) == (100, 50, 0, 0)
    across = Scale(0.01, 100, 0, 4, log=True)
    assert across(1) == pytest.approx(2)
    assert across(0) == 0  # there is no zero on a logarithmic scale
    assert across.ticks(4) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert Scale(3, 3, 0, 1).ticks(4) == [3]
    assert all(len(Scale(0, top, 0, 1).ticks(5)) <= 9 for top in (1, 7, 46.5, 400, 123456))


def test_a_curve_is_the_mean_over_the_seeds_in_a_band() -> None:
    cells = [CellRecord("a", 0, losses=[(1, 1.0), (2, 3.0)]), CellRecord("a", 1, losses=[(1, 4.0)], failed="why")]
    found = curve("a", cells, lambda cell: cell.losses, 1)
    assert found.points == ((1, 2.5, 1.0, 4.0), (2, 3.0, 3.0, 3.0))
    assert (found.seeds, found.ends) == (2, ((1, 4.0),))


def test_bins_leave_out_what_is_missing() -> None:
    assert binned([(1, 1.0), (2, 3.0), (9, 5.0)], 4) == {2.5: 2.0, 10.5: 5.0}


def test_every_method_and_level_has_a_style() -> None:
    sheet = stylesheet()
    methods = ["bp", *(f"other{n}" for n in range(12))]
    for which in {method_class(method, methods) for method in methods}:
        assert f".{which}{{" in sheet
    assert method_class("bp", ["cdni", "bp"]) == "m0"
    assert f".c{2 * LEVELS}{{" in sheet
