"""`pipeline`: two processes that do not wait for each other, against one process, and against two that wait.

Throughput is that of 8 layers of 1024 features (Linear, BatchNorm, ReLU), batches of 256, cut in the middle. A turn is
some steps of one way to train, begun by both processes together; all take turns in every round. What counts is the time
from one step's end to the next on the process that ends it, in the middle of a turn: at its start a pipeline fills, at
its end one process works alone. Plain PyTorch, its pipelines, its data parallelism and our stages have the same
optimizer.

`unlocked_second` has a lesson for the synthesizer in every second step; in the others the later process makes no
gradient for the earlier one.

`two_apart` says what the machine has to give: two processes that train a network each, at the same time, and have
nothing to do with each other. Where these slow each other down, two processes cannot be twice as fast as one.

How long it takes to an accuracy is another run, of MNIST: see `race`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import mean, median
from typing import Any

import torch.distributed as dist
from torch import Tensor

from synthgrad.core.actions import Action
from synthgrad.core.combined import teach_every
from synthgrad.core.events import ActionDone, decode, encode
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.schedules import Schedule, backprop, update_unlocked
from synthgrad.core.simulate import simulate
from synthgrad.experiments.bench.memory import MIB, Meter, held_by
from synthgrad.experiments.bench.race import Race, race_figures
from synthgrad.experiments.bench.ranks import on_ranks
from synthgrad.experiments.bench.sides import (
    Network,
    Side,
    decoupled,
    one_process,
    random_data,
    torch_ddp,
    torch_pipeline,
)

__all__ = ["LOCKED", "NETWORK", "ROWS", "SCHEDULES", "SKIP", "TIMED", "intervals", "run", "turn"]

NETWORK, ROWS = Network(1024, 1024, 8), 256
SKIP, TIMED = 3, 8  # steps at either end of a turn that do not count, and those between
PARTS = (2, 4, 8)  # microbatches that torch's schedules are tried with
SCHEDULES: Mapping[str, Callable[[], Schedule]] = {
    "backprop": backprop,
    "gpipe": partial(gpipe, 4),
    "one_f_one_b": partial(one_f_one_b, 4),
    "unlocked": partial(update_unlocked, 1),
    "unlocked_second": lambda: teach_every(2, update_unlocked(1)),
}
LOCKED = ("backprop", "gpipe", "one_f_one_b")
Found = dict[str, Any]


def run(rounds: int, *, seeds: int = 0, epochs: int = 5) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Ratios of throughput and, with seeds, of the time to an accuracy; and what they are made of.

    Args:
        rounds: turns of each way to train.
        seeds: runs of MNIST; 0: none.
        epochs: of each of them.
    """
    ranks = on_ranks(throughput, NETWORK, ROWS, rounds)
    ratios, figures = throughput_figures(*ranks)
    if seeds:
        more = race_figures(Race(), seeds, epochs)
        ratios, figures = ratios | more[0], figures | more[1]
    return ratios, figures


def throughput(rank: int, network: Network, rows: int, rounds: int) -> Found:
    """What this rank has measured: seconds of each step that ends here, seconds of actions, bytes."""
    data = random_data(network, rows)
    sides = _sides(rank, network, data)
    seconds: Found = defaultdict(list)
    for round_ in range(-1, rounds):
        for name, side in sides.items():
            ended = turn(side)
            if round_ >= 0 and side.last == rank:
                seconds[name] += intervals(ended, side.period)
    traces = {name: _trace(sides[name]) for name in SCHEDULES}
    sent = {name: _bytes_sent(sides[name]) for name in SCHEDULES}
    peak = {name: _peak(side, data(0)) for name, side in sides.items() if side.threads == 1}
    for side in sides.values():
        side.close()
    return {"seconds": seconds, "traces": traces, "bytes": sent, "peak": peak}


def throughput_figures(first: Found, last: Found) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """From what both ranks have measured."""
    step = {name: median(seconds) for rank in (first, last) for name, seconds in rank["seconds"].items()}
    best = min(time for name, time in step.items() if name.startswith(("torch_gpipe", "torch_1f1b")))
    figures: dict[str, float | None] = {f"{name}_ms": 1e3 * time for name, time in step.items()}
    ratios: dict[str, float | None] = {
        "unlocked_over_one_process": step["one_process"] / step["unlocked"],
        "unlocked_over_two_threads": step["two_threads"] / step["unlocked"],
        "unlocked_over_two_apart": step["two_apart"] / 2 / step["unlocked"],
        "replicas_over_torch_ddp": step["torch_ddp"] / step["replicas"],
        "two_apart_over_one_process": 2 * step["one_process"] / step["two_apart"],
        "unlocked_over_torch_pipelining": best / step["unlocked"],
        "unlocked_over_torch_ddp": step["torch_ddp"] / step["unlocked"],
        "unlocked_over_own_locked": min(step[name] for name in LOCKED) / step["unlocked"],
        "unlocked_second_over_one_process": step["one_process"] / step["unlocked_second"],
    }
    for name in SCHEDULES:
        traces = [[_done(line) for line in rank["traces"][name]] for rank in (first, last)]
        costs = {key: cost for trace in traces for key, cost in costs_of(trace).items()}
        predicted = predicted_step(SCHEDULES[name](), costs, link_of(traces))
        ratios[f"predicted_over_measured_{name}"] = predicted / step[name]
        figures[f"{name}_predicted_ms"] = 1e3 * predicted
        figures[f"{name}_kib_forward"] = first["bytes"][name] / 1024
        figures[f"{name}_kib_back"] = last["bytes"][name] / 1024
    for rank, found in enumerate((first, last)):
        figures |= {f"{name}_peak_mib_rank_{rank}": peak / MIB for name, peak in found["peak"].items() if peak}
    return ratios, figures


def predicted_step(schedule: Schedule, costs: Mapping[str, float], link: float = 0.0, steps: int = 12) -> float:
    """Seconds of a step on two ranks, once the pipeline is full; `costs` by stage and letter, as `0F`."""
    declared = Declaration() if schedule.lateness else Declaration(synthesizer=False, feedback=frozenset())
    plan = Plan(schedule, (declared,) * 2)

    def makespan(steps: int) -> float:
        return simulate(plan, steps=steps, costs=lambda action: costs[_key(action)], links=link).makespan

    return (makespan(2 * steps) - makespan(steps)) / steps


def _sides(rank: int, network: Network, data: Callable[[int], tuple[Tensor, Tensor]]) -> dict[str, Side]:
    sides = {
        "one_process": one_process(rank, network.build(), data),
        "two_threads": one_process(rank, network.build(), data, threads=2),
        "two_apart": one_process(0, network.build(), data),  # on both ranks
        "torch_ddp": torch_ddp(rank, network.build(), data),
    }
    for name, kind in (("gpipe", "ScheduleGPipe"), ("1f1b", "Schedule1F1B")):
        for parts in PARTS:
            sides[f"torch_{name}_{parts}"] = torch_pipeline(rank, network.build(), network.cut, data, kind, parts)
    sides["replicas"] = decoupled(network.build(), 0, data, backprop())
    for name, schedule in SCHEDULES.items():
        sides[name] = decoupled(network.build(), network.cut, data, schedule())
    return sides


def turn(side: Side, steps: int = 2 * SKIP + TIMED) -> list[float]:
    """When each step has ended here; both ranks begin together."""
    dist.barrier()
    ended: list[float] = []
    side.turn(steps, lambda: ended.append(time.perf_counter()))
    return ended


def intervals(ended: list[float], period: int = 1) -> list[float]:
    """From one step's end to the next, in the middle of a turn; where steps are not alike, a period's mean."""
    middle = ended[SKIP - 1 : SKIP + TIMED : period]
    return [(after - before) / period for before, after in zip(middle, middle[1:], strict=False)]


def _trace(side: Side) -> list[str]:
    """What this rank did in a turn: a line for each `ActionDone`."""
    done: list[ActionDone] = []
    side.engine.observe = done.append
    turn(side)
    side.engine.observe = None
    return [encode(one) for one in done]


def _done(line: str) -> ActionDone:
    done, _ = decode(line)
    assert isinstance(done, ActionDone)
    return done


def costs_of(trace: Sequence[ActionDone]) -> dict[str, float]:
    """Mean seconds for which each kind of action keeps its rank from the next, by `0F`: all but waiting.

    So what lies between two actions is counted to the second: packing and unpacking, opening a step. The slowest tenth
    is left out.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for before, after in zip(trace, trace[1:], strict=False):
        seconds[_key(after.action)].append(after.end - before.end - after.waited)
    return {key: mean(sorted(values)[: -(-len(values) * 9 // 10)]) for key, values in seconds.items()}


def link_of(traces: Sequence[Sequence[ActionDone]]) -> float:
    """Median seconds from the end of an action to the start of one that has waited for nothing else."""
    ended = {one.action: one.end for trace in traces for one in trace}
    waits = [(one, *one.sources) for trace in traces for one in trace if one.waited > 0 and len(one.sources) == 1]
    return median([max(0.0, one.start - ended[source]) for one, source in waits if source in ended] or [0.0])


def _key(action: Action) -> str:
    return f"{action.stage}{action.kind.value}"


def _bytes_sent(side: Side) -> float:
    """Of a step, to the other rank, headers included."""
    (end,) = side.engine.transport.outgoing.values()
    counted, post = 0, end.post

    def counting(frame: Tensor) -> None:
        nonlocal counted
        counted += len(frame)
        post(frame)

    end.post = counting
    steps = 2 * SKIP + TIMED
    turn(side, steps)
    end.post = post
    return counted / steps


def _peak(side: Side, batch: tuple[Tensor, Tensor]) -> int:
    """Most bytes of activations held here at one time; of ours, also what waits in the mailbox and the passages."""
    module = side.net or side.model
    meter = Meter([*module.parameters(), *module.buffers(), *batch])
    if side.net is not None:
        engine = side.engine
        meter.held, engine.observe = lambda: held_by(engine), meter.look
    with meter.watching():
        turn(side, SKIP)
    if side.net is not None:
        side.engine.observe = None
    return meter.peak
