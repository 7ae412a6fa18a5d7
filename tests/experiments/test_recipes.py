"""A recipe tells apart whatever trains otherwise, and nothing else; it survives JSON."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from synthgrad.core.schedules import sporadic, update_unlocked
from synthgrad.experiments.methods import METHODS, Method, Part
from synthgrad.experiments.recipes import recipe_of
from synthgrad.experiments.recurrent.methods import KINDS
from synthgrad.experiments.recurrent.spec import RecurrentComparison

CRITIC = METHODS["logistic"]
REPLAY = METHODS["cdni-replay"]


def part(method: Method) -> Part:
    assert method.synthesizer is not None
    return method.synthesizer[1]


def with_part(method: Method, **changes: Any) -> Method:
    assert method.synthesizer is not None
    return replace(method, synthesizer={**method.synthesizer, 1: replace(part(method), **changes)})


def test_no_two_methods_have_the_same_recipe() -> None:
    recipes = [json.dumps(recipe_of(method), sort_keys=True) for method in METHODS.values()]
    assert len(set(recipes)) == len(recipes)


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_comes_back_from_json_as_it_was(name: str) -> None:
    recipe = recipe_of(METHODS[name])
    assert json.loads(json.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    "changed",
    [
        replace(CRITIC, schedule=partial(update_unlocked, delay=1)),
        replace(CRITIC, plain=True),
        replace(CRITIC, synthesizer=None),
        replace(CRITIC, input_synthesizer=METHODS["unlock"].input_synthesizer),
        with_part(CRITIC, kind="OtherSynthesizer"),
        with_part(CRITIC, options={"learns": ("gradient",), "rank": 8}),
        with_part(CRITIC, takes=()),
        with_part(CRITIC, head="zero_head"),
        with_part(CRITIC, inside=Part("LinearSynthesizer")),
    ],
    ids=["delay", "plain", "synthesizer", "input synthesizer", "kind", "options", "takes", "head", "inside"],
)
def test_whatever_trains_otherwise_has_another_recipe(changed: Method) -> None:
    assert recipe_of(changed) != recipe_of(CRITIC)


def test_an_option_of_what_is_wrapped_counts_too() -> None:
    inner = part(REPLAY).inside
    assert inner is not None
    changed = with_part(REPLAY, inside=replace(inner, options={"bias": False}))
    assert recipe_of(changed) != recipe_of(REPLAY)


def test_what_a_method_is_called_does_not_count() -> None:
    assert recipe_of(replace(CRITIC, name="other", title="other words")) == recipe_of(CRITIC)


def test_what_a_field_has_by_default_is_left_out() -> None:
    """So that a field thought of later, with a default, leaves older results what they are."""
    assert recipe_of(METHODS["zero"]) == {
        "schedule": "update_unlocked(delay=0)",
        "synthesizer": {str(dimensions): {"kind": "ZeroSynthesizer"} for dimensions in (1, 2, 3)},
    }


def test_who_learns_when_is_drawn_by_a_seed_which_counts() -> None:
    methods = [replace(CRITIC, schedule=partial(sporadic, 0.5, seed)) for seed in (0, 1)]
    assert recipe_of(methods[0]) != recipe_of(methods[1])


def test_in_time_what_the_kind_does_counts_and_settings_are_kept_beside_it() -> None:
    comparison = RecurrentComparison()
    dni, faster = comparison.method("dni-4"), comparison.method("dni-4:lr=3e-3")
    assert recipe_of(dni) == recipe_of(faster) != {}
    other = replace(dni, kind=replace(KINDS["dni"], learns=("gradient",)))
    assert recipe_of(other) != recipe_of(dni)
