"""One process's file of a trace, as `synthgrad.engines.trace` writes it; of one that was cut short, what is whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from synthgrad.core.actions import Action
from synthgrad.core.events import ActionDone, Failed, Finished, Started, decode

__all__ = ["TraceFile", "read_file"]


@dataclass
class TraceFile:
    """What a process wrote down.

    Attributes:
        name: of the file.
        settings: the plan, the rank, the clock.
        locks: of the plan.
        done: the actions with the steps in which they were done, in order of time.
        failed: why the run was given up, if it was.
        finished: how it ended; None if the process was killed.
        dropped: how many events found no room.
        unreadable: how many lines could not be read.
        cut: whether the last line is cut short.
        repeated: how many actions were done a second time, after a step that was given up; the second time counts.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    locks: tuple[str, ...] = ()
    done: dict[Action, tuple[int, ActionDone]] = field(default_factory=dict)
    failed: Failed | None = None
    finished: Finished | None = None
    dropped: int = 0
    unreadable: int = 0
    cut: bool = False
    repeated: int = 0

    @property
    def rank(self) -> int:
        """Whose file it is."""
        return int(self.settings["rank"])

    @property
    def whole_steps(self) -> range:
        """The steps of which nothing is missing here."""
        parts = int(self.settings["microbatches"])
        steps = [step for action, (step, _) in self.done.items() if action.microbatch // parts == step]  # not the late
        if not steps:
            return range(0)
        whole = self.finished is not None and not self.dropped and self.failed is None
        return range(min(steps), max(steps) + whole)

    def notes(self) -> list[str]:
        """What is missing, in words."""
        said = []
        if self.cut:
            said.append("its last line is cut short")
        if self.unreadable:
            said.append(f"{self.unreadable} of its lines could not be read")
        if self.finished is None:
            said.append("its end is missing: the process was killed, or is still running")
        if self.dropped:
            said.append(f"{self.dropped} events found no room in {self.settings.get('limit')} bytes")
        if self.failed is not None:
            said.append(f"the run was given up in step {self.failed.step} ({self.failed.reason})")
        if self.repeated:
            said.append(
                f"{self.repeated} actions were done twice, after a step that was given up: the last time counts"
            )
        return [f"{self.name}: {one}" for one in said]

    def tell(self, line: str) -> None:
        """Take in a line. Raises `ValueError`, `KeyError` or `TypeError` on one that says nothing."""
        event, labels = decode(line)
        match event:
            case Started(settings, locks):
                self.settings, self.locks = settings, locks
            case ActionDone():
                self.repeated += self.done.pop(event.action, None) is not None
                self.done[event.action] = (int(labels["step"]), event)
            case Failed():
                self.failed = event
            case Finished():
                self.finished, self.dropped = event, int(labels["dropped"])

    def shift(self, seconds: float) -> None:
        """Put all times on another clock, which is so many seconds ahead."""
        for action, (step, one) in self.done.items():
            self.done[action] = (step, replace(one, start=one.start + seconds, end=one.end + seconds))


def read_file(path: Path) -> TraceFile:
    """Read a process's file: every line that is whole, from the first to the last."""
    found = TraceFile(path.name)
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.split("\n")
    found.cut = bool(lines.pop())  # what stands behind the last end of a line
    for line in lines:
        try:
            found.tell(line)
        except (ValueError, KeyError, TypeError):
            found.unreadable += 1
    return found
