"""A trace against the simulator: the same plan, played with the trace's own costs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from synthgrad.core.actions import Action
from synthgrad.core.simulate import Timeline, simulate
from synthgrad.experiments.report.waits import Reason, waits
from synthgrad.experiments.traces.reading import Trace

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """The same steps, measured and played; in seconds.

    Attributes:
        steps: which.
        measured: from the start of their first action to the end of their last.
        predicted: the same, played.
        ranks: how many processes it was played with.
        waiting: what they wait for when it is played, all together.
    """

    steps: range
    measured: float
    predicted: float
    ranks: int
    waiting: dict[Reason, float]


def predict(trace: Trace, steps: range, *, ranks: Sequence[int] | None = None) -> Prediction:
    """Play the plan with the median cost of each stage's actions, and the median time of a message that is waited for.

    Args:
        trace: of the run.
        steps: whole ones.
        ranks: which process holds which stage; if not given, as it was.
    """
    costs, links = trace.costs(), _links(trace)
    plan = trace.plan if ranks is None else replace(trace.plan, ranks=tuple(ranks))
    typical = {kind: median(cost for (_, other), cost in costs.items() if other is kind) for _, kind in costs}

    def cost(action: Action) -> float:
        return costs.get((action.stage, action.kind), typical.get(action.kind, 0.0))

    begin = plan.schedule.lateness if plan.schedule.period else steps.start
    # The simulator counts steps from 0; of a schedule with a period any like ones will do.
    begin += (steps.start - begin) % plan.schedule.period if plan.schedule.period else 0
    chosen = {action for step in range(begin, begin + len(steps)) for action in plan.actions(step)}
    played = simulate(plan, steps=begin + len(steps), costs=cost, links=lambda a, b: links.get((a, b), 0.0))
    start = {action: time for action, time in played.start.items() if action in chosen}
    end = {action: played.end[action] for action in start}
    spent = dict.fromkeys(Reason, 0.0)
    for wait in waits(played):
        if wait.action in chosen:
            spent[wait.reason] += wait.end - wait.start
    length = _length(Timeline(plan, start, end))
    return Prediction(steps, _length(trace.within(steps)), length, len(set(plan.ranks)), spent)


def _length(timeline: Timeline) -> float:
    return timeline.makespan - min(timeline.start.values(), default=0.0)


def _links(trace: Trace) -> dict[tuple[int, int], float]:
    """Between two ranks, the median seconds from a message's making to its reader's start, of those waited for."""
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for action, one in trace.done.items():
        for source in one.sources:
            sent, pair = trace.done.get(source), (trace.plan.ranks[source.stage], trace.plan.ranks[action.stage])
            if sent is not None and pair[0] != pair[1] and sent.end > trace.turned[action]:
                found[pair].append(max(0.0, one.start - sent.end))
    return {pair: median(times) for pair, times in found.items()}
