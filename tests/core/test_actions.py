"""The text form of an action and its parser are inverses of each other, and what is no text form is refused by name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind, format_actions, parse_actions
from synthgrad.core.errors import ScheduleError

ACTIONS = st.builds(Action, st.integers(0, 10**9), st.sampled_from(Kind), st.integers(0, 10**9))


@given(ACTIONS)
def test_the_parser_is_the_inverse_of_the_text_form(action: Action) -> None:
    assert Action.parse(str(action)) == action


@given(ACTIONS)
def test_the_text_form_is_stage_letter_microbatch(action: Action) -> None:
    assert str(action) == str(action.stage) + action.kind.name + str(action.microbatch)


@given(st.lists(ACTIONS), st.sampled_from([" ", "  ", "\n", "\t", " \n "]))
def test_lists_of_actions_come_back_whatever_white_space_separates_them(actions: list[Action], blank: str) -> None:
    assert parse_actions(format_actions(actions)) == tuple(actions)
    assert parse_actions(blank + blank.join(map(str, actions)) + blank) == tuple(actions)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "F",
        "2F",
        "F0",
        "2 F0",
        "2F 0",
        "2f0",
        "2X0",
        "2FF0",
        "-1F0",
        "2F-1",
        "2F0 ",
        "2F0\n",
        "2F0.5",
        "0x1F0",
        "2F0;",
    ],
)
def test_a_text_of_another_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(ScheduleError) as raised:
        Action.parse(text)
    assert repr(text) in str(raised.value)
    assert "2F0" in str(raised.value) and "FPSBIWTQU" in str(raised.value)


@given(st.text(alphabet="012FPSBIWTQUXYfb-+. ", max_size=6).filter(lambda t: not re.fullmatch("[0-9]+[A-Z][0-9]+", t)))
def test_any_text_of_another_form_is_refused_by_name(text: str) -> None:
    with pytest.raises(ScheduleError, match=re.escape(repr(text))):
        Action.parse(text)


@given(st.lists(ACTIONS, min_size=1), st.data())
def test_one_bad_word_among_good_ones_is_the_one_named(actions: list[Action], data: st.DataObject) -> None:
    words = [str(action) for action in actions]
    words.insert(data.draw(st.integers(0, len(words))), "3Z3")
    with pytest.raises(ScheduleError, match="'3Z3'"):
        parse_actions(" ".join(words))


@pytest.mark.parametrize("text", ["02F0", "2F00", "٢F0", "2F٣"])
def test_what_parses_is_the_text_form_of_what_it_parses_to(text: str) -> None:
    try:
        action = Action.parse(text)
    except ScheduleError:
        return  # refused: nothing to give back
    assert str(action) == text


def test_actions_sort_by_stage_first() -> None:
    assert [str(action) for action in sorted(parse_actions("1B0 0U0 1F0 0F1 0F0"))] == "0F0 0F1 0U0 1B0 1F0".split()
