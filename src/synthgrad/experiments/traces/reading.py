"""A trace's folder, read back as one timeline of all processes, with what each wait was for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from synthgrad.core.actions import Action, Kind, parse_actions
from synthgrad.core.errors import TraceError
from synthgrad.core.events import ActionDone
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.schedules import Schedule
from synthgrad.core.simulate import Timeline
from synthgrad.experiments.report.waits import Reason, Wait, waits
from synthgrad.experiments.traces.file import TraceFile, read_file

__all__ = ["RECEIPT", "Trace", "read_trace", "trace_folders"]

# Seconds. What had been sent before it was asked for, and is there within this time, was not waited for: so long it
# takes to read a message. Measured on gloo over loopback: 0.05 to 0.2 ms.
RECEIPT = 3e-4


@dataclass(frozen=True, eq=False)
class Trace:
    """What was done when, on all ranks, on the clock of rank 0.

    Attributes:
        plan: what was carried out; `plan.ranks` are the processes.
        names: of the stages.
        locks: of the plan.
        done: the actions, rank by rank, each rank's in order of time.
        step: for each action the step in which it was done; a late one belongs to an earlier batch.
        steps: those of which every rank tells the whole.
        missing: what the files lack, in words.
    """

    plan: Plan
    names: tuple[str, ...]
    locks: tuple[str, ...]
    done: Mapping[Action, ActionDone]
    step: Mapping[Action, int]
    steps: range
    missing: tuple[str, ...] = ()

    @cached_property
    def whole(self) -> Timeline:
        """All of it."""
        start = {action: one.start for action, one in self.done.items()}
        return Timeline(self.plan, start, {action: one.end for action, one in self.done.items()})

    @cached_property
    def turned(self) -> dict[Action, float]:
        """For each action, when its rank turned to it: from then to its start it waited."""
        return {action: one.start - self._waited(one) for action, one in self.done.items()}

    def _waited(self, one: ActionDone) -> float:
        sent = [self.done.get(source) for source in one.sources]
        early = all(source is not None and source.end <= one.start - one.waited for source in sent)
        return 0.0 if early and one.waited < RECEIPT else one.waited

    @cached_property
    def waits(self) -> list[Wait]:
        """All waits, in seconds of the clock."""
        return waits(self.whole, self.turned)

    def within(self, steps: range, *, scale: float = 1.0) -> Timeline:
        """What was done in these steps, in seconds since the first of it; `scale` of the unit to a second."""
        chosen = [action for action, step in self.step.items() if step in steps]
        zero = self.zero(steps)
        start = {action: scale * (self.done[action].start - zero) for action in chosen}
        return Timeline(self.plan, start, {action: scale * (self.done[action].end - zero) for action in chosen})

    def zero(self, steps: range) -> float:
        """When the first action of these steps began."""
        return min((self.done[action].start for action, step in self.step.items() if step in steps), default=0.0)

    def waits_within(self, steps: range) -> list[Wait]:
        """The waits before what was done in these steps, in seconds since the first of it."""
        zero = self.zero(steps)
        chosen = (wait for wait in self.waits if self.step[wait.action] in steps)
        return [Wait(wait.action, wait.start - zero, wait.end - zero, wait.reason) for wait in chosen]

    def waiting(self, steps: range | None = None) -> dict[Reason, float]:
        """Seconds that all ranks together waited, for each reason, in these steps or all."""
        spent = dict.fromkeys(Reason, 0.0)
        for wait in self.waits_within(self.steps if steps is None else steps):
            spent[wait.reason] += wait.end - wait.start
        return spent

    def costs(self, steps: range | None = None) -> dict[tuple[int, Kind], float]:
        """The median seconds of each stage's actions of each kind."""
        found: dict[tuple[int, Kind], list[float]] = defaultdict(list)
        for action, step in self.step.items():
            if step in (self.steps if steps is None else steps):
                found[action.stage, action.kind].append(self.done[action].end - self.done[action].start)
        return {key: median(times) for key, times in found.items()}

    def late(self, action: Action) -> int:
        """How many steps after its batch's own the action was done: of a lesson, the delay of its target."""
        return self.step[action] - self.plan.schedule.step_of(action)


def trace_folders(folder: str | Path) -> list[Path]:
    """Where the traces are that a folder holds: itself or its `trace`; or folders there, for cells or for replicas.

    Raises:
        TraceError: there are none.
    """
    for place in (Path(folder), Path(folder, "trace")):
        if any(place.glob("rank-*.jsonl")):
            return [place]
        if found := sorted({path.parent for path in place.glob("*/rank-*.jsonl")}):
            return found
    raise TraceError(
        f"{folder}: holds no trace (rank-0.jsonl); expected a folder given to synthgrad.trace, or to --trace of "
        f"synthgrad train, or that of a run of synthgrad compare --trace"
    )


def read_trace(folder: str | Path) -> Trace:
    """Read what `trace` has written, of a run that came to its end or not.

    Args:
        folder: that the trace was given; or the run's, whose folder `trace` that is.

    Raises:
        TraceError: no trace is there, or several are, or its files are not of one run.

    >>> read_trace("run/trace").waiting()  # doctest: +SKIP
    {<Reason.FORWARD: 'forward'>: 0.12, ...}
    """
    place, *others = trace_folders(folder)
    if others:
        raise TraceError(f"{folder}: holds {1 + len(others)} traces; name one of them, such as {place}")
    read = [read_file(path) for path in sorted(place.glob("rank-*.jsonl"))]
    files = sorted((file for file in read if file.settings), key=lambda file: file.rank)
    if not files:
        raise TraceError(f"{folder}: no file there says of what plan it is a trace; was it written by synthgrad.trace?")
    missing = [f"{file.name}: its beginning is missing; it is left out" for file in read if not file.settings]
    _expect_one_run(folder, files)
    ranks = tuple(files[0].settings["ranks"])
    if absent := sorted(set(ranks) - {file.rank for file in files}):
        missing.append(f"the files of ranks {absent} are missing; so are their stages")
    _align(files)
    for file in files:
        missing += file.notes()
    whole = [file.whole_steps for file in files]
    steps = range(max(one.start for one in whole), max(0, min(one.stop for one in whole)))
    done = {action: one for file in files for action, (_, one) in file.done.items()}
    step = {action: number for file in files for action, (number, _) in file.done.items()}
    plan = _plan(files[0].settings, step)
    if not plan.schedule.period:  # what waits for what is known only where every rank's part of a step is
        if absent:
            raise TraceError(f"{folder}: {plan.schedule.name} is not the same in every step, and {missing[-1]}")
        step = {action: number for action, number in step.items() if plan.schedule.step_of(action) in steps}
        done = {action: done[action] for action in step}
    names = tuple(str(stage["name"]) for stage in files[0].settings["stages"])
    return Trace(plan, names, files[0].locks, done, step, steps, tuple(missing))


def _expect_one_run(folder: str | Path, files: Sequence[TraceFile]) -> None:
    for file in files[1:]:
        for what in ("schedule", "ranks", "stages", "microbatches"):
            if file.settings.get(what) != files[0].settings.get(what):
                raise TraceError(
                    f"{folder}: {file.name} and {files[0].name} are not of one run; they differ in {what}: got "
                    f"{file.settings.get(what)}, expected {files[0].settings.get(what)}; give each run a folder"
                )


def _align(files: Sequence[TraceFile]) -> None:
    """Put all times on one clock; processes of one machine share theirs."""
    here = files[0].settings["clock"]
    for file in files:
        clock = file.settings["clock"]
        if clock["machine"] != here["machine"]:
            file.shift(clock["offset"] - here["offset"])


def _plan(settings: Mapping[str, Any], step: Mapping[Action, int]) -> Plan:
    """The plan as the run had it; a schedule without a period is what was done."""
    parts, late, written = settings["microbatches"], settings["lateness"], settings["actions"]
    by_step = {late + place: list(parse_actions(text)) for place, text in enumerate(written)}
    period = len(by_step)
    if not period:
        for action, number in step.items():
            by_step.setdefault(number, []).append(action)

    def order(_: int, number: int) -> list[Action]:
        if not period:
            return by_step.get(number, [])
        model = late + (number - late) % period
        shift = (number - model) * parts
        return [action._replace(microbatch=action.microbatch + shift) for action in by_step[model]]

    schedule = Schedule(settings["schedule"], order, parts, late, period=period)
    stages = tuple(
        Declaration(one["synthesizer"], frozenset(one["needs"]), frozenset(one["feedback"]), one["input_synthesizer"])
        for one in settings["stages"]
    )
    return Plan(schedule, stages, tuple(settings["ranks"]))
