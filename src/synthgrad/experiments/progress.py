"""How far a comparison has come, and how long it will still take."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthgrad.core.events import Event, Failed, Finished, Started, StepDone

__all__ = ["Lap", "Progress"]


@dataclass
class Lap:
    """How far one method has come.

    Attributes:
        total: steps for each seed, once known.
        steps: done with the current seed.
        done: steps with all seeds so far.
        ended: seeds that have come to their end, or failed.
        spent: seconds on all steps so far, evaluation included.
        failed: why the current seed was given up.
    """

    total: int = 0
    steps: int = 0
    done: int = 0
    ended: int = 0
    spent: float = 0.0
    failed: str | None = None


class Progress:
    """Fed with events; tells the time left.

    Args:
        methods: names of the methods.
        seeds: how many seeds each is to have.
        clock: seconds, running forward.
    """

    def __init__(self, methods: Sequence[str], seeds: int, clock: Callable[[], float]) -> None:
        self.laps = {name: Lap() for name in methods}
        self.seeds = seeds
        self._clock = clock
        self._began = self._last = clock()
        self._seed = 0

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the method and the seed."""
        lap, now = self.laps[labels["method"]], self._clock()
        if not isinstance(event, Started):  # what came before it was somebody else's doing
            lap.spent += now - self._last
        self._last, self._seed = now, labels["seed"]
        match event:
            case Started(settings):
                lap.total, lap.steps, lap.failed = settings["steps"], 0, None
            case StepDone(step):
                lap.done += step - lap.steps
                lap.steps = step
            case Finished():
                lap.ended += 1
            case Failed(_, reason):
                lap.failed = reason
                lap.ended += 1

    def seconds_left(self) -> float | None:
        """About how long it will take; None until something has been timed."""
        rates = {name: lap.spent / lap.done for name, lap in self.laps.items() if lap.done}
        if not rates:
            return None
        longest = max(lap.total for lap in self.laps.values())
        left = 0.0
        for name, lap in self.laps.items():
            under_way = 0 if lap.failed is not None or lap.steps in (0, lap.total) else lap.total - lap.steps
            begun = lap.ended + (under_way > 0)
            # What has not been timed yet is taken to be as slow as the slowest, and as long as the longest.
            left += rates.get(name, max(rates.values())) * (under_way + (self.seeds - begun) * (lap.total or longest))
        return max(0.0, left)

    def headline(self) -> str:
        """Which seed it is at, for how long it has run, and how long it will."""
        left = self.seconds_left()
        ahead = "starting" if left is None else f"about {_duration(left)} left"
        gone = _duration(self._clock() - self._began)
        seed = f"seed {self._seed + 1} of {self.seeds} · " if self.seeds > 1 else ""
        return f"{seed}{gone} gone · {ahead}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60:02d} s"
