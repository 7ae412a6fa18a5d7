"""Which steps of a trace are drawn, and what is framed."""

from types import SimpleNamespace
from typing import Any

import pytest

from synthgrad.core.pipelines import gpipe
from synthgrad.core.plan import Declaration, Plan
from synthgrad.experiments.traces.page import _framed, middle


def trace(steps: range, microbatches: int) -> Any:
    plan = Plan(gpipe(microbatches), (Declaration(synthesizer=False),))
    return SimpleNamespace(steps=steps, plan=plan)


@pytest.mark.parametrize(
    ("steps", "microbatches", "drawn"),
    [
        (range(10), 1, range(3, 6)),
        (range(5, 15), 4, range(8, 11)),
        (range(10), 6, range(4, 6)),  # of many microbatches fewer steps, so that each can be seen
        (range(10), 64, range(4, 5)),
        (range(7, 9), 1, range(7, 9)),
    ],
)
def test_a_few_steps_in_the_middle_are_drawn(steps: range, microbatches: int, drawn: range) -> None:
    assert middle(trace(steps, microbatches)) == drawn
    assert middle(trace(steps, microbatches), 2) == range(drawn_start(steps, 2), drawn_start(steps, 2) + 2)


def drawn_start(steps: range, count: int) -> int:
    return steps.start + (len(steps) - count) // 2


def test_of_one_step_nothing_is_framed() -> None:
    assert (_framed(range(4, 5)), _framed(range(4, 7)), _framed(range(4, 6))) == (None, 5, 5)
