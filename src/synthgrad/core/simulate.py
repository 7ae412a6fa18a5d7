"""Plays a plan on a clock: one worker per rank, each doing its stages' actions in the order of the schedule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import DeadlockError
from synthgrad.core.plan import BACKWARD, Plan, dependencies

__all__ = ["UNIT_COSTS", "Timeline", "simulate"]

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
Links = float | Callable[[int, int], float]


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
        forward = Kind.P if self.plan.stages[stage].input_synthesizer else Kind.F
        held: set[int] = set()
        most = 0
        for action in (action for action in self.start if action.stage == stage):  # in the order of its program
            kinds = self.plan.kinds(stage, action.microbatch)
            if action.kind is forward and not kinds.isdisjoint(BACKWARD):
                held.add(action.microbatch)
            elif action.kind is Kind.W or (action.kind in BACKWARD and Kind.W not in kinds):
                held.discard(action.microbatch)
            most = max(most, len(held))
        return most


def simulate(plan: Plan, *, steps: int = 1, costs: Costs = UNIT_COSTS, links: Links = 0.0) -> Timeline:
    """Play the first steps of the plan, flush included.

    Args:
        plan: the plan; ranks work side by side, and a rank does its own actions one after the other, in listed order.
        steps: how many steps.
        costs: the duration of each kind of action, or a function of the action.
        links: the latency between two ranks, or a function of (from rank, to rank). Within a rank there is none.

    Raises:
        DeadlockError: ranks that wait for each other in a circle, or for an action that never comes; all are named.
        ValueError: a negative cost or latency.
    """
    cost = costs if callable(costs) else lambda action: costs[action.kind]
    latency = links if callable(links) else lambda source, target: links
    ranks: dict[int, list[Action]] = {rank: [] for rank in plan.ranks}
    for action in reversed(plan.run_of(steps)):
        ranks[plan.ranks[action.stage]].append(action)  # reversed, so that the next one is at the end

    start: dict[Action, float] = {}
    end: dict[Action, float] = {}
    free = dict.fromkeys(ranks, 0.0)
    waiting: dict[Action, list[int]] = {}  # ranks that wait for an action
    ready = list(ranks)
    while ready:
        rank = ready.pop()
        while ranks[rank]:
            action = ranks[rank][-1]
            needed = dependencies(action, plan)
            if missing := next((other for other in needed if other not in end), None):
                waiting.setdefault(missing, []).append(rank)
                break
            arrivals = [end[o] + _between(plan.ranks[o.stage], rank, latency) for o in needed]
            start[action] = max([free[rank], *arrivals])
            end[action] = free[rank] = start[action] + _not_negative(cost(action), f"cost of {action}")
            ranks[rank].pop()
            ready += waiting.pop(action, [])
    if stuck := {missing: held for missing, held in waiting.items() if held}:
        raise DeadlockError(_deadlock(stuck, ranks, plan))
    return Timeline(plan, start, end)


def _between(source: int, target: int, latency: Callable[[int, int], float]) -> float:
    return 0.0 if source == target else _not_negative(latency(source, target), f"latency from {source} to {target}")


def _not_negative(value: float, what: str) -> float:
    if not value >= 0:
        raise ValueError(f"{what}: got {value}, expected zero or more")
    return value


def _deadlock(stuck: Mapping[Action, list[int]], ranks: Mapping[int, list[Action]], plan: Plan) -> str:
    waits = sorted((rank, ranks[rank][-1], missing) for missing, held in stuck.items() for rank in held)
    lines = [f"rank {rank} stands at {action} and waits for {missing}" for rank, action, missing in waits]
    return f"{plan.schedule.name} deadlocks: " + "; ".join(lines) + "; put each action after what it waits for"
