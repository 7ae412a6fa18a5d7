"""Schedules made from other schedules: their steps mixed, thinned out, or put into another order.

warm_up(100, update_unlocked())        back-propagation first
true_every(4, update_unlocked())       back-propagation now and then
teach_every(4, update_unlocked())      lessons now and then
eager(update_unlocked())               lessons at once
"""

from collections.abc import Callable
from dataclasses import replace

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError
from synthgrad.core.pipelines import gpipe
from synthgrad.core.schedules import Schedule, at_least, microbatches_of

__all__ = ["eager", "teach_every", "true_every", "warm_up"]


def warm_up(steps: int, schedule: Schedule) -> Schedule:
    """Back-propagation for the first steps, from which the synthesizers learn; then `schedule`.

    Both parts teach in the step itself (`eager`), so that no lesson is lost or given twice where they meet. The locks
    of the whole are those of back-propagation, the most there can be; what the updates wait for behind the warm-up are
    the locks of `schedule` alone. With `mixing` below 1 the warm-up mixes, as back-propagation does.

    Raises:
        ScheduleError: a negative number of steps; or `schedule` has a delay, which no lesson in its own step can have.
    """
    at_least("warm_up: steps", steps, 0)
    return _partly_true("warm_up", steps, schedule, lambda step: step < steps)


def true_every(k: int, schedule: Schedule) -> Schedule:
    """Back-propagation in steps 0, k, 2k and so on, from which the synthesizers learn; else `schedule`.

    What `warm_up` says of lessons, locks and mixing holds here too. With k=1 it is `backprop(teach=True)`.

    Raises:
        ScheduleError: k below 1; or `schedule` has a delay, which no lesson in its own step can have.
    """
    at_least("true_every: k", k, 1)
    return _partly_true("true_every", k, schedule, lambda step: step % k == 0)


def _partly_true(builder: str, number: int, schedule: Schedule, is_true: Callable[[int], bool]) -> Schedule:
    other, true = eager(schedule), _taught(schedule.microbatches)
    name = f"{builder}({number}, {schedule.name})"
    if other.lateness:
        raise ScheduleError(f"{name}: lessons come {other.lateness} steps late, expected none to; use delay=0")

    def order(stages: int, step: int) -> list[Action]:
        return (true if is_true(step) else other).order(stages, step)

    return Schedule(name, order, schedule.microbatches, parts=(true, other))


def teach_every(k: int, schedule: Schedule) -> Schedule:
    """`schedule`, with the lessons of steps 0, k, 2k and so on alone: synthesizers cost less, and learn less often.

    In the other steps nobody waits for feedback, so none is sent; there is then no agreement either.

    Raises:
        ScheduleError: k below 1.
    """
    at_least("teach_every: k", k, 1)

    def stays(action: Action) -> bool:
        return action.kind not in (Kind.T, Kind.Q) or schedule.step_of(action) % k == 0

    def order(stages: int, step: int) -> list[Action]:
        return list(filter(stays, schedule.order(stages, step)))

    return replace(schedule, name=f"teach_every({k}, {schedule.name})", order=order, period=k * schedule.period)


def _taught(microbatches: int) -> Schedule:
    """`backprop(teach=True)`, of a batch in parts."""
    passes = gpipe(microbatches)

    def order(stages: int, step: int) -> list[Action]:
        actions = passes.order(stages, step)
        parts = microbatches_of(step, microbatches)
        lessons = [Action(stage, Kind.T, part) for stage in range(stages - 1) for part in parts]
        return actions[:-stages] + lessons + actions[-stages:]  # before the updates, of which each stage has one

    return replace(passes, name="backprop(teach=True)", order=order)


def eager(schedule: Schedule) -> Schedule:
    """The same learning, with every late action done as soon as its target is there: for one process alone.

    A process that holds all stages never waits, so to hold (activation, target) pairs until the next F would only cost
    memory. T gives way to F, P, Q and U of its own stage, which do not touch the synthesizer, but to no S, B or T; Q
    likewise to none of P or Q. So each S and P still finds its synthesizer as promised.

        update_unlocked()    0F0 0S0 0U0 1F0 1B0 0T0 1U0
    """

    def order(stages: int, step: int) -> list[Action]:
        actions = [action for action in schedule.order(stages, step) if schedule.step_of(action) == step]
        for late in schedule.order(stages, step + 1):
            if schedule.step_of(late) <= step:
                held = (place for place, action in enumerate(actions) if _holds_back(action, late))
                actions.insert(max(held, default=-1) + 1, late)
        return actions

    return replace(schedule, name=f"eager {schedule.name}", order=order, lateness=max(0, schedule.lateness - 1))


def _holds_back(action: Action, late: Action) -> bool:
    """Whether a late T or Q must stay behind the action."""
    stage, kind, microbatch = late
    if kind is Kind.Q:
        uses, source = (Kind.P, Kind.Q), (stage - 1, (Kind.F,))
    else:
        uses, source = (Kind.S, Kind.B, Kind.T), (stage + 1, (Kind.S, Kind.B, Kind.I))
    if action.stage == stage:
        return action.kind in uses or (action.kind in (Kind.F, Kind.P) and action.microbatch == microbatch)
    return action.stage == source[0] and action.kind in source[1] and action.microbatch == microbatch
