"""An event written as a line is the same event when it is read; a line that is none is refused as a `ValueError`."""

import json
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind, parse_actions
from synthgrad.core.events import (
    ActionDone,
    Evaluated,
    Event,
    Failed,
    Finished,
    Probed,
    Solved,
    Started,
    StepDone,
    decode,
    encode,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**62)
CUTS = st.dictionaries(st.text(), st.dictionaries(st.text(), NUMBERS, max_size=3), max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ACTIONS = st.builds(Action, COUNTS, st.sampled_from(Kind), COUNTS)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Started, st.dictionaries(st.text(), JSON, max_size=3), st.lists(st.text()).map(tuple)),
    st.builds(ActionDone, ACTIONS, NUMBERS, NUMBERS, st.lists(ACTIONS, max_size=3).map(tuple), NUMBERS, COUNTS),
    st.builds(StepDone, COUNTS, NUMBERS, CUTS),
    st.builds(Probed, COUNTS, CUTS),
    st.builds(Evaluated, COUNTS, st.text(), NUMBERS, NUMBERS),
    st.builds(Solved, COUNTS, COUNTS),
    st.builds(Failed, COUNTS, st.text()),
    st.builds(Finished, COUNTS, NUMBERS),
)
FIELDS = {name.name for kind in get_args(Event) for name in fields(kind)} | {"event"}
LABELS = st.dictionaries(st.text(min_size=1).filter(lambda name: name not in FIELDS), JSON, max_size=3)

EXAMPLES: list[Event] = [
    Started({"seed": 3}, ("forward",)),
    ActionDone(Action.parse("1F0"), 0.0, 1.5, parse_actions("0F0"), 0.25, 4096),
    StepDone(2, 0.5, {"fc1": {"cosine": 0.25}}),
    Probed(2, {"fc1": {"cosine": 0.25}}),
    Evaluated(2, "test", 0.5, 0.125),
    Solved(2, 5),
    Failed(2, "stage 1 (fc2): loss is not finite"),
    Finished(3, 4.5),
]


@given(EVENTS, LABELS)
def test_decode_is_the_inverse_of_encode(event: Event, labels: dict[str, Any]) -> None:
    assert decode(encode(event, **labels)) == (event, labels)


@given(EVENTS, LABELS)
def test_an_event_is_one_line_of_json_that_says_what_it_is(event: Event, labels: dict[str, Any]) -> None:
    line = encode(event, **labels)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["event"] == type(event).__name__


def test_every_kind_of_event_is_tried_here() -> None:
    assert {type(event) for event in EXAMPLES} == set(get_args(Event))


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_the_kind_of_an_event_comes_back(event: Event) -> None:
    read, labels = decode(encode(event, method="dni", seed=1))
    assert type(read) is type(event) and read == event and labels == {"method": "dni", "seed": 1}


@pytest.mark.parametrize(
    "line",
    ["", "nothing", "{", "3", "null", "[]", '"Finished"', "{}", '{"event": "Elsewhere"}', '{"event": null}',
     '{"steps": 3, "seconds": 1.0}'],
)  # fmt: skip
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_an_event_without_one_of_its_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds"):
        decode('{"event": "Finished", "steps": 3}')


@pytest.mark.parametrize("action", ["null", "3", '"1X0"', '"0F0 1F0"'])
def test_an_action_that_is_none_is_refused(action: str) -> None:
    line = encode(ActionDone(Action.parse("1F0"), 0.0, 1.5)).replace('"1F0"', action)
    with pytest.raises(ValueError, match="expected stage, letter and microbatch"):
        decode(line)


@pytest.mark.parametrize("line", ['{"event": []}', '{"event": {}}'])
def test_an_event_that_is_not_named_by_a_text_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no event"):
        decode(line)


def test_a_label_called_like_a_field_is_refused_and_not_dropped() -> None:
    with pytest.raises(ValueError, match="step"):
        encode(StepDone(2, 0.5, {}), step=7)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_line_is_json_even_where_the_loss_is_not_finite(loss: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(encode(StepDone(2, loss, {})), parse_constant=refuse)
