"""The picture of scores shows every cell that came to its end where it belongs, and says which did not."""

import math
import re
from xml.etree import ElementTree

import pytest

from synthgrad.experiments.report.scores import scores_picture
from synthgrad.experiments.results import Result

ERRORS = {"cdni": (0.04, 0.05), "bp": (0.01, 0.02), "zero": (0.4, 0.5)}
CELLS = [
    Result(method, seed, 10, test_error=error) for method, errors in ERRORS.items() for seed, error in enumerate(errors)
]


def dots(picture: str) -> list[float]:
    drawn = ElementTree.fromstring(picture)
    return [float(circle.attrib["cx"]) for circle in drawn.iter("{http://www.w3.org/2000/svg}circle")]


def names(picture: str) -> list[str]:
    return re.findall(r'class="name end \w+">([^<]+)<', picture)


def test_rows_stand_in_order_of_their_means_and_dots_in_that_of_the_errors() -> None:
    picture = scores_picture(CELLS)
    assert names(picture) == ["bp", "cdni", "zero"]
    places = dots(picture)
    assert places == sorted(places) and len(places) == 6
    # On a logarithmic axis equal ratios are equal distances.
    assert (places[1] - places[0]) / (places[2] - places[1]) == pytest.approx(1.0, abs=0.01)
    assert (places[3] - places[2]) / (places[1] - places[0]) == pytest.approx(math.log(5 / 4) / math.log(2), abs=0.01)


def test_a_narrow_range_has_a_linear_axis() -> None:
    cells = [Result("bp", seed, 10, test_error=error) for seed, error in enumerate((0.010, 0.012, 0.014))]
    left, middle, right = dots(scores_picture(cells))
    assert right - middle == pytest.approx(middle - left, abs=0.02)
    assert "logarithmic" not in scores_picture(cells)


def test_cells_that_failed_have_no_dot_and_are_counted() -> None:
    failed = Result("cdni", 2, 3, failed="NaN")
    picture = scores_picture([*CELLS, failed])
    assert dots(picture) == dots(scores_picture(CELLS))
    assert "4.50 ± 0.71 (1 failed)" in picture


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        scores_picture([Result("bp", 0, 3, failed="NaN")])
