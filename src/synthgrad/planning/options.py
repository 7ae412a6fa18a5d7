"""The ways to train a measured model on some devices, each played on a clock. No torch."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import PlanningError
from synthgrad.core.links import Link
from synthgrad.core.pipelines import eager_one_f_one_b, gpipe, interleaved, one_f_one_b, pipedream_2bw, zero_bubble
from synthgrad.core.plan import Declaration, Plan, dependencies
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked
from synthgrad.core.simulate import Timeline, asked_of, simulate_replicas
from synthgrad.planning.balance import Segment, balance, bottleneck, merged, prediction

__all__ = ["Family", "Option", "break_even", "options"]

MOST_DELAY = 64
# Bytes beside each byte of weights: its gradient, and the two averages that Adam keeps.
STATE = 3


class Family(StrEnum):
    """How an option learns, and who waits."""

    ALONE = "one device"
    REPLICAS = "data parallel"
    LOCKED = "locked pipeline"
    STALE = "asynchronous pipeline"
    UNLOCKED = "decoupled"


@dataclass(frozen=True)
class Option:
    """One way to train.

    Attributes:
        name: how its schedule is written.
        family: how it learns.
        seconds: of one step on one whole batch, once the pipeline is full.
        idle: share of the devices' time.
        memories: bytes on each device: activations, weights, their gradients, Adam's averages.
        traffic: bytes per step on the busiest link, one direction.
        extra: work beside the model's own passes, as a share of that.
        cuts: names of the submodules to cut at.
        replicas: devices that hold the same stage, and share each batch; 1 where one holds all of the model.
    """

    name: str
    family: Family
    seconds: float
    idle: float
    memories: tuple[float, ...]
    traffic: float
    extra: float
    cuts: tuple[str, ...] = ()
    replicas: int = 1

    @property
    def title(self) -> str:
        """For people: the name, and with replicas how many stages of how many devices there are."""
        return f"{self.name}, {len(self.cuts) + 1} stages × {self.replicas}" if self.replicas > 1 else self.name

    @property
    def predicts_inputs(self) -> bool:
        """Whether it is the complete unlock."""
        return self.name.startswith(forward_unlocked.__name__)

    @property
    def memory(self) -> float:
        """Bytes on the fullest device."""
        return max(self.memories)


def break_even(stages: int, microbatches: int, *, gap: float = 1.0) -> float:
    """What share of a stage a synthesizer may cost before a locked pipeline of equal stages is faster.

    A locked pipeline takes M + gap·(P-1) times the stage's work for M microbatches, an unlocked one M times that and
    the synthesizer's. Links cost nothing here.

    Args:
        stages: P.
        microbatches: M.
        gap: of a stage's work, what filling the pipeline costs for each further stage: 1 with GPipe and 1F1B;
            (F+B-W)/(F+B+W) with ZB-H1, B and W being the two halves of the backward pass; 0 with an asynchronous one.

    >>> break_even(4, 16)
    0.1875
    """
    return gap * (stages - 1) / microbatches


def options(
    segments: Sequence[Segment], devices: int, microbatches: int, links: Callable[[int, int], Link]
) -> list[Option]:
    """Every way to train on these devices, locked and unlocked, each with the cuts that suit it best.

    A microbatch is taken to cost its share of the batch; small ones cost more, so locked pipelines may be slower. Of
    pipelines with fewer stages than devices, whose stages are data parallel, the fastest of each family is listed.

    Args:
        segments: measured, in seconds and bytes of a whole batch.
        devices: how many there are.
        microbatches: into how many parts the locked pipelines split a batch; replicas share them.
        links: between two devices.

    Raises:
        PlanningError: fewer than one device or microbatch, or fewer segments than devices.
    """
    if devices < 1 or microbatches < 1:
        raise PlanningError(f"devices={devices}, microbatches={microbatches}: expected at least 1 of each")
    found = [_alone(segments)]
    if devices == 1:
        return found
    found.append(_replicas(segments, devices, links))
    row = _Row(links, devices)
    found += [*_locked(segments, row, microbatches), *_unlocked(segments, row, microbatches)]
    shared: list[Option] = []
    for places in (places for places in range(2, devices) if devices % places == 0):
        row = _Row(links, places, devices // places)
        own, parts = _share(segments, row.replicas), max(1, microbatches // row.replicas)
        shared += [*_locked(own, row, parts), *_unlocked(own, row, parts)]
    for family in Family:
        runnable = [one for one in shared if one.family is family and not one.name.startswith(interleaved.__name__)]
        found += sorted(runnable, key=lambda one: one.seconds)[:1]
    return found


@dataclass(frozen=True)
class _Row:
    """Devices in a row of places, each of so many neighbors that hold the same stage; the engine fills them so."""

    links: Callable[[int, int], Link]
    places: int
    replicas: int = 1

    def link(self, source: int, target: int) -> Link:
        """Between two places: that of the replica that has the slowest one."""
        ends = ((source * self.replicas + one, target * self.replicas + one) for one in range(self.replicas))
        return _slowest(self.links(*pair) for pair in ends)

    def exchange(self, place: int, size: float) -> float:
        """Seconds in which a place's replicas add up gradients of so many bytes, round a ring, and wait for it."""
        if self.replicas == 1:
            return 0.0
        first, count = place * self.replicas, self.replicas
        ring = _slowest(self.links(first + one, first + (one + 1) % count) for one in range(count))
        return 2 * (count - 1) * ring.time(size / count)


def _slowest(links: Iterable[Link]) -> Link:
    found = list(links)
    return Link(max(link.latency for link in found), min(link.bandwidth for link in found))


_SHARED = ("forward", "backward", "input_half", "weight_half", "synthesis", "lesson", "input_lesson", "activation")


def _share(segments: Sequence[Segment], replicas: int) -> list[Segment]:
    """What one of so many replicas has of the segments: its rows of each batch, all weights, and whole updates."""
    found = []
    for one in segments:
        parts: dict[str, Any] = {name: getattr(one, name) / replicas for name in (*_SHARED, "boundary")}
        parts["prediction"] = None if one.prediction is None else one.prediction / replicas
        found.append(replace(one, **parts))
    return found


def _locked(segments: Sequence[Segment], row: _Row, microbatches: int) -> list[Option]:
    devices = row.places
    stages = _cut(segments, row)
    schedules = [gpipe(microbatches), one_f_one_b(microbatches), zero_bubble(microbatches)]
    # More forwards under way pay for slow links, up to where all of a step's microbatches are.
    most = (microbatches - 1) // (devices - 1) - 1
    pace = bottleneck(stages, unlocked=False) / microbatches
    ahead = min(_late(stages, row, microbatches, pace), most)
    if ahead > 0:
        schedules.append(eager_one_f_one_b(microbatches, ahead=ahead))
    found = [_piped(schedule, Family.LOCKED, stages, row) for schedule in schedules]
    if len(segments) >= 2 * devices and microbatches % devices == 0:
        finer = _cut(segments, row, stages=2 * devices)
        found.append(_piped(interleaved(microbatches, ranks=devices), Family.LOCKED, finer, row))
    if most >= 0:
        found.append(_piped(pipedream_2bw(microbatches, ahead=max(0, ahead)), Family.STALE, stages, row))
    return found


def _unlocked(segments: Sequence[Segment], row: _Row, microbatches: int) -> list[Option]:
    stages = _cut(segments, row, unlocked=True)
    enough = min(_late(stages, row, 1, bottleneck(stages, unlocked=True)), MOST_DELAY)
    schedules = [update_unlocked(delay) for delay in sorted({0, enough})]
    if microbatches > 1:
        schedules.append(update_unlocked(enough, microbatches=microbatches))
    found = [_piped(schedule, Family.UNLOCKED, stages, row) for schedule in schedules]
    stages = _cut(segments, row, unlocked=True, predicted=True)
    pace = bottleneck(stages, unlocked=True, predicted=True)
    if pace < math.inf:  # else there is no input synthesizer
        schedule = forward_unlocked(min(_late(stages, row, 1, pace), MOST_DELAY))
        found.append(_piped(schedule, Family.UNLOCKED, stages, row))
    return found


def _cut(
    segments: Sequence[Segment], row: _Row, *, stages: int = 0, unlocked: bool = False, predicted: bool = False
) -> list[Segment]:
    narrowest = min((row.link(one, one + 1) for one in range(row.places - 1)), key=lambda link: link.bandwidth)
    ends = balance(segments, stages or row.places, unlocked=unlocked, predicted=predicted, link=narrowest)
    return merged(segments, ends)


def _late(stages: Sequence[Segment], row: _Row, parts: int, pace: float) -> int:
    """How many (micro)batches pass while a message goes to the next device and another comes back."""
    devices = range(len(stages) - 1)
    longest = max(
        max(row.link(k, k + 1).time(one), row.link(k + 1, k).time(one))
        for k, one in zip(devices, (stage.boundary / parts for stage in stages), strict=False)
    )
    return math.ceil(2 * longest / pace)


# ---- one device, or copies of it -------------------------------------------------------------------------------------


def _alone(segments: Sequence[Segment]) -> Option:
    (whole,) = merged(segments, ())
    memory = whole.activation + (1 + STATE) * whole.parameters
    return Option("plain back-propagation", Family.ALONE, whole.work, 0.0, (memory,), 0.0, 0.0)


def _replicas(segments: Sequence[Segment], devices: int, links: Callable[[int, int], Link]) -> Option:
    """Copies of the model, each with its share of the batch; gradients are added up round a ring of the devices.

    The adding-up begins while the backward pass still runs, as DistributedDataParallel does it: what takes longer than
    that pass is waited for.
    """
    (whole,) = merged(segments, ())
    ring = [links(one, (one + 1) % devices) for one in range(devices)]
    part = whole.parameters / devices
    around = 2 * (devices - 1) * max(link.time(part) for link in ring)
    hidden = whole.backward / devices * (1 - 1 / len(segments))
    costs = {
        **dict.fromkeys(Kind, 0.0),
        Kind.F: whole.forward / devices,
        Kind.B: whole.backward / devices,
        Kind.U: whole.update,
    }
    plan = Plan(backprop(), (Declaration(synthesizer=False, feedback=frozenset()),))
    timelines = simulate_replicas(plan, [costs] * devices, exchange=max(0.0, around - hidden))
    seconds = max(timeline.makespan for timeline in timelines)
    memory = whole.activation / devices + (1 + STATE) * whole.parameters
    idle = sum(timeline.idle_share for timeline in timelines) / devices
    return Option("data parallel", Family.REPLICAS, seconds, idle, (memory,) * devices, 2 * (devices - 1) * part, 0.0)


# ---- pipelines -------------------------------------------------------------------------------------------------------


def _piped(schedule: Schedule, family: Family, stages: Sequence[Segment], row: _Row) -> Option:
    plan = asked_of(schedule, len(stages))
    parts = schedule.microbatches

    def cost(action: Action) -> float:
        stage, kind, _ = action
        return _seconds(stages, stage, kind) / (1 if kind is Kind.U else parts)

    def size(action: Action) -> float:
        return stages[action.stage if action.kind is Kind.F else action.stage - 1].boundary / parts

    # Once it is full, a pipeline's steps are all alike, or take turns in patterns no longer than it is.
    steps = 4 if parts > 1 else 2 * len(stages) + 8
    added = [_learned(plan, stage, stages) for stage in range(len(stages))]  # bytes of gradients
    exchange = [row.exchange(plan.ranks[stage], size) for stage, size in enumerate(added)]
    copies = [cost] * min(row.replicas, 2)  # more of them are no slower: all are alike
    first, both = (
        simulate_replicas(
            plan, copies, steps=count, links=row.link, sizes=size, exchange=lambda stage: exchange[stage]
        )[0]
        for count in (steps, 2 * steps)
    )
    seconds = (_updated(both) - _updated(first)) / steps
    devices = len(set(plan.ranks))
    work = sum(one.work for one in stages)
    if any(action.kind is Kind.I for action in plan.actions(0)):
        work += sum(one.input_half + one.weight_half - one.backward for one in stages)
    extra = sum(one.extra for one, declared in zip(stages, plan.stages, strict=True) if declared.synthesizer)
    for before, stage, declared in zip(stages, stages[1:], plan.stages[1:], strict=False):
        extra += prediction(before, stage.forward) if declared.input_synthesizer else 0.0
    return Option(
        schedule.name,
        family,
        seconds,
        max(0.0, 1.0 - (work + extra) / (devices * seconds)),
        tuple(_memory(both, rank, stages) for rank in sorted(set(plan.ranks))),
        max(_traffic(plan, size), 2 * (1 - 1 / row.replicas) * max(added)),
        extra / work,
        tuple(one.name for one in stages[:-1]),
        row.replicas,
    )


def _seconds(stages: Sequence[Segment], index: int, kind: Kind) -> float:
    stage, before = stages[index], stages[index - 1]
    match kind:
        case Kind.F:
            return stage.forward
        case Kind.P:
            return stage.forward + (before.prediction or 0.0)
        case Kind.Q:
            return before.input_lesson
        case Kind.S:
            return stage.backward + stage.synthesis
        case Kind.B:
            return stage.backward
        case Kind.I:
            return stage.input_half
        case Kind.W:
            return stage.weight_half
        case Kind.T:
            return stage.lesson
        case _:
            return stage.update


def _learned(plan: Plan, index: int, stages: Sequence[Segment]) -> float:
    """Bytes of the gradients of a stage, and of what predicts for it."""
    declared = plan.stages[index]
    found = stages[index].parameters + (stages[index].synthesizer if declared.synthesizer else 0.0)
    return found + (stages[index - 1].predictor if declared.input_synthesizer else 0.0)


def _updated(timeline: Timeline) -> float:
    return max(end for action, end in timeline.end.items() if action.kind is Kind.U)


def _memory(timeline: Timeline, rank: int, stages: Sequence[Segment]) -> float:
    plan = timeline.plan
    parts, versions = plan.schedule.microbatches, plan.schedule.versions
    held = timeline.memory_held(
        rank, [one.activation / parts for one in stages], [one.boundary / parts for one in stages]
    )
    for index, (one, declared, holder) in enumerate(zip(stages, plan.stages, plan.ranks, strict=True)):
        if holder == rank:
            held += (versions + STATE) * one.parameters
            held += (1 + STATE) * one.synthesizer if declared.synthesizer else 0.0
            held += (1 + STATE) * stages[index - 1].predictor if declared.input_synthesizer else 0.0
    return held


def _traffic(plan: Plan, size: Callable[[Action], float]) -> float:
    """Bytes of one step on the busiest link; a message goes to a rank once, however many wait for it there."""
    sent: dict[tuple[int, int], dict[Action, float]] = {}
    schedule = plan.schedule
    late = schedule.lateness  # so many steps later, too, something may wait for what this step's batch has made
    for action in (action for step in range(late, 2 * late + 1) for action in plan.actions(step)):
        target = plan.ranks[action.stage]
        for source in dependencies(action, plan):
            if plan.ranks[source.stage] != target and schedule.step_of(source) == late:
                sent.setdefault((plan.ranks[source.stage], target), {})[source] = size(source)
    return max((sum(messages.values()) for messages in sent.values()), default=0.0)
