"""A trace as ui.perfetto.dev and chrome://tracing read it: the Trace Event Format, JSON, times in microseconds."""

import json
from typing import Any

from synthgrad.core.actions import Action, format_actions
from synthgrad.experiments.traces.reading import Trace

__all__ = ["perfetto"]

MICRO = 1e6


def perfetto(trace: Trace) -> str:
    """All of the trace: a process for each rank, a thread for each stage, an arrow for each message between ranks."""
    zero = min((one.start for one in trace.done.values()), default=0.0)
    ranks = trace.plan.ranks
    events: list[dict[str, Any]] = [_named("process_name", rank, 0, f"rank {rank}") for rank in sorted(set(ranks))]
    for stage, name in enumerate(trace.names):
        events.append(_named("thread_name", ranks[stage], stage, f"stage {stage} ({name})"))
    for action, one in trace.done.items():
        said = {
            "step": trace.step[action],
            "batch": trace.plan.schedule.step_of(action),
            "waited_us": MICRO * one.waited,
            "sources": format_actions(one.sources),
            "bytes": one.bytes,
        }
        place = _place(trace, action)
        events.append(_slice(str(action), "action", place, one.start - zero, one.end - zero, said))
    for wait in trace.waits:
        name = f"waits: {wait.reason}"
        at = _place(trace, wait.action)
        events.append(_slice(name, "wait", at, wait.start - zero, wait.end - zero, {"before": str(wait.action)}))
    return json.dumps({"traceEvents": events + _arrows(trace, zero), "displayTimeUnit": "ms"})


def _place(trace: Trace, action: Action) -> dict[str, int]:
    return {"pid": trace.plan.ranks[action.stage], "tid": action.stage}


def _named(what: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": rank, "tid": thread, "args": {"name": name}}


def _slice(
    name: str, kind: str, place: dict[str, int], start: float, end: float, said: dict[str, Any]
) -> dict[str, Any]:
    times = {"ts": MICRO * start, "dur": MICRO * (end - start)}
    return {"ph": "X", "name": name, "cat": kind, **place, **times, "args": said}


def _arrows(trace: Trace, zero: float) -> list[dict[str, Any]]:
    """From the middle of what sent a message to the middle of what received it: so each lies in its slice for sure."""
    found: list[dict[str, Any]] = []
    for action, one in trace.done.items():
        for source in one.sources:
            sent = trace.done.get(source)
            if sent is None or trace.plan.ranks[source.stage] == trace.plan.ranks[action.stage]:
                continue
            both = {"name": f"{source} to {action}", "cat": "message", "id": len(found) // 2}
            begin, end = ((two.start + two.end) / 2 - zero for two in (sent, one))
            found.append({"ph": "s", **both, **_place(trace, source), "ts": MICRO * begin})
            found.append({"ph": "f", "bp": "e", **both, **_place(trace, action), "ts": MICRO * end})
    return found
