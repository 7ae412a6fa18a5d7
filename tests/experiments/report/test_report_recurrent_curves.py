"""The picture of comparisons in time: whom it shows, and where their curves end."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from synthgrad.experiments.recurrent.results import RecurrentResult
from synthgrad.experiments.report.recurrent_curves import courses_picture

SVG = "{http://www.w3.org/2000/svg}"
Cells = list[RecurrentResult]


def copied(method: str, *solved: int) -> Cells:
    """A cell for each seed, of 100 updates, which solved 1, 2, ... at even distances."""
    return [
        RecurrentResult(
            "copy", method, 4, seed, 100, solved=most, curve=tuple((10 * n, float(n)) for n in range(1, most + 1))
        )
        for seed, most in enumerate(solved)
    ]


def read(method: str, unroll: int, *bits: float) -> Cells:
    return [
        RecurrentResult("text", method, unroll, seed, 100, test_bits=each, curve=((50, each + 1), (100, each)))
        for seed, each in enumerate(bits)
    ]


COPIED = [*copied("bptt-4", 2, 2), *copied("bptt-4:lr=3e-3", 3, 3), *copied("dni-4", 5, 7), *copied("dni-4:lr=1", 1)]
READ = [*read("bptt-8:lr=1e-3", 8, 2.5), *read("bptt-8:lr=3e-3", 8, 2.6), *read("dni-5:lr=1e-3", 5, 2.4)]


def names(picture: str) -> list[str]:
    texts = ElementTree.fromstring(picture).iter(f"{SVG}text")
    return [text.text or "" for text in texts if text.attrib.get("class", "").startswith("name")]


def lines(picture: str) -> list[list[tuple[float, float]]]:
    paths = ElementTree.fromstring(picture).iter(f"{SVG}path")
    drawn = [path.attrib["d"] for path in paths if path.attrib["class"].startswith("curve")]
    return [[(float(x), float(y)) for x, y in (point.split() for point in path[1:].split("L"))] for path in drawn]


def test_of_each_kind_the_best_variant_is_drawn_and_named_without_its_settings() -> None:
    assert names(courses_picture([COPIED])) == ["bptt-4", "dni-4"]
    assert names(courses_picture([COPIED, READ])) == ["bptt-4", "dni-4", "bptt-8", "dni-5"]
    bptt, dni = lines(courses_picture([COPIED]))
    # 3 of both seeds, and 6 in the mean: equal distances from zero, where all begin.
    assert bptt[0] == dni[0]
    assert (bptt[0][1] - bptt[-1][1]) * 2 == pytest.approx(dni[0][1] - dni[-1][1], abs=0.2)


def test_of_text_fewer_bits_are_better_and_windows_are_told_apart_by_time_steps() -> None:
    wider, narrower = lines(courses_picture([READ]))
    both = lines(courses_picture([[*read("bptt-8:lr=1e-3", 8, 2.5), *read("dni-5:lr=1e-3", 5, 2.4)]]))
    assert [wider, narrower] == both
    assert wider[-1][0] > narrower[-1][0]  # 800 time steps against 500


def test_results_that_tell_nothing_of_the_way_are_not_drawn() -> None:
    with pytest.raises(ValueError, match="nothing of the way"):
        courses_picture([[replace(cell, curve=()) for cell in COPIED]])


def test_a_method_that_failed_with_every_seed_has_no_curve() -> None:
    failed = RecurrentResult("copy", "local-4", 4, 0, 7, failed="the loss is nan")
    assert names(courses_picture([[*COPIED, failed]])) == ["bptt-4", "dni-4"]
