"""`transport`: what our messages cost over gloo's own; stages that compute nothing, between two processes.

A step is a message of 256 KB forth and one back, back-propagation of two stages: each waits for the other. Raw are
`isend` and `irecv` of the same bytes, into buffers posted ahead, the same at every step.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

import torch
import torch.distributed as dist

from synthgrad.core.actions import Action, Kind
from synthgrad.core.batch import Gradient
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.run import run as run_actions
from synthgrad.core.schedules import backprop
from synthgrad.core.stage import Stage
from synthgrad.engines.distributed import windows
from synthgrad.engines.edges import edges_of
from synthgrad.engines.transport import ProcessTransport
from synthgrad.experiments.bench.ranks import on_ranks

__all__ = ["run"]

ROWS, FEATURES = 64, 1024  # 256 KB
TURN = 50  # steps, before the other side has its turn
DECLARED = Declaration(synthesizer=False, feedback=frozenset())


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The ratio of the medians of a step's time, and both in microseconds."""
    found, _ = on_ranks(exchange, rounds)
    raw, ours = (1e6 * median(found[name]) for name in ("raw", "ours"))
    return {"ours_over_raw": ours / raw}, {
        "raw_us": raw,
        "ours_us": ours,
        "raw_best_us": 1e6 * min(found["raw"]),
        "ours_best_us": 1e6 * min(found["ours"]),
    }


def exchange(rank: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of each step, of both sides; `rounds` turns each, after one to warm up."""
    plan = Plan(backprop(), (DECLARED, DECLARED))
    transport = ProcessTransport(rank, plan.ranks, edges_of(windows(plan), 60.0))
    sides = {"raw": _raw(rank), "ours": _ours(plan, transport)}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-1, rounds):
        for name, step in sides.items():
            dist.barrier()
            for _ in range(TURN):
                start = time.perf_counter()
                step()
                if round_ >= 0:
                    taken[name].append(time.perf_counter() - start)
    transport.settle()
    return taken


def _raw(rank: int) -> Callable[[], None]:
    groups: list[Any] = [dist.new_group([0, 1], backend="gloo") for _ in range(2)]
    values, buffers, peer = torch.randn(ROWS, FEATURES), torch.empty(2, ROWS, FEATURES), 1 - rank
    posted: list[Any] = [dist.irecv(buffers[0], peer, groups[peer])]

    def first() -> None:
        sent = dist.isend(values, peer, groups[rank])
        posted.pop().wait()
        posted.append(dist.irecv(buffers[0], peer, groups[peer]))
        _wait(sent)

    def second() -> None:
        posted.pop().wait()
        posted.append(dist.irecv(buffers[0], peer, groups[peer]))
        _wait(dist.isend(values, peer, groups[rank]))

    return (first, second)[rank]


def _wait(work: dist.Work | None) -> None:
    assert work is not None
    work.wait()


def _ours(plan: Plan, transport: ProcessTransport) -> Callable[[], None]:
    rank, stages = transport.rank, {transport.rank: cast(Stage, _Empty())}
    steps = 0

    def step() -> None:
        nonlocal steps
        lines = plan.lines(steps)
        transport.begin(steps, 0, lines)
        run_actions([line for line in lines if line.action.stage == rank], stages, transport)
        steps += 1

    return step


class _Empty:
    """A stage that has made everything before."""

    def __init__(self) -> None:
        self.suspects: list[torch.Tensor] = []
        values = torch.randn(ROWS, FEATURES)
        self._made: dict[Kind, Any] = {Kind.F: values, Kind.B: Gradient(values, ROWS)}

    def do(self, action: Action, *_received: Any) -> Any:
        return self._made.get(action.kind)
