"""Schedules are data: for every step, the actions in an order that one process can execute.

    backprop()           0F0 1F0 1B0 0B0 0U0 1U0
    update_unlocked()    0F0 0S0 0U0 1F0 1B0 1U0         and, in the next step, right after 0F1:  0T0
    forward_unlocked()   0F0 0S0 0U0 1P0 1B0 1U0 1F0     and, in the next step:  0F1 0T0 .. 1Q0 1P1
    error_broadcast()    0F0 1F0 0S0 1B0 0U0 1U0 0T0

A schedule is a pure function of the step, so a run can be resumed anywhere and even the random one can be replayed.
The order of one stage's actions is that stage's program; the list as a whole is only one way to interleave programs.

Why T stands after the next F. `delay=d` promises that S of step t uses the synthesizer as T of step t-d-1 left it.
T waits for another stage, F does not; so T goes as late as the promise allows, and the stage has work meanwhile.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from synthgrad.core.actions import Action, Kind, format_actions, parse_actions
from synthgrad.core.errors import ScheduleError

__all__ = [
    "Schedule",
    "backprop",
    "update_unlocked",
    "forward_unlocked",
    "error_broadcast",
    "sporadic",
    "from_text",
]


@dataclass(frozen=True)
class Schedule:
    """What every stage does, step by step.

    Attributes:
        name: how the schedule is written, for people: `update_unlocked(delay=1)`.
        order: `order(stages, step)` lists the step's actions, together with the late ones (`T`, `Q`) of earlier steps
            that fall into it. Late actions may reach before the start of the run; `actions` drops those.
        microbatches: into how many parts the batch of one step is split.
        lateness: how many steps after its own a late action may fall.
        period: after so many steps the order is that of the first ones again, with its microbatches counted on; then it
            is worked out only once. 0: never.
        parts: the schedules that its steps are taken from, if it is put together: the first steps may not show all.
        ranks: where several stages stand on a rank, how many ranks there are: stage s on rank s % ranks. 0: one each.
        versions: of its weights, that a stage must hold at a time. With more than one it can be simulated, but not run.
    """

    name: str
    order: Callable[[int, int], list[Action]]
    microbatches: int = 1
    lateness: int = 0
    period: int = 0
    parts: tuple["Schedule", ...] = ()
    ranks: int = 0
    versions: int = 1

    def actions(self, stages: int, step: int, *, since: int = 0) -> tuple[Action, ...]:
        """The actions of `step`. Late actions of steps before `since` (the start, or the last flush) are left out."""
        first = since * self.microbatches
        return tuple(action for action in self.order(stages, step) if action.microbatch >= first)

    def flush(self, stages: int, step: int, *, since: int = 0) -> tuple[Action, ...]:
        """The late actions that are still pending when all steps before `step` have run."""
        end = step * self.microbatches
        upcoming = (self.actions(stages, later, since=since) for later in range(step, step + self.lateness))
        return tuple(action for actions in upcoming for action in actions if action.microbatch < end)

    def step_of(self, action: Action) -> int:
        """The step to whose batch the action belongs (a late action falls into a later one)."""
        return action.microbatch // self.microbatches

    def ends_step(self, action: Action) -> bool:
        """Whether the action's microbatch is the last of its step."""
        return (action.microbatch + 1) % self.microbatches == 0

    def text(self, stages: int, steps: int = 1) -> str:
        """The first steps, one a line, then what is left to flush."""
        lines = [self.actions(stages, step) for step in range(steps)] + [self.flush(stages, steps)]
        return "\n".join(format_actions(line) for line in lines if line)


def microbatches_of(step: int, count: int) -> range:
    return range(step * count, (step + 1) * count)


def at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise ScheduleError(f"{name}={value}: expected a whole number of at least {least}")
    return value


def backprop(*, teach: bool = False) -> Schedule:
    """Plain back-propagation: all forward, all backward, all update.

    Args:
        teach: also teach the synthesizers from the true gradients that pass (for mixing, or to warm them up).
    """

    def order(stages: int, step: int) -> list[Action]:
        forward = [Action(stage, Kind.F, step) for stage in range(stages)]
        backward = [Action(stage, Kind.B, step) for stage in reversed(range(stages))]
        lessons = [Action(stage, Kind.T, step) for stage in range(stages - 1)] if teach else []
        return forward + backward + lessons + [Action(stage, Kind.U, step) for stage in range(stages)]

    return Schedule("backprop(teach=True)" if teach else "backprop()", order, period=1)


def update_unlocked(delay: int = 0, *, microbatches: int = 1) -> Schedule:
    """Every stage updates as the batch passes. Jaderberg et al. 2016, arXiv:1608.05343, section 2.

    Args:
        delay: S of step t uses the synthesizer as T of step t-delay-1 left it; 0 is the paper's.
        microbatches: parts of the batch whose gradients are accumulated before the update.

    Raises:
        ScheduleError: a delay below 0, or fewer microbatches than one.
    """
    at_least("update_unlocked: delay", delay, 0)
    at_least("update_unlocked: microbatches", microbatches, 1)

    def order(stages: int, step: int) -> list[Action]:
        actions: list[Action] = []
        for stage in range(stages):
            last = stage == stages - 1
            late = [] if last else [Action(stage, Kind.T, m) for m in microbatches_of(step - 1 - delay, microbatches)]
            for part in microbatches_of(step, microbatches):
                actions += [Action(stage, Kind.F, part), *late, Action(stage, Kind.B if last else Kind.S, part)]
                late = []
            actions.append(Action(stage, Kind.U, part))
        return actions

    return Schedule(_name("update_unlocked", delay, microbatches), order, microbatches, delay + 1, period=1)


def forward_unlocked(delay: int = 0, *, microbatches: int = 1) -> Schedule:
    """The complete unlock: stages learn on predicted inputs. Jaderberg et al. 2016, arXiv:1608.05343, section 2.

    A stage with an input synthesizer learns from P and updates; its F, without gradients, comes after that: it gives
    the next stage's Q its target and keeps BatchNorm's statistics.

    Args:
        delay: P and S of step t use the synthesizers as Q and T of step t-delay-1 left them.
        microbatches: parts of the batch whose gradients are accumulated before the update.

    Raises:
        ScheduleError: a delay below 0, or fewer microbatches than one.
    """
    at_least("forward_unlocked: delay", delay, 0)
    at_least("forward_unlocked: microbatches", microbatches, 1)

    def order(stages: int, step: int) -> list[Action]:
        actions: list[Action] = []
        before, parts = (microbatches_of(s, microbatches) for s in (step - 1 - delay, step))
        for stage in range(stages):
            last = stage == stages - 1
            late = [] if last else [Action(stage, Kind.T, m) for m in before]
            if stage > 0:
                actions += [Action(stage, Kind.Q, m) for m in before]
            for part in parts:
                forward = Action(stage, Kind.P if stage > 0 else Kind.F, part)
                actions += [forward, *late, Action(stage, Kind.B if last else Kind.S, part)]
                late = []
            actions.append(Action(stage, Kind.U, parts[-1]))
            if stage > 0:
                actions += [Action(stage, Kind.F, part) for part in parts]
        return actions

    return Schedule(_name("forward_unlocked", delay, microbatches), order, microbatches, delay + 1, period=1)


def error_broadcast(*, microbatches: int = 1) -> Schedule:
    """All forward; then every stage learns at once: for synthesizers that need the output's error.

    Such is direct feedback alignment, Noekland 2016, arXiv:1609.01596. A stage that needs the error waits for all later
    forward passes, and for no backward pass. Every gradient is made before the first update, so an error that does not
    fit leaves all weights as they were. Lessons come last: synthesizers of other kinds may stand at other cuts.

    Args:
        microbatches: parts of the batch whose gradients are accumulated before the update.

    Raises:
        ScheduleError: fewer microbatches than one.
    """
    at_least("error_broadcast: microbatches", microbatches, 1)

    def order(stages: int, step: int) -> list[Action]:
        parts, last = microbatches_of(step, microbatches), stages - 1
        forward = [Action(stage, Kind.F, part) for part in parts for stage in range(stages)]
        backward = [Action(s, Kind.B if s == last else Kind.S, part) for part in parts for s in range(stages)]
        updates = [Action(stage, Kind.U, parts[-1]) for stage in range(stages)]
        return forward + backward + updates + [Action(stage, Kind.T, part) for part in parts for stage in range(last)]

    parts = f"microbatches={microbatches}" if microbatches > 1 else ""
    return Schedule(f"error_broadcast({parts})", order, microbatches, period=1)


def sporadic(p: float, seed: int = 0, *, delay: int = 0) -> Schedule:
    """Each stage updates with probability p, in random order. Jaderberg et al. 2016, arXiv:1608.05343, section 3.3.

    A skipped stage still runs F, but not S, U, nor the T below it (nobody made a target). The order is drawn among
    the actions that are ready.

    Args:
        p: probability that a stage takes part in a step's learning.
        seed: of the draws; the draw of a step depends on nothing but seed and step.
        delay: as in `update_unlocked`.

    Raises:
        ScheduleError: p is no probability, or a delay below 0.
    """
    if not 0.0 <= p <= 1.0:
        raise ScheduleError(f"sporadic: p={p}: expected a probability between 0 and 1")
    at_least("sporadic: delay", delay, 0)

    def chosen(stages: int, step: int) -> list[bool]:
        draw = random.Random(f"stages {seed} {step}")
        return [draw.random() < p for _ in range(stages)]

    def order(stages: int, step: int) -> list[Action]:
        taught, learns = chosen(stages, step - 1 - delay), chosen(stages, step)
        programs: list[list[Action]] = []
        for stage in range(stages):
            last = stage == stages - 1
            program = [Action(stage, Kind.F, step)]
            if not last and taught[stage + 1]:
                program.append(Action(stage, Kind.T, step - 1 - delay))
            if learns[stage]:
                program += [Action(stage, Kind.B if last else Kind.S, step), Action(stage, Kind.U, step)]
            programs.append(program)
        return _shuffle(programs, random.Random(f"order {seed} {step}"))

    late = f", delay={delay}" if delay else ""
    return Schedule(f"sporadic({p}, seed={seed}{late})", order, 1, delay + 1)


def _shuffle(programs: list[list[Action]], draw: random.Random) -> list[Action]:
    """A random interleaving in which every F stands after the F of the stage before."""
    waiting = [list(reversed(program)) for program in programs]
    actions: list[Action] = []
    forwarded = -1  # stages 0 .. forwarded have run F
    while any(waiting):
        ready = [w for stage, w in enumerate(waiting) if w and (w[-1].kind is not Kind.F or stage == forwarded + 1)]
        action = draw.choice(ready).pop()
        forwarded = max(forwarded, action.stage)
        actions.append(action)
    return actions


def from_text(text: str, *, microbatches: int = 1) -> Schedule:
    """A schedule of one's own: the actions of step 0, repeated every step with their microbatches counted on.

    >>> from_text("0F0 0S0 0U0 1F0 1B0 1U0 0T0").actions(stages=2, step=3)[0]
    Action(stage=0, kind=<Kind.F: 'F'>, microbatch=3)

    Raises:
        ScheduleError: malformed text, or asked for another number of stages than the text names.
    """
    written = parse_actions(text)
    named = len({action.stage for action in written})

    def order(stages: int, step: int) -> list[Action]:
        if stages != named:
            raise ScheduleError(f"the schedule names {named} stages, got a model of {stages}: write one line for each")
        return [action._replace(microbatch=action.microbatch + step * microbatches) for action in written]

    parts = f", microbatches={microbatches}" if microbatches > 1 else ""
    return Schedule(f"from_text({text!r}{parts})", order, microbatches, period=1)


def _name(builder: str, delay: int, microbatches: int) -> str:
    parts = f", microbatches={microbatches}" if microbatches > 1 else ""
    return f"{builder}(delay={delay}{parts})"
