"""The picture's numbers against closed forms."""

from dataclasses import replace
from typing import Any

import pytest

from synthgrad.core.errors import ScheduleError
from synthgrad.core.jitter import DISTRIBUTIONS
from synthgrad.experiments.locking import CONTENDERS, Conditions, lost, panels

NAMED = {one.name: one for one in CONTENDERS}


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_is_lost_is_what_the_closed_forms_say(ranks: int) -> None:
    conditions = Conditions(ranks, 8, synthesizer=0.25)
    expected = {
        "back-propagation": 1 - 1 / ranks,
        "GPipe": (ranks - 1) / (8 + ranks - 1),
        "1F1B": (ranks - 1) / (8 + ranks - 1),
        "interleaved": (ranks - 1) / (2 * 8 + ranks - 1),
        "zero bubble": (ranks - 1) / (3 * 8 + ranks - 1),
        "2BW": 0.0,
        "2BW, 2 ahead": 0.0,
        "unlocked": 0.2,  # a quarter of a stage more, of which nothing is of use
        "unlocked, delay 2": 0.2,
    }
    for name, share in expected.items():
        assert lost(NAMED[name], conditions) == pytest.approx(share, abs=1e-12), name


@pytest.mark.parametrize("name", NAMED)
def test_latency_and_jitter_cost_something_or_nothing_and_never_less(name: str) -> None:
    base = lost(NAMED[name], Conditions(2, 4))
    assert lost(NAMED[name], Conditions(2, 4, latency=1.0)) >= base - 1e-12
    assert 0.0 <= lost(NAMED[name], Conditions(2, 4, jitter=0.5), seeds=2) < 1.0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_jitter_of_any_distribution_costs_a_pipeline_and_the_panel_stays_within_it(distribution: str) -> None:
    conditions = Conditions(2, 4, distribution=distribution)
    base = lost(NAMED["1F1B"], conditions)
    assert lost(NAMED["1F1B"], replace(conditions, jitter=0.5), seeds=8) > base
    panel = panels(conditions)[2]
    assert panel.values[0] == 0.0 and 0.5 <= panel.values[-1] <= min(0.8, DISTRIBUTIONS[distribution].largest)
    assert panel.title.startswith(f"{distribution} jitter") and all(len(one) == 6 for one in panel.shares.values())


@pytest.mark.parametrize(
    "bad", [{"distribution": "cauchy"}, {"ranks": 1}, {"microbatches": 9}, {"latency": -1.0}, {"jitter": float("nan")}]
)
def test_conditions_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError, match=next(iter(bad))):
        Conditions(**bad)  # type: ignore
