"""Timelines as pictures: everything lies within the drawing, labels do not overlap, letters fit their blocks."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.pipelines import one_f_one_b, zero_bubble
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked
from synthgrad.core.simulate import UNIT_COSTS, Timeline, asked_of, simulate
from synthgrad.experiments.report.timeline import WIDTH, draw, kinds_legend, legend, waits_legend
from synthgrad.experiments.report.waits import Reason, waits

SPACE = "{http://www.w3.org/2000/svg}"
SCHEDULES = [backprop(), one_f_one_b(8), zero_bubble(4), update_unlocked(1), forward_unlocked()]
WIDTHS = {"W": 11.6, "Q": 9.0}  # of bold letters of 10.5 pixels; others are no wider than 8.5


def drawn(timeline: Timeline, unit: str = "", framed: int | None = None) -> ElementTree.Element:
    picture = draw(timeline, waits(timeline), timeline.makespan, label="a timeline", framed=framed, unit=unit)
    return ElementTree.fromstring(picture)


def of_class(picture: ElementTree.Element, name: str, *classes: str) -> list[ElementTree.Element]:
    return [one for one in picture.iter(f"{SPACE}{name}") if {*classes} <= set(one.get("class", "").split())]


def number(one: ElementTree.Element, name: str) -> float:
    return float(one.get(name, "nan"))


@given(st.sampled_from(SCHEDULES), st.integers(1, 5), st.integers(1, 3), st.floats(1e-3, 1e6))
def test_numbers_on_the_axis_stay_within_and_apart(schedule: Schedule, stages: int, steps: int, scale: float) -> None:
    costs = {kind: scale * cost for kind, cost in UNIT_COSTS.items()}
    picture = drawn(simulate(asked_of(schedule, stages), steps=steps, costs=costs), unit=" ms")
    spans = []
    for text in of_class(picture, "text", "tick", "small"):
        width, x = 6.4 * len(text.text or ""), number(text, "x")
        left = x - (width if "end" in text.get("class", "") else width / 2)
        spans.append((left, left + width))
    assert spans and all(0 <= left and right <= WIDTH for left, right in spans)
    assert all(one[1] < two[0] for one, two in pairwise(sorted(spans)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_letters_fit_their_blocks_and_frames_do_not_hide_them(schedule: Schedule, steps: int) -> None:
    picture = drawn(simulate(asked_of(schedule, 4), steps=steps), framed=0)
    found = 0
    for group in picture.iter(f"{SPACE}g"):
        (box,) = of_class(group, "rect", "block")
        classes = box.get("class", "").split()
        for letter in of_class(group, "text", "letter"):
            found += 1
            assert number(box, "width") >= WIDTHS.get(letter.text or "", 8.5) and letter.text == classes[1]
        if "second" in classes:
            assert ("thin" in classes) == (number(box, "width") < 6)
    assert found or steps > 1


def test_every_wait_and_kind_is_in_the_legend_and_the_two_columns_stay_apart() -> None:
    words = waits_legend() + kinds_legend()
    assert all(f"wait-{reason}" in words for reason in Reason)
    assert all(letter in words for letter in ("P:", "S:", "I, W:", "Q:"))
    alone = ElementTree.fromstring(f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(legend(0))}</svg>')
    ends = [
        float(group.get("transform", "").removeprefix("translate(").split()[0]) + 42 + 6.1 * len(text.text or "")
        for group in alone.iter(f"{SPACE}g")
        if group.get("transform")
        for text in group.iter(f"{SPACE}text")
        if not text.get("class")
    ]
    assert len(ends) == 9 and all(end < WIDTH / 2 or WIDTH / 2 < end < WIDTH for end in ends)
    assert max(end for end in ends[:4]) < WIDTH / 2
