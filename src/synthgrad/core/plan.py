"""A plan is a schedule, what each stage declares, and which rank holds which stage.

What waits for what is said here, by `dependencies`, and nowhere else: validation, locks, simulation and the engines
ask it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from synthgrad.core.actions import Action, Kind, format_actions
from synthgrad.core.errors import ScheduleError
from synthgrad.core.schedules import Schedule

__all__ = [
    "Declaration",
    "Line",
    "Lock",
    "Plan",
    "dependencies",
    "line_of",
    "lock_by",
    "locks",
    "readers",
    "stage_locks",
    "validate",
]

# By these a stage back-propagates through itself, and so makes the gradient that the stage before waits for.
BACKWARD = (Kind.S, Kind.B, Kind.I)


@dataclass(frozen=True)
class Declaration:
    """What a stage says about itself; the plan needs to know nothing else about it.

    Attributes:
        synthesizer: whether a synthesizer stands at the stage's output.
        needs: what that synthesizer looks at besides the activation, out of labels, index, error.
        feedback: what it learns from, out of gradient, output, loss, error.
        input_synthesizer: whether the stage learns on a predicted input.
    """

    synthesizer: bool = True
    needs: frozenset[str] = frozenset()
    feedback: frozenset[str] = frozenset({"gradient"})
    input_synthesizer: bool = False


@dataclass(frozen=True, eq=False)  # compared and cached by identity: hashing thousands of declarations would cost more
class Plan:
    """A schedule, the stages' declarations, and `ranks[stage]`, the rank that holds the stage (as the schedule says).

    >>> plan = Plan(update_unlocked(), (Declaration(),) * 3)
    """

    schedule: Schedule
    stages: tuple[Declaration, ...]
    ranks: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.stages:
            raise ScheduleError("a plan of no stages: expected at least one")
        if not self.ranks:
            count = self.schedule.ranks or len(self.stages)
            object.__setattr__(self, "ranks", tuple(stage % count for stage in range(len(self.stages))))
        if len(self.ranks) != len(self.stages):
            raise ScheduleError(f"{len(self.ranks)} ranks for {len(self.stages)} stages: give one rank for each stage")

    @property
    def last(self) -> int:
        """Index of the last stage: the one that sees the loss."""
        return len(self.stages) - 1

    def actions(self, step: int, *, since: int = 0) -> tuple[Action, ...]:
        """The actions of a step, late ones of earlier steps included."""
        return self.schedule.actions(len(self.stages), step, since=since)

    def flush(self, step: int, *, since: int = 0) -> tuple[Action, ...]:
        """The late actions pending when all steps before `step` have run."""
        return self.schedule.flush(len(self.stages), step, since=since)

    def run_of(self, steps: int) -> list[Action]:
        """All actions of the first steps, and the flush."""
        return [action for step in range(steps) for action in self.actions(step)] + list(self.flush(steps))

    def lines(self, step: int, *, since: int = 0) -> list["Line"]:
        """The actions of a step, each with what it waits for and who waits for it.

        Raises:
            ScheduleError: an action waits for one that is not in the plan.
        """
        model = self._model(step)
        shift, first = (step - model) * self.schedule.microbatches, since * self.schedule.microbatches
        return [_later(line, shift) for line in _lines(self, model) if line.action.microbatch + shift >= first]

    def _model(self, step: int) -> int:
        """A step that this one is like: the first of those that have all their late actions, if steps repeat."""
        late, period = self.schedule.lateness, self.schedule.period
        return late + (step - late) % period if period else step

    def kinds(self, stage: int, microbatch: int) -> frozenset[Kind]:
        """All that the stage does with this microbatch, in its own step or later."""
        step, place = divmod(microbatch, self.schedule.microbatches)
        return _kinds(self, self._model(step)).get((stage, place), frozenset())

    def backward(self, stage: int, microbatch: int) -> Action | None:
        """How the stage back-propagates this microbatch through itself (S, B or I); None where it is skipped."""
        found = self.kinds(stage, microbatch).intersection(BACKWARD)
        return Action(stage, next(iter(found)), microbatch) if found else None


@lru_cache(maxsize=64)
def _kinds(plan: Plan, step: int) -> dict[tuple[int, int], frozenset[Kind]]:
    found: dict[tuple[int, int], set[Kind]] = {}
    count = plan.schedule.microbatches
    for later in range(step, step + plan.schedule.lateness + 1):
        for stage, kind, microbatch in plan.actions(later):
            if microbatch // count == step:
                found.setdefault((stage, microbatch % count), set()).add(kind)
    return {place: frozenset(kinds) for place, kinds in found.items()}


class Line(NamedTuple):
    """An action, what it waits for, and who waits for what it makes."""

    action: Action
    sources: tuple[Action, ...]
    readers: tuple[Action, ...]


def line_of(action: Action, plan: Plan) -> Line:
    """The action with both of its sides."""
    return Line(action, dependencies(action, plan), readers(action, plan))


@lru_cache(maxsize=64)
def _lines(plan: Plan, step: int) -> tuple[Line, ...]:
    return tuple(line_of(action, plan) for action in plan.actions(step))


def _later(line: Line, shift: int) -> Line:
    (stage, kind, microbatch), sources, readers = line
    return Line(
        Action(stage, kind, microbatch + shift),
        tuple([Action(stage, kind, microbatch + shift) for stage, kind, microbatch in sources]),
        tuple([Action(stage, kind, microbatch + shift) for stage, kind, microbatch in readers]),
    )


def dependencies(action: Action, plan: Plan) -> tuple[Action, ...]:
    """What the action waits for at other stages; besides, it comes after its own stage's earlier actions.

    Raises:
        ScheduleError: the action needs a gradient that no action of the plan makes.
    """
    stage, kind, microbatch = action
    if kind in (Kind.F, Kind.Q):
        return (Action(stage - 1, Kind.F, microbatch),) if stage > 0 else ()
    if kind is Kind.S and "error" in plan.stages[stage].needs:
        return (Action(plan.last, Kind.F, microbatch),)
    received = kind in (Kind.B, Kind.I) or (kind is Kind.T and bool(plan.stages[stage].feedback))
    if not received or stage == plan.last:
        return ()
    source = plan.backward(stage + 1, microbatch)
    if source is None:
        raise ScheduleError(
            f"needs {stage + 1}S{microbatch} or {stage + 1}B{microbatch}, and {plan.schedule.name} has neither in that "
            f"step; add one of them, or leave {action} out"
        )
    return (source,)


def readers(action: Action, plan: Plan) -> tuple[Action, ...]:
    """Who waits for what the action makes: the inverse of `dependencies`, over the whole plan."""
    stage, kind, microbatch = action
    places: list[Action] = []
    if kind is Kind.F and stage < plan.last:
        places = [Action(stage + 1, Kind.F, microbatch), Action(stage + 1, Kind.Q, microbatch)]
    elif kind is Kind.F:
        places = [Action(other, Kind.S, microbatch) for other in range(plan.last)]
    elif kind in BACKWARD and stage > 0:
        places = [Action(stage - 1, reader, microbatch) for reader in (Kind.B, Kind.I, Kind.T)]
    present = (place for place in places if place.kind in plan.kinds(place.stage, microbatch))
    return tuple(place for place in present if action in dependencies(place, plan))


# ---- validation ------------------------------------------------------------------------------------------------------


def validate(plan: Plan, steps: int | None = None) -> None:
    """Check that the first steps and the flush can be executed in the order in which they are listed.

    So must those of every schedule that this one is put together from.

    Args:
        plan: the plan.
        steps: how many steps to check; by default as many as it takes until late actions come regularly.

    Raises:
        ScheduleError: the first action that cannot be executed, with the reason and the text around it; or the schedule
            needs several versions of the weights, and so can only be simulated.
    """
    if plan.schedule.versions > 1:
        raise ScheduleError(
            f"{plan.schedule.name}: goes on with old weights while their gradients are under way, so a stage would "
            f"hold {plan.schedule.versions} versions of its weights, and it has one; simulate it, or use "
            f"one_f_one_b() or update_unlocked(), which can be run"
        )
    steps = plan.schedule.lateness + max(2, plan.schedule.period) if steps is None else steps
    done: set[Action] = set()
    unused: dict[int, set[int]] = {stage: set() for stage in range(len(plan.stages))}  # gradients since the last U
    for step in range(steps + 1):
        line = plan.flush(steps) if step == steps else plan.actions(step)
        for position, action in enumerate(line):
            if fault := _fault(action, plan, step, done, unused):
                raise ScheduleError(f"{action}: {fault}\n{_marked(line, position)}")
            done.add(action)
            if action.kind in (Kind.S, Kind.B, Kind.W):
                unused[action.stage].add(action.microbatch)
            elif action.kind is Kind.U:
                unused[action.stage].clear()
    for part in plan.schedule.parts:  # a long warm-up hides what comes behind it
        validate(replace(plan, schedule=part), steps)


def _fault(action: Action, plan: Plan, step: int, done: set[Action], unused: dict[int, set[int]]) -> str | None:
    stage, kind, microbatch = action
    if stage > plan.last:
        return f"the model has stages 0 to {plan.last}"
    if action in done:
        return "stands twice; one action of a kind for each stage and microbatch"
    if fault := _misplaced(action, plan, step):
        return fault
    last = Action(stage, kind, (microbatch // plan.schedule.microbatches + 1) * plan.schedule.microbatches - 1)
    if kind in (Kind.T, Kind.Q) and last in done:
        return f"stands behind {last}, after which the step's lessons are over; put it before"
    declared = plan.stages[stage]
    if kind in BACKWARD and declared.input_synthesizer and Kind.P not in plan.kinds(stage, microbatch):
        return f"stage {stage} has an input synthesizer, but no {stage}P{microbatch}; use forward_unlocked(), or none"
    learning = Action(stage, Kind.P if declared.input_synthesizer else Kind.F, microbatch)
    try:
        needed = list(dependencies(action, plan))
    except ScheduleError as error:
        return str(error)
    if kind in BACKWARD or kind is Kind.T:
        needed.append(learning)
    if kind is Kind.W:
        needed.append(Action(stage, Kind.I, microbatch))
    for other in needed:
        if other not in done:
            remedy = "; the output's error comes from there: use error_broadcast()"
            return f"stands before {other}, which it needs{remedy if kind is Kind.S and other.stage != stage else ''}"
    if kind in BACKWARD and any(Action(stage, other, microbatch) in done for other in BACKWARD):
        return "back-propagates a second time through what was freed by the first; leave one of them out"
    if kind is Kind.U and not unused[stage]:
        return f"there is no gradient to use; expected {stage}S, {stage}B or {stage}W since the stage's last U"
    if kind is Kind.U and (open_ := _half_done(stage, plan, step, done)):
        return f"stands between {open_[0]} and {open_[1]}, which would use other weights; put it behind both"
    return None


def _half_done(stage: int, plan: Plan, step: int, done: set[Action]) -> tuple[Action, Action] | None:
    """A forward pass of the step whose backward pass is still to come, with that; or I, with W."""
    parts = plan.schedule.microbatches
    for microbatch in range(step * parts, (step + 1) * parts):
        kinds = plan.kinds(stage, microbatch)
        learning = Kind.P if plan.stages[stage].input_synthesizer else Kind.F
        pairs = [(learning, kind) for kind in BACKWARD if kind in kinds]
        for first, second in [*pairs, (Kind.I, Kind.W)]:
            begun, ended = Action(stage, first, microbatch), Action(stage, second, microbatch)
            if begun in done and second in kinds and ended not in done:
                return begun, ended
    return None


def _misplaced(action: Action, plan: Plan, step: int) -> str | None:
    """Whether the action is not this stage's to do, or falls into the wrong step."""
    stage, kind, microbatch = action
    declared, age = plan.stages[stage], step - plan.schedule.step_of(action)
    if kind is Kind.S and (stage == plan.last or not declared.synthesizer):
        why = "is the last and has the true loss" if stage == plan.last else "has no synthesizer"
        return f"stage {stage} {why}; expected {stage}B{microbatch}"
    if kind is Kind.T and (stage == plan.last or not declared.synthesizer):
        return f"stage {stage} has no synthesizer to teach; leave T out, or give the cut a synthesizer"
    if kind in (Kind.P, Kind.Q) and not declared.input_synthesizer:
        return f"stage {stage} has no input synthesizer; give input_synthesizer=, or use a schedule without P and Q"
    if kind in (Kind.T, Kind.Q) and not 0 <= age <= plan.schedule.lateness:
        return f"comes {age} steps after its batch; expected 0 to {plan.schedule.lateness}"
    if kind not in (Kind.T, Kind.Q) and age != 0:
        return f"belongs to step {step - age}, and stands in step {step}; only T and Q may come late"
    return None


def _marked(line: Sequence[Action], position: int, around: int = 6) -> str:
    """The actions around a position as text, with a marker under that position."""
    start = max(0, position - around)
    before = format_actions(line[start:position])
    marker = " " * (len(before) + bool(before)) + "^" * len(str(line[position]))
    return f"  {format_actions(line[start : position + around + 1])}\n  {marker}"


# ---- locks -----------------------------------------------------------------------------------------------------------


class Lock(StrEnum):
    """What an update waits for, within its own step. Jaderberg et al. 2016, arXiv:1608.05343, section 1."""

    FORWARD = "forward"  # an earlier stage's forward pass
    UPDATE = "update"  # a later stage's forward pass
    BACKWARD = "backward"  # a later stage's backward pass


def locks(plan: Plan, steps: int | None = None) -> frozenset[Lock]:
    """The locks of the plan: those of all its stages together; arguments and errors as for `stage_locks`."""
    return frozenset().union(*stage_locks(plan, steps))


def stage_locks(plan: Plan, steps: int | None = None) -> tuple[frozenset[Lock], ...]:
    """For each stage, what its updates wait for; computed by walking back from every U, never declared.

    Waits for another step's actions (a late target) are not locks: they are target waits.

    Args:
        plan: the plan.
        steps: how many steps to look at; the default suffices for schedules that repeat.

    Raises:
        ScheduleError: an action waits for one that is not in the plan.
    """
    steps = plan.schedule.lateness + max(8, plan.schedule.period) if steps is None else steps
    actions = plan.run_of(steps)
    previous = predecessors(actions, plan)
    found: list[set[Lock]] = [set() for _ in plan.stages]
    for update in (action for action in actions if action.kind is Kind.U):
        step = plan.schedule.step_of(update)
        for action in _ancestors(update, previous):
            if plan.schedule.step_of(action) == step and (lock := lock_by(action, update.stage)):
                found[update.stage].add(lock)
    return tuple(map(frozenset, found))


def predecessors(actions: Iterable[Action], plan: Plan) -> dict[Action, tuple[Action, ...]]:
    """For each action, what comes directly before it: its stage's previous action, and its dependencies."""
    latest: dict[int, Action] = {}
    previous: dict[Action, tuple[Action, ...]] = {}
    for action in actions:
        own = (latest[action.stage],) if action.stage in latest else ()
        previous[action] = own + dependencies(action, plan)
        latest[action.stage] = action
    return previous


def _ancestors(action: Action, previous: dict[Action, tuple[Action, ...]]) -> set[Action]:
    seen: set[Action] = set()
    frontier = [action]
    while frontier:
        for before in previous.get(frontier.pop(), ()):
            if before not in seen:
                seen.add(before)
                frontier.append(before)
    return seen


def lock_by(action: Action, stage: int) -> Lock | None:
    """The lock on an update of `stage` that waits for `action`, of the same step."""
    if action.stage < stage and action.kind is Kind.F:
        return Lock.FORWARD
    if action.stage > stage and action.kind is Kind.F:
        return Lock.UPDATE
    if action.stage > stage and action.kind in BACKWARD:
        return Lock.BACKWARD
    return None
