"""`trace`: what it costs to write down every action, on the network of the `step` benchmark.

A step takes some per cent more or less than the next, whatever is measured; so traced and untraced steps come in pairs,
now the one first and now the other, and the ratio is the median over the pairs.
"""

import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from synthgrad.core.schedules import update_unlocked
from synthgrad.core.synthesizers import LinearSynthesizer
from synthgrad.engines.trace import trace
from synthgrad.experiments.bench.step import CLASSES, INPUTS, ROWS
from synthgrad.experiments.bench.training import decoupled_net, random_batches
from synthgrad.models import fully_connected

__all__ = ["run"]

WARM_UP = 5


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratio of a step that is traced to one that is not, of the same net; the milliseconds of both, and the actions."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    batches = random_batches(ROWS, INPUTS, CLASSES)
    synthesizer = partial(LinearSynthesizer, classes=CLASSES)
    net = decoupled_net(fully_connected(INPUTS, CLASSES), next(batches), update_unlocked(), synthesizer)
    pairs: list[dict[str, float]] = []
    try:
        with TemporaryDirectory() as folder, trace(net, Path(folder)):
            observe = {"untraced": None, "traced": net.engine.observe}
            for round_ in range(-WARM_UP, rounds):
                taken: dict[str, float] = {}
                for name in sorted(observe, reverse=round_ % 2 == 0):
                    net.engine.observe = observe[name]
                    x, y = next(batches)
                    start = time.perf_counter()
                    net.step(x, target=y)
                    taken[name] = 1e3 * (time.perf_counter() - start)
                if round_ >= 0:
                    pairs.append(taken)
    finally:
        torch.set_num_threads(before)
    ratio = median(pair["traced"] / pair["untraced"] for pair in pairs)
    figures = {f"{name}_ms": median(pair[name] for pair in pairs) for name in observe}
    return {"traced_over_untraced": ratio}, figures | {"actions": len(net.engine.plan.actions(1))}
