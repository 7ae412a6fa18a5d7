"""Where the time of a trace goes: into the work of each stage, into its waits by lock, and into neither."""

from collections import defaultdict
from dataclasses import dataclass

from synthgrad.core.actions import Kind
from synthgrad.experiments.report.waits import Reason
from synthgrad.experiments.traces.reading import Trace

__all__ = ["CAPTION", "NEITHER", "Span", "share_rows", "spans"]

CAPTION = (
    "In percent of its rank's time, a stage is busy, or waits: for its input (forward lock), for later forward passes "
    "(update lock), for its gradient (backward lock), or for what comes of an earlier batch (target). kB/step: what it "
    "receives from other stages. Late: by how many steps its lessons come after their batch."
)
NEITHER = "Neither: sending, reading what has come, and what the script does between two steps."


@dataclass(frozen=True)
class Span:
    """The time of a rank, in seconds, from its first action in the whole steps of a trace to its last.

    Attributes:
        rank: whose.
        wall: all of it.
        busy: by stage, in actions.
        waits: by stage and reason.
    """

    rank: int
    wall: float
    busy: dict[int, float]
    waits: dict[tuple[int, Reason], float]

    @property
    def rest(self) -> float:
        """Neither work nor waiting: sending, reading what has come, and what the script does between steps."""
        return self.wall - sum(self.busy.values()) - sum(self.waits.values())

    def text(self) -> str:
        """In words."""
        parts = (sum(self.busy.values()), sum(self.waits.values()), self.rest)
        busy, waits, rest = (_percent(part / self.wall) for part in parts)
        return f"rank {self.rank}: busy {busy}, waiting {waits}, neither {rest} of {self.wall:.3g} s"


def spans(trace: Trace) -> list[Span]:
    """One for each rank that has done anything."""
    timeline = trace.within(trace.steps)
    busy: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    waits: dict[int, dict[tuple[int, Reason], float]] = defaultdict(lambda: defaultdict(float))
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for action, start in timeline.start.items():
        rank, end = trace.plan.ranks[action.stage], timeline.end[action]
        first.setdefault(rank, start)
        last[rank] = end
        busy[rank][action.stage] += end - start
    for wait in trace.waits_within(trace.steps):
        rank = trace.plan.ranks[wait.action.stage]
        before = first[rank] - wait.start  # the wait for the first action of all is not of these steps
        if before <= 0:
            waits[rank][wait.action.stage, wait.reason] += wait.end - wait.start
    return [
        Span(rank, last[rank] - first[rank], dict(busy[rank]), dict(waits[rank]))
        for rank in sorted(first)
        if last[rank] > first[rank]
    ]


def share_rows(trace: Trace) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each stage: percent of its rank's time, what it received, how late its lessons came."""
    headings = ["stage", "rank", "busy", *(reason.value for reason in Reason), "kB/step", "late"]
    received: dict[int, int] = defaultdict(int)
    late: dict[int, set[int]] = defaultdict(set)
    for action, step in trace.step.items():
        if step in trace.steps:
            received[action.stage] += trace.done[action].bytes
            if action.kind in (Kind.T, Kind.Q):
                late[action.stage].add(trace.late(action))
    rows = []
    for span in spans(trace):
        for stage, busy in sorted(span.busy.items()):
            waits = [span.waits.get((stage, reason), 0.0) / span.wall for reason in Reason]
            rows.append(
                [
                    f"{stage} {trace.names[stage]}",
                    str(span.rank),
                    f"{100 * busy / span.wall:.1f}",
                    *(f"{100 * share:.1f}" if share else "-" for share in waits),
                    f"{received[stage] / len(trace.steps) / 1e3:.1f}",
                    _steps(late[stage]),
                ]
            )
    return headings, rows


def _steps(late: set[int]) -> str:
    if not late:
        return "-"
    return str(min(late)) if len(late) == 1 else f"{min(late)}-{max(late)}"


def _percent(share: float) -> str:
    return f"{100 * max(share, 0.0):.1f} %"  # of nothing, rounding may leave less
