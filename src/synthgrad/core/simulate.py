"""Plays a plan on a clock: one worker per rank, each doing its stages' actions in the order of the schedule.

What an action makes goes as a message to every rank that waits for it. A rank is idle while its next action's messages
are still under way; that is all there is to a schedule's cost.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import DeadlockError, LinkError, ScheduleError
from synthgrad.core.links import Link
from synthgrad.core.plan import BACKWARD, Declaration, Plan, dependencies
from synthgrad.core.schedules import Schedule

__all__ = ["UNIT_COSTS", "Costs", "Links", "Sizes", "Timeline", "asked_of", "simulate", "simulate_replicas"]

# In units of one forward pass; a full backward pass is twice a forward pass (input gradient and weight gradient).
UNIT_COSTS: Mapping[Kind, float] = {
    Kind.F: 1.0,
    Kind.P: 1.0,
    Kind.S: 2.0,
    Kind.B: 2.0,
    Kind.I: 1.0,
    Kind.W: 1.0,
    Kind.T: 0.0,
    Kind.Q: 0.0,
    Kind.U: 0.0,
}

Costs = Mapping[Kind, float] | Callable[[Action], float]
Links = float | Link | Callable[[int, int], float | Link]
Sizes = float | Callable[[Action], float]


@dataclass(frozen=True)
class Timeline:
    """When each action started and ended, in the units of the costs.

    Attributes:
        plan: what was played.
        start: when each action started.
        end: when each action ended.
    """

    plan: Plan
    start: Mapping[Action, float]
    end: Mapping[Action, float]

    @property
    def makespan(self) -> float:
        """When the last action ended."""
        return max(self.end.values(), default=0.0)

    @property
    def idle_share(self) -> float:
        """Share of all ranks' time up to the makespan in which they did nothing."""
        total = self.makespan * len(set(self.plan.ranks))
        busy = sum(self.end[action] - self.start[action] for action in self.start)
        return 1.0 - busy / total if total else 0.0

    def activations_held(self, stage: int) -> int:
        """The most microbatches whose activations the stage holds for its backward pass at any one time."""
        return int(self._peak(self._programs[stage], lambda _: 1, lambda _: 0))

    def memory_held(
        self,
        rank: int,
        activation: float | Sequence[float] = 1.0,
        waiting: float | Sequence[float] = 0.0,
    ) -> float:
        """The most that a rank holds at any one time for actions still to come; weights and optimizers not counted.

        Args:
            rank: whose stages.
            activation: bytes that autograd keeps for the backward pass of one microbatch; one value, or one per stage.
            waiting: bytes of a stage's output, which is kept from S to T for the synthesizer's lesson; and, as it was
                predicted, in the next stage from P to Q.
        """

        def of(value: float | Sequence[float]) -> Callable[[int], float]:
            return (lambda stage: value[stage]) if isinstance(value, Sequence) else lambda stage: value

        stages = {stage for stage, holder in enumerate(self.plan.ranks) if holder == rank}
        return self._peak((a for a in self.start if a.stage in stages), of(activation), of(waiting))

    @cached_property
    def _programs(self) -> list[list[Action]]:
        """Every stage's own actions, in their order; so thousands of stages are asked in one pass."""
        programs: list[list[Action]] = [[] for _ in self.plan.stages]
        for action in self.start:
            programs[action.stage].append(action)
        return programs

    def _peak(
        self, program: Iterable[Action], activation: Callable[[int], float], waiting: Callable[[int], float]
    ) -> float:
        """Up with the pass that learns, down with the end of its backward pass; likewise from S to T, from P to Q."""
        held, most = dict[tuple[int, int, Kind], float](), 0.0  # till which of the stage's actions
        for stage, kind, microbatch in program:
            forward = Kind.P if self.plan.stages[stage].input_synthesizer else Kind.F
            kinds = self.plan.kinds(stage, microbatch)
            if kind is forward and not kinds.isdisjoint(BACKWARD):
                held[stage, microbatch, Kind.B] = activation(stage)
                if kind is Kind.P and Kind.Q in kinds:
                    held[stage, microbatch, Kind.Q] = waiting(stage - 1)
                most = max(most, sum(held.values()))
            elif kind is Kind.W or (kind in BACKWARD and Kind.W not in kinds):
                held.pop((stage, microbatch, Kind.B), None)
                if kind is Kind.S and Kind.T in kinds:
                    held[stage, microbatch, Kind.T] = waiting(stage)
                    most = max(most, sum(held.values()))
            elif kind in (Kind.T, Kind.Q):
                held.pop((stage, microbatch, kind), None)
        return most


def asked_of(schedule: Schedule, stages: int, *, steps: int = 1) -> Plan:
    """The schedule on stages that have what it asks of them, synthesizers and input synthesizers: to play it.

    Args:
        schedule: whichever.
        stages: how many.
        steps: how many are looked at, where they do not repeat.

    Raises:
        ScheduleError: no stages; or the schedule is not one for so many.
    """
    # Steps that repeat show all that they ever ask in the first period that has its late actions.
    late, period = schedule.lateness, schedule.period
    asked: list[set[Kind]] = [set() for _ in range(stages)]
    for step in range(late, late + period) if period else range(late + steps):
        for stage, kind, _ in schedule.actions(stages, step):
            if stage < stages:
                asked[stage].add(kind)
    declared = (
        Declaration(
            synthesizer=stage < stages - 1 and not kinds.isdisjoint((Kind.S, Kind.T)),
            input_synthesizer=stage > 0 and not kinds.isdisjoint((Kind.P, Kind.Q)),
        )
        for stage, kinds in enumerate(asked)
    )
    return Plan(schedule, tuple(declared))


def simulate(
    plan: Plan, *, steps: int = 1, costs: Costs = UNIT_COSTS, links: Links = 0.0, sizes: Sizes = 0.0
) -> Timeline:
    """Play the first steps of the plan, flush included.

    Args:
        plan: the plan; ranks work side by side, and a rank does its own actions one after the other, in listed order.
        steps: how many steps.
        costs: the duration of each kind of action, or a function of the action (`jittered` makes one that varies).
        links: the latency between two ranks, or a `Link`, or a function of (from rank, to rank) that gives either.
            Within a rank there is none.
        sizes: bytes of the message that an action makes, or a function of the action.

    Raises:
        DeadlockError: ranks that wait for each other in a circle, or for an action that never comes; all are named.
        ScheduleError: less than no steps; an action without a cost, or one that is negative or not finite.
        LinkError: such a latency or size.
    """
    return simulate_replicas(plan, [costs], steps=steps, links=links, sizes=sizes)[0]


def simulate_replicas(
    plan: Plan,
    costs: Sequence[Costs],
    *,
    steps: int = 1,
    links: Links = 0.0,
    sizes: Sizes = 0.0,
    exchange: float | Callable[[int], float] = 0.0,
) -> tuple[Timeline, ...]:
    """Play several copies of the plan side by side: data-parallel groups, whose stages update together.

    Before U, a stage's copies add up their gradients: that begins when the slowest of them has its last gradient, takes
    `exchange`, and holds all of them up.

    Args:
        plan: of one replica.
        costs: one for each replica; with jitter, each with its own seed.
        steps: as in `simulate`.
        links: as in `simulate`; each replica has links of its own.
        sizes: as in `simulate`.
        exchange: how long the adding-up takes, or a function of the stage.

    Returns:
        One timeline for each replica.

    Raises:
        DeadlockError, LinkError: as `simulate`.
        ScheduleError: as `simulate`; or no replicas, or an exchange that takes less than no time.
    """
    if steps < 0:
        raise ScheduleError(f"steps is {steps}: expected 0 or more")
    if not costs:
        raise ScheduleError("costs of no replicas: expected those of one at least")
    game = _Game(plan, steps, len(costs), links, sizes, exchange)
    return game.play(costs)


class _Game:
    """The actions and the messages between them, by number; a message is what one action sends to one rank."""

    def __init__(
        self,
        plan: Plan,
        steps: int,
        replicas: int,
        links: Links,
        sizes: Sizes,
        exchange: float | Callable[[int], float],
    ) -> None:
        self.plan, self.replicas, self.sizes = plan, replicas, sizes
        self.links = links if callable(links) else lambda source, target: links
        self.exchange = exchange if callable(exchange) else lambda stage: exchange
        self.run = plan.run_of(steps)
        self.needs: list[list[int]] = []  # of each action, the messages that it waits for
        self.sends: list[list[int]] = [[] for _ in self.run]
        self.sources: list[Action] = []  # of each message
        self.targets: list[int] = []
        self.shared: dict[int, int] = {}  # a stage's last gradient before U, and the message that all replicas wait for
        self._connect()
        self._known: dict[tuple[int, int], Link] = {}

    def _connect(self) -> None:
        plan, ranks, targets = self.plan, self.plan.ranks, self.targets
        places = {action: number for number, action in enumerate(self.run)}
        latest: dict[int, int] = {}
        for number, action in enumerate(self.run):
            needs = list[int]()
            for source in dependencies(action, plan):
                target, place = ranks[action.stage], places.get(source)
                sent = () if place is None else self.sends[place]
                message = next((known for known in sent if targets[known] == target), None)
                if message is None:
                    message = self._message(source, target)
                    if place is not None:  # else it never comes
                        self.sends[place].append(message)
                needs.append(message)
            if self.replicas > 1 and action.kind is Kind.U:
                last = latest.pop(action.stage)
                self.shared[last] = self._message(self.run[last], ranks[action.stage])
                needs.append(self.shared[last])
            elif self.replicas > 1 and action.kind in (Kind.S, Kind.B, Kind.W):
                latest[action.stage] = number
            self.needs.append(needs)

    def _message(self, source: Action, target: int) -> int:
        self.sources.append(source)
        self.targets.append(target)
        return len(self.sources) - 1

    def play(self, costs: Sequence[Costs]) -> tuple[Timeline, ...]:
        """Every rank goes on as far as its messages let it, until nobody can."""
        programs: list[dict[int, list[int]]] = [{rank: [] for rank in self.plan.ranks} for _ in costs]
        for program in programs:
            for number in reversed(range(len(self.run))):  # reversed, so that the next one is at the end
                program[self.plan.ranks[self.run[number].stage]].append(number)
        durations = [_durations(self.run, cost) for cost in costs]
        self.starts, self.ends = ([[0.0] * len(self.run) for _ in costs] for _ in range(2))
        self.arrivals = [[-1.0] * len(self.sources) for _ in costs]  # -1: still to come
        self.waiting: list[dict[int, int]] = [{} for _ in costs]  # of a message, the rank that stands and waits for it
        self.ready = [(replica, rank) for replica in range(len(costs)) for rank in programs[0]]
        self.gathered: dict[int, list[float]] = defaultdict(list)
        self.sent: dict[tuple[int, int, int], float] = {}  # when a link has sent off all that it was given
        free = [dict.fromkeys(program, 0.0) for program in programs]
        while self.ready:
            replica, rank = self.ready.pop()
            now, program = free[replica][rank], programs[replica][rank]
            free[replica][rank] = self._go_on(replica, rank, now, program, durations[replica])
        stuck = {
            (rank, self.run[own[rank][-1]], self.sources[message])
            for waiting, own in zip(self.waiting, programs, strict=True)
            for message, rank in waiting.items()
        }
        if stuck:
            raise DeadlockError(_deadlock(stuck, self.plan))
        both = zip(self.starts, self.ends, strict=True)
        return tuple(Timeline(self.plan, self._times(starts), self._times(ends)) for starts, ends in both)

    def _times(self, values: list[float]) -> dict[Action, float]:
        return dict(zip(self.run, values, strict=True))

    def _go_on(self, replica: int, rank: int, now: float, program: list[int], durations: list[float]) -> float:
        """Do the rank's actions until one has to wait; returns when the rank is free."""
        starts, ends, arrivals = self.starts[replica], self.ends[replica], self.arrivals[replica]
        needs, sends = self.needs, self.sends
        while program:
            number = program[-1]
            for message in needs[number]:
                arrival = arrivals[message]
                if arrival < 0.0:
                    self.waiting[replica][message] = rank
                    return now  # as late as the messages that have come, which are asked for again
                if arrival > now:
                    now = arrival
            starts[number] = now
            ends[number] = now = now + durations[number]
            program.pop()
            for message in sends[number]:
                self._deliver(replica, message, self._arrival(replica, rank, message, now))
            if number in self.shared:
                self._gather(number, now)
        return now

    def _gather(self, number: int, now: float) -> None:
        """A replica has its stage's last gradient; the last of them lets all go on."""
        ends = self.gathered[number]
        ends.append(now)
        if len(ends) == self.replicas:
            stage = self.run[number].stage
            exchange = self.exchange(stage)
            if not _takes_time(exchange):
                raise ScheduleError(f"exchange of stage {stage}: got {exchange}, {_EXPECTED}")
            together = max(ends) + exchange
            for replica in range(self.replicas):
                self._deliver(replica, self.shared[number], together)

    def _deliver(self, replica: int, message: int, arrival: float) -> None:
        self.arrivals[replica][message] = arrival
        rank = self.waiting[replica].pop(message, None)
        if rank is not None:
            self.ready.append((replica, rank))

    def _arrival(self, replica: int, rank: int, message: int, now: float) -> float:
        target = self.targets[message]
        if target == rank:
            return now
        link = self._known.get((rank, target))
        if link is None:
            link = self._known[rank, target] = _link(self.links(rank, target), rank, target)
        if link.bandwidth == math.inf:
            return now + link.latency
        action = self.sources[message]
        size = self.sizes(action) if callable(self.sizes) else self.sizes
        leaves = max(now, self.sent.get((replica, rank, target), 0.0))
        if not _takes_time(size):
            raise LinkError(f"size of the message of {action}: got {size!r}, {_EXPECTED}")
        leaves += size / link.bandwidth
        self.sent[replica, rank, target] = leaves
        return leaves + link.latency


_EXPECTED = "expected zero or more, and finite"


def _takes_time(value: object) -> bool:
    """Whether it is a number that time, or a size, can be."""
    try:
        return 0 <= value < math.inf  # type: ignore[operator]  # NaN neither
    except TypeError:
        return False


def _durations(run: Sequence[Action], cost: Costs) -> list[float]:
    if callable(cost):
        durations = [cost(action) for action in run]
    elif missing := {action.kind for action in run} - cost.keys():
        raise ScheduleError(f"costs: none for {', '.join(sorted(missing))}; give every kind of action one, if only 0")
    else:
        durations = [cost[action.kind] for action in run]
    try:
        good = 0 <= min(durations, default=0) and sum(durations) < math.inf  # NaN makes the sum NaN
    except TypeError:
        good = False
    if not good:  # only now one by one: there may be a million
        for action, duration in zip(run, durations, strict=True):
            if not _takes_time(duration):
                raise ScheduleError(f"cost of {action}: got {duration!r}, {_EXPECTED}")
    return durations


def _link(given: float | Link, source: int, target: int) -> Link:
    if isinstance(given, Link):
        return given
    if not _takes_time(given):
        raise LinkError(f"latency from {source} to {target}: got {given!r}, {_EXPECTED}, or a Link")
    return Link(given)


def _deadlock(stuck: Iterable[tuple[int, Action, Action]], plan: Plan) -> str:
    lines = [f"rank {rank} stands at {action} and waits for {missing}" for rank, action, missing in sorted(stuck)]
    return f"{plan.schedule.name} deadlocks: " + "; ".join(lines) + "; put each action after what it waits for"
