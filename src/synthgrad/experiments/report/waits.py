"""Why ranks wait on a timeline, played or measured: each stretch of waiting, and the lock that it is due to.

A stage that stands still before an action holds up its own next update; the wait falls into that update's step, and is
named by what it is for, as `synthgrad.core.plan.locks` names locks:

    an earlier stage's forward pass     forward lock
    a later stage's forward pass        update lock
    a later stage's backward pass       backward lock
    anything of another step            target wait: a lesson for a synthesizer that comes late

While stage 0 waits for its gradient, first the forward pass goes on to the loss, then the backward pass comes back. So
a wait is followed back along what it is due to, and divided where the reason changes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from synthgrad.core.actions import Action, Kind
from synthgrad.core.plan import Plan, dependencies, lock_by
from synthgrad.core.simulate import Timeline

__all__ = ["Reason", "Wait", "shares", "waits"]


class Reason(StrEnum):
    """What a wait is for."""

    FORWARD = "forward"  # an earlier stage's forward pass, of the same step
    UPDATE = "update"  # a later stage's forward pass, of the same step
    BACKWARD = "backward"  # a later stage's backward pass, of the same step
    TARGET = "target"  # something of another step


@dataclass(frozen=True)
class Wait:
    """A rank does nothing, for one reason.

    Attributes:
        action: what it cannot start yet.
        start: when the wait starts, in the timeline's units.
        end: when it ends, or goes on for another reason.
        reason: what it is for.
    """

    action: Action
    start: float
    end: float
    reason: Reason


def waits(timeline: Timeline, turned: Mapping[Action, float] | None = None) -> list[Wait]:
    """All waits, rank by rank, each in order of time.

    A rank's time before its first action is no wait, nor is what holds up none of a stage's updates any more.

    Args:
        timeline: what was done when.
        turned: when the rank had nothing else to do than to wait for the action's start; if not given, when it had done
            what it did before.
    """
    previous = _previous(timeline)
    if turned is None:
        turned = {action: timeline.end[before] for action, before in previous.items() if before is not None}
    step_of_update = _steps_of_updates(timeline)
    found: list[Wait] = []
    for action in sorted(previous, key=lambda action: (timeline.plan.ranks[action.stage], timeline.start[action])):
        before, step = previous[action], step_of_update[action]
        if before is not None and step is not None and timeline.start[action] > turned[action]:
            found += _pieces(action, step, timeline, previous, turned)
    return found


def shares(timeline: Timeline) -> dict[Reason, float]:
    """The share of all ranks' time up to the makespan that goes into each kind of wait; every reason is there."""
    total = timeline.makespan * len(set(timeline.plan.ranks))
    spent = dict.fromkeys(Reason, 0.0)
    for wait in waits(timeline):
        spent[wait.reason] += wait.end - wait.start
    return {reason: time / total if total else 0.0 for reason, time in spent.items()}


def _previous(timeline: Timeline) -> dict[Action, Action | None]:
    """For each action what its rank did before it. In a timeline a rank's actions stand in the order of its program."""
    latest: dict[int, Action] = {}
    previous: dict[Action, Action | None] = {}
    for action in timeline.start:
        rank = timeline.plan.ranks[action.stage]
        previous[action] = latest.get(rank)
        latest[rank] = action
    return previous


def _steps_of_updates(timeline: Timeline) -> dict[Action, int | None]:
    """For each action the step of its stage's next update, which it holds up if it is late."""
    upcoming: dict[int, int] = {}
    steps: dict[Action, int | None] = {}
    for action in reversed(list(timeline.start)):
        if action.kind is Kind.U:
            upcoming[action.stage] = timeline.plan.schedule.step_of(action)
        steps[action] = upcoming.get(action.stage)
    return steps


def _pieces(
    action: Action,
    step: int,
    timeline: Timeline,
    previous: Mapping[Action, Action | None],
    turned: Mapping[Action, float],
) -> list[Wait]:
    """The wait before the action, followed back from its end to its start."""
    free, until = turned[action], timeline.start[action]
    cause = _blocker(action, timeline)
    reason = _reason(action.stage, step, cause, timeline.plan) or Reason.TARGET
    pieces: list[Wait] = []
    while cause is not None and until > free:
        since = min(until, max(free, timeline.start.get(cause, free)))  # not there: of a rank that left no record
        if pieces and pieces[-1].reason is reason:
            pieces[-1] = Wait(action, since, pieces[-1].end, reason)
        elif since < until:
            pieces.append(Wait(action, since, until, reason))
        until, own = since, previous.get(cause)
        if own is None or timeline.start[cause] > turned[cause]:
            cause = _blocker(cause, timeline)
        else:
            cause = own
        if cause is not None:
            reason = _reason(action.stage, step, cause, timeline.plan) or reason
    if pieces and until > free:  # whoever came first of all was late itself
        pieces[-1] = Wait(action, free, pieces[-1].end, pieces[-1].reason)
    return pieces[::-1]


def _blocker(action: Action, timeline: Timeline) -> Action | None:
    """Of what the action waits for at other stages, that which ended last."""
    needed = dependencies(action, timeline.plan)
    return max(needed, key=lambda other: timeline.end.get(other, math.inf), default=None)


def _reason(stage: int, step: int, cause: Action | None, plan: Plan) -> Reason | None:
    """What an update of the stage in this step calls the cause; None if it has no name for it."""
    lock = None if cause is None or plan.schedule.step_of(cause) != step else lock_by(cause, stage)
    return None if lock is None else Reason(lock)
