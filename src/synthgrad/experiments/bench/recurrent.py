"""`recurrent`: a step of truncated back-propagation with a synthetic gradient at the cut, against one without.

The network reads characters: 50 different ones, a learned vector of 256 each, an LSTM of 256 units, a linear read-out;
64 sequences, 8 steps a window, synthesizer with 64 hidden units. Truncated back-propagation is plain PyTorch without
this library; over 40 steps it stands beside, by the step of the stream, since it is what one would do otherwise. All
sides use fused Adam. Memory is what a window's graph holds at its peak: bytes in distinct storages that autograd has
saved or the cut holds, less those of parameters and batch.

Beside that, BP(lambda) against the same written with loops over units: a plain RNN of 64 units, 16 sequences without
end, by the step, in the mean over the 64 steps of which one moves the whole trace.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from synthgrad.core.synthesizers import MLPSynthesizer, Synthesizer
from synthgrad.experiments.bench.measurement import interleaved
from synthgrad.experiments.bench.memory import MIB, Meter
from synthgrad.experiments.bench.per_unit import PerUnit
from synthgrad.models import Recurrent
from synthgrad.recurrent import TruncatedBPTT
from synthgrad.recurrent.bp_lambda import bp_lambda

__all__ = ["run"]

ROWS, UNROLL, FULL, UNITS, CHARACTERS = 64, 8, 40, 256, 50
TRACED, TRACED_ROWS, MOST_BLOCKS = 64, 16, 10  # units, and steps in a block; sequences; a block takes long
_OPTIMIZER = partial(torch.optim.Adam, lr=1e-3, fused=True)
Step = Callable[[], Any]
Held = Callable[[], Iterable[Tensor]]
SYNTHESIZERS: dict[str, Callable[[tuple[int, ...]], Synthesizer]] = {
    "dni": partial(MLPSynthesizer, hidden=64),
    "dni_256_hidden": partial(MLPSynthesizer, hidden=256),
}


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios to plain truncated back-propagation, the median milliseconds of a window and the MiB held at the peak."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides = {
            "tbptt": _plain(UNROLL),
            **{name: _synthetic(synthesizer) for name, synthesizer in SYNTHESIZERS.items()},
            "dni_aux": _synthetic(SYNTHESIZERS["dni"], auxiliary=True),
            f"bptt_{FULL}": _plain(FULL),
        }
        milliseconds = interleaved({name: step for name, (step, *_) in sides.items()}, rounds)
        held = {name: _held(*side) for name, side in sides.items()}
        traced = _by_traces(min(rounds, MOST_BLOCKS))
    finally:
        torch.set_num_threads(before)
    others = [name for name in sides if name != "tbptt"]
    ratios = {f"{name}_over_tbptt_time": milliseconds[name] / milliseconds["tbptt"] for name in others}
    ratios |= {f"{name}_over_tbptt_memory": held[name] / held["tbptt"] for name in others}
    ratios[f"bptt_{FULL}_over_tbptt_time_for_each_step"] = ratios.pop(f"bptt_{FULL}_over_tbptt_time") * UNROLL / FULL
    ratios["bp_lambda_over_per_unit_loops_speed"] = traced["per_unit_loops"] / traced["bp_lambda"]
    figures = {f"{name}_ms": time for name, time in (milliseconds | traced).items()}
    return ratios, figures | {f"{name}_held_mib": size / MIB for name, size in held.items()}


def _windows(steps: int) -> Iterable[tuple[Tensor, Tensor]]:
    """A stream of random characters, and the next ones, again and again."""
    stream = torch.randint(CHARACTERS, (ROWS, FULL * 8 + 1))
    return cycle(list(zip(stream[:, :-1].split(steps, 1), stream[:, 1:].split(steps, 1), strict=True)))


def _network() -> Recurrent:
    return Recurrent(CHARACTERS, CHARACTERS, units=UNITS, tokens=True)


Side = tuple[Step, list[Tensor], Held]


def _plain(steps: int) -> Side:
    """Without our library."""
    model, windows = _network(), iter(_windows(steps))
    optimizer = _OPTIMIZER(model.parameters())
    state: Any = None

    def step() -> None:
        nonlocal state
        x, y = next(windows)
        output, state = model(x, state)
        functional.cross_entropy(output.flatten(0, 1), y.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        state = tuple(part.detach() for part in state)

    return step, list(model.parameters()), lambda: state or ()


def _synthetic(synthesizer: Callable[[tuple[int, ...]], Synthesizer], *, auxiliary: bool = False) -> Side:
    windows = iter(_windows(UNROLL))
    bptt = TruncatedBPTT(
        _network(),
        unroll=UNROLL,
        loss=functional.cross_entropy,
        optimizer=_OPTIMIZER,
        synthesizer=synthesizer,
        auxiliary=auxiliary,
        batch_first=True,
        sample=next(windows)[0],
    )

    def step() -> None:
        x, y = next(windows)
        bptt.step(x, target=y)

    def held() -> Iterable[Tensor]:
        return (leaf for leaf in pytree.tree_leaves([bptt.state, bptt.cut.held]) if isinstance(leaf, Tensor))

    return step, list(bptt.parameters()), held


def _by_traces(blocks: int) -> dict[str, float]:
    """The milliseconds of a step of BP(lambda), ours and unit by unit."""
    rule = {"lambda_": 0.9, "gamma": 0.9, "scale": 0.1}
    net, cell = nn.RNN(TRACED, TRACED), nn.RNNCell(TRACED, TRACED)
    ours = bp_lambda(net, loss=functional.mse_loss, optimizer=_OPTIMIZER, **rule)
    linear = nn.Linear(TRACED, TRACED)
    optimizers = _OPTIMIZER(cell.parameters()), _OPTIMIZER(linear.parameters())
    theirs = PerUnit(cell, linear, functional.mse_loss, *optimizers, **rule)
    x, y = torch.randn(TRACED, TRACED_ROWS, TRACED), torch.randn(TRACED, TRACED_ROWS, TRACED)
    block = partial(ours.step, x, target=y)
    block()  # then the trace is full
    sides = {"bp_lambda": block, "per_unit_loops": partial(theirs.step, x[0], y[0])}
    milliseconds = interleaved(sides, blocks)
    return milliseconds | {"bp_lambda": milliseconds["bp_lambda"] / TRACED}


def _held(step: Step, parameters: list[Tensor], held: Held) -> int:
    meter = Meter(parameters)
    meter.held = held
    step()
    with meter.watching():
        step()
        step()
    return meter.peak
