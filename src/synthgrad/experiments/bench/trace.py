"""`trace`: what it costs to write down every action, on the network of the `step` benchmark."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from synthgrad.core.schedules import update_unlocked
from synthgrad.core.synthesizers import LinearSynthesizer
from synthgrad.engines.trace import trace
from synthgrad.experiments.bench.measurement import interleaved
from synthgrad.experiments.bench.step import CLASSES, INPUTS, ROWS
from synthgrad.experiments.bench.training import decoupled_net, random_batches
from synthgrad.models import fully_connected

__all__ = ["run"]


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratio of a step that is traced to one that is not, of the same net; and the milliseconds of both."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    batches = random_batches(ROWS, INPUTS, CLASSES)
    synthesizer = partial(LinearSynthesizer, classes=CLASSES)
    net = decoupled_net(fully_connected(INPUTS, CLASSES), next(batches), update_unlocked(), synthesizer)

    def step() -> None:
        x, y = next(batches)
        net.step(x, target=y)

    try:
        with TemporaryDirectory() as folder, trace(net, Path(folder)):
            observe = net.engine.observe

            def traced() -> None:
                net.engine.observe = observe
                step()

            def untraced() -> None:
                net.engine.observe = None
                step()

            milliseconds = interleaved({"untraced": untraced, "traced": traced}, rounds)
    finally:
        torch.set_num_threads(before)
    ratio = milliseconds["traced"] / milliseconds["untraced"]
    return {"traced_over_untraced": ratio}, {f"{name}_ms": time for name, time in milliseconds.items()}
