"""The picture's numbers against closed forms."""

import pytest

from synthgrad.core.errors import ScheduleError
from synthgrad.experiments.locking import CONTENDERS, Conditions, lost

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


@pytest.mark.parametrize("bad", [{"ranks": 1}, {"microbatches": 9}, {"latency": -1.0}, {"jitter": float("nan")}])
def test_conditions_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ScheduleError, match=next(iter(bad))):
        Conditions(**bad)  # type: ignore
