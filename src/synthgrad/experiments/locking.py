"""What waiting costs: the time that each schedule loses, against depth, latency and jitter. Simulated; no torch.

Lost is what a rank does not spend on the network's own forward and backward passes: it is idle, or it runs a
synthesizer. Times are in forward passes of one microbatch on one rank; its backward pass takes two. Schedules without
microbatches take each of these as a batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError
from synthgrad.core.jitter import distribution_named, jittered
from synthgrad.core.pipelines import gpipe, interleaved, one_f_one_b, pipedream_2bw, zero_bubble
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked
from synthgrad.core.simulate import UNIT_COSTS, asked_of, simulate

__all__ = ["CONTENDERS", "LATE", "Conditions", "Contender", "Panel", "lost", "panels"]

WORK = UNIT_COSTS[Kind.F] + UNIT_COSTS[Kind.B]
LATE = 2  # the delay of the unlocked schedules that are drawn with one
CHUNKS = 2  # stages on a rank, interleaved


@dataclass(frozen=True)
class Conditions:
    """Where a schedule runs.

    Attributes:
        ranks: how many.
        microbatches: of a step, where the schedule has any.
        latency: of a message, in forward passes.
        jitter: how much each action's time varies; of a lognormal one the standard deviation of its logarithm.
        distribution: of the jitter, out of `jitter.DISTRIBUTIONS`.
        synthesizer: what one costs, as a share of a stage's forward and backward pass.
    """

    ranks: int = 8
    microbatches: int = 32
    latency: float = 0.0
    jitter: float = 0.0
    distribution: str = "lognormal"
    synthesizer: float = 0.1

    def __post_init__(self) -> None:
        if self.ranks < 2:
            raise ScheduleError(f"ranks is {self.ranks}: expected 2 or more; one rank waits for nobody")
        if self.microbatches < self.ranks or self.microbatches % self.ranks:
            raise ScheduleError(
                f"microbatches is {self.microbatches}: expected a multiple of the {self.ranks} ranks, for `interleaved`"
            )
        for name in ("latency", "jitter", "synthesizer"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ScheduleError(f"{name} is {getattr(self, name)}: expected 0 or more, and finite")
        distribution_named(self.distribution)


@dataclass(frozen=True)
class Contender:
    """A schedule in the comparison.

    Attributes:
        name: for people, short.
        family: locked, stale or unlocked.
        build: from the conditions.
        chunks: stages on a rank.
    """

    name: str
    family: str
    build: Callable[[Conditions], Schedule]
    chunks: int = 1


def _ahead(conditions: Conditions) -> int:
    """LATE, or as many as a step's microbatches suffice for."""
    return min(LATE, (conditions.microbatches - 1) // (conditions.ranks - 1) - 1)


CONTENDERS = (
    Contender("back-propagation", "locked", lambda _: backprop()),
    Contender("GPipe", "locked", lambda c: gpipe(c.microbatches)),
    Contender("1F1B", "locked", lambda c: one_f_one_b(c.microbatches)),
    Contender("interleaved", "locked", lambda c: interleaved(c.microbatches, ranks=c.ranks), CHUNKS),
    Contender("zero bubble", "locked", lambda c: zero_bubble(c.microbatches)),
    Contender("2BW", "stale", lambda c: pipedream_2bw(c.microbatches)),
    Contender(f"2BW, {LATE} ahead", "stale", lambda c: pipedream_2bw(c.microbatches, ahead=_ahead(c))),
    Contender("unlocked", "unlocked", lambda _: update_unlocked()),
    Contender(f"unlocked, delay {LATE}", "unlocked", lambda _: update_unlocked(LATE)),
    Contender("complete unlock", "unlocked", lambda _: forward_unlocked(LATE)),
)


def lost(contender: Contender, conditions: Conditions, *, seeds: int = 1) -> float:
    """The share of all ranks' time that is lost, in a run long enough for its beginning not to count.

    Args:
        contender: the schedule.
        conditions: where it runs.
        seeds: of the jitter, to average over.
    """
    schedule = contender.build(conditions)
    plan = asked_of(schedule, conditions.ranks * contender.chunks)
    costs = _costs(conditions, contender.chunks)
    # A pattern of an unlocked schedule is as long as it is deep; jitter asks for more, to be an average.
    steps = 2 if schedule.microbatches > 1 else 2 * conditions.ranks
    steps *= 4 if conditions.jitter else 1
    shares = []
    for seed in range(seeds if conditions.jitter else 1):
        cost = jittered(costs, conditions.jitter, seed, distribution=conditions.distribution)
        end = simulate(plan, steps=2 * steps, costs=cost, links=conditions.latency).end
        until = [0.0] * (2 * steps)
        for action, time in end.items():
            if action.kind is Kind.U:
                step = schedule.step_of(action)
                until[step] = max(until[step], time)
        passed = until[2 * steps - 1] - until[steps - 1]
        shares.append(1.0 - WORK * schedule.microbatches * steps / passed)
    return max(0.0, sum(shares) / len(shares))


def _costs(conditions: Conditions, chunks: int) -> Callable[[Action], float]:
    """A synthesizer's work is divided in two, half in S and half in T; likewise in P and Q."""
    half = conditions.synthesizer * WORK / 2
    more = {Kind.S: half, Kind.T: half, Kind.P: half, Kind.Q: half}
    costs: Mapping[Kind, float] = {kind: (cost + more.get(kind, 0.0)) / chunks for kind, cost in UNIT_COSTS.items()}
    return lambda action: costs[action.kind]


# ---- the picture's numbers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """What is lost while one condition changes.

    Attributes:
        title: which condition, for people.
        values: of that condition.
        shares: by the contender's name, as many as there are values.
        log: whether the values double from one to the next.
    """

    title: str
    values: tuple[float, ...]
    shares: Mapping[str, tuple[float, ...]]
    log: bool = False


def panels(conditions: Conditions) -> tuple[Panel, Panel, Panel]:
    """Against depth, latency and jitter, each from the same conditions."""
    depths = [ranks for ranks in (2, 4, 8, 16, 32, 64) if conditions.microbatches % ranks == 0]
    latencies = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    distribution = distribution_named(conditions.distribution)
    most = math.floor(20 * min(0.8, distribution.largest)) / 20
    deviations = tuple(round(most * part / 16, 4) for part in (0, 3, 6, 9, 12, 16))
    jitter = f"{conditions.distribution} jitter (s. d. of {distribution.deviation})"
    return (
        _panel("number of stages", {ranks: replace(conditions, ranks=ranks) for ranks in depths}, log=True),
        _panel("one-way latency (forward passes)", {one: replace(conditions, latency=one) for one in latencies}),
        _panel(jitter, {one: replace(conditions, jitter=one) for one in deviations}),
    )


def _panel(title: str, changed: Mapping[float, Conditions], *, log: bool = False) -> Panel:
    shares = {one.name: tuple(lost(one, each, seeds=2) for each in changed.values()) for one in CONTENDERS}
    return Panel(title, tuple(changed), shares, log)
