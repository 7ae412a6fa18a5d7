"""What a benchmark gives: ratios to quote, figures to look at, and the machine they were measured on."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import median
from typing import Any

from synthgrad.experiments.provenance import hardware, versions
from synthgrad.experiments.spec import SettingsError

__all__ = ["BENCHMARKS", "Measurement", "interleaved", "measure"]

# Each is a module beside this one, with a function `run(rounds)` that gives ratios and figures; some take more.
BENCHMARKS: Mapping[str, str] = {
    "step": "a step of label-conditioned synthetic gradients against one of plain back-propagation",
    "memory": "activations held at the peak, 16 stages update-unlocked against plain back-propagation",
    "interface": "a step of an ordinary loop with one `Interface` in the model against one of the plain model",
    "signals": "arithmetic, parameters and bytes of each learning signal; counted, not timed",
    "plan": "the cuts that `plan` chooses for a 12-block transformer against the best of all, and how long it takes",
    "recurrent": "a window of truncated back-propagation with a synthetic gradient at its end against one without",
    "startup": "what `import synthgrad` adds to `import torch`, and `synthgrad --help`",
    "pipeline": "two processes, unlocked, against one process, torch's pipelines and our locked schedules",
    "latency": "two processes at 50 ms one way against none, unlocked and locked",
    "trace": "a step of which every action is written down, against one that is not traced",
    "transport": "messages between stages that compute nothing, against gloo's own",
}
ROUNDS: Mapping[str, int] = {"pipeline": 5, "latency": 4, "transport": 20}
USUAL_ROUNDS = 50
SEEDED = ("pipeline", "latency")  # may train on MNIST besides, with so many seeds


@dataclass(frozen=True)
class Measurement:
    """One benchmark, measured.

    Attributes:
        name: of the benchmark.
        ratios: what to quote; one figure over another of the same run. None: it came to nothing that can be quoted.
        figures: what the ratios are made of, with the unit in the name.
        machine: processor, cores, threads, load before the start, versions.
        command: the command line.
    """

    name: str
    ratios: Mapping[str, float | None]
    figures: Mapping[str, float | None]
    machine: Mapping[str, Any]
    command: str

    def as_json(self) -> str:
        """One object of JSON, over several lines."""
        return json.dumps(asdict(self), indent=2) + "\n"


def measure(
    name: str, *, command: str, rounds: int | None = None, seeds: int | None = None, epochs: int | None = None
) -> Measurement:
    """Run a benchmark.

    Args:
        name: one of `BENCHMARKS`.
        command: the command line, for the record.
        rounds: how often each side is measured; its own choice if not given.
        seeds: of the runs of MNIST, where it has any; likewise.
        epochs: of each of those; likewise.

    Raises:
        SettingsError: no benchmark of this name, less than one round, or seeds for one that trains nothing.
    """
    if name not in BENCHMARKS:
        raise SettingsError(f"benchmark {name!r}: unknown; expected one of {', '.join(BENCHMARKS)}")
    rounds = ROUNDS.get(name, USUAL_ROUNDS) if rounds is None else rounds
    if rounds < 1:
        raise SettingsError(f"rounds is {rounds}: expected a whole number of at least 1")
    more = {key: value for key, value in (("seeds", seeds), ("epochs", epochs)) if value is not None}
    if more and name not in SEEDED:
        raise SettingsError(f"{' and '.join(more)}: {name} trains nothing to an end; only {', '.join(SEEDED)} do")
    for key, value in more.items():
        least = 0 if key == "seeds" else 1
        if value < least:
            raise SettingsError(f"{key} is {value}: expected a whole number of at least {least}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    ratios, figures = import_module(f"synthgrad.experiments.bench.{name}").run(rounds, **more)
    machine = {**hardware(threads=1), "load_before": load, "versions": versions()}
    return Measurement(name, ratios, figures, machine, command)


def interleaved(sides: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: int = 3) -> dict[str, float]:
    """The median time of each side, in milliseconds; the sides take turns, so that a busy machine hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-warm_up, rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if round_ >= 0:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(times) for name, times in taken.items()}
