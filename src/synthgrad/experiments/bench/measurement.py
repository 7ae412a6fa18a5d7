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

# Each is a module beside this one, with a function `run(rounds)` that gives ratios and figures.
BENCHMARKS: Mapping[str, str] = {
    "step": "a step of label-conditioned synthetic gradients against one of plain back-propagation",
    "memory": "activations held at the peak, 16 stages update-unlocked against plain back-propagation",
    "signals": "arithmetic, parameters and bytes of each learning signal; counted, not timed",
    "startup": "what `import synthgrad` adds to `import torch`, and `synthgrad --help`",
}


@dataclass(frozen=True)
class Measurement:
    """One benchmark, measured.

    Attributes:
        name: of the benchmark.
        ratios: what to quote; one figure over another of the same run.
        figures: what the ratios are made of, with the unit in the name.
        machine: processor, cores, threads, load before the start, versions.
        command: the command line.
    """

    name: str
    ratios: Mapping[str, float]
    figures: Mapping[str, float]
    machine: Mapping[str, Any]
    command: str

    def as_json(self) -> str:
        """One object of JSON, over several lines."""
        return json.dumps(asdict(self), indent=2) + "\n"


def measure(name: str, *, rounds: int, command: str) -> Measurement:
    """Run a benchmark.

    Args:
        name: one of `BENCHMARKS`.
        rounds: how often each side is measured.
        command: the command line, for the record.

    Raises:
        SettingsError: no benchmark of this name, or less than one round.
    """
    if name not in BENCHMARKS:
        raise SettingsError(f"benchmark {name!r}: unknown; expected one of {', '.join(BENCHMARKS)}")
    if rounds < 1:
        raise SettingsError(f"rounds is {rounds}: expected a whole number of at least 1")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    ratios, figures = import_module(f"synthgrad.experiments.bench.{name}").run(rounds)
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
