"""`latency`: what slow links between two processes cost, without waiting for each other and with.

The network has 8 layers of 1024 features over MNIST's images, batches of 256, cut in the middle; turns and times are
those of `pipeline`. Links take 50 ms one way, injected, as `slow_links` says; the same engines run with them and
without. What the delay costs in accuracy is another run, of MNIST, with no latency: for what is learned it makes no
difference.
"""

from collections import defaultdict
from statistics import median
from typing import Any

from synthgrad.core.schedules import update_unlocked
from synthgrad.engines.latency import slow_links
from synthgrad.experiments.bench.pipeline import LOCKED, SCHEDULES, intervals, turn
from synthgrad.experiments.bench.race import Figures, Race, race_figures
from synthgrad.experiments.bench.ranks import on_ranks
from synthgrad.experiments.bench.sides import Network, decoupled, random_data

__all__ = ["run"]

NETWORK, ROWS = Network(784, 1024, 8), 256
SECONDS = 0.05  # one way
DELAY = 3  # a target is back two latencies and a stage's step after its batch left
OURS = {**{name: SCHEDULES[name] for name in LOCKED}, "unlocked": lambda: update_unlocked(DELAY)}


def run(rounds: int, *, seeds: int = 1, epochs: int = 3) -> tuple[Figures, Figures]:
    """Ratios of throughput at 50 ms to that at none, and what they are made of.

    Args:
        rounds: turns of each.
        seeds: runs of MNIST, with the delay and by back-propagation; 0: none.
        epochs: of each of them.
    """
    ratios, figures = latency_figures(*on_ranks(throughput, NETWORK, ROWS, rounds, SECONDS))
    if seeds:
        setting = Race(NETWORK, delay=DELAY, names=("one_process", "unlocked"))
        more = race_figures(setting, seeds, epochs)[1]
        figures |= {name: value for name, value in more.items() if "error" in name}
    return ratios, figures


def latency_figures(_first: dict[str, Any], last: dict[str, Any]) -> tuple[Figures, Figures]:
    """From the seconds of each step on the rank that ends it."""
    step = {name: {when: median(seconds) for when, seconds in found.items()} for name, found in last.items()}
    ratios: Figures = {}
    figures: Figures = {"delay": DELAY}
    for name, times in step.items():
        whose = "" if name == "unlocked" else f"_{name}"
        ratios[f"throughput_50ms_over_0ms{whose}"] = times["0ms"] / times["50ms"]
        figures |= {f"{name}_at_{when}_ms": 1e3 * seconds for when, seconds in times.items()}
    return ratios, figures


def throughput(rank: int, network: Network, rows: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The seconds of each step that ends on this rank, by schedule, without latency and with it."""
    data = random_data(network, rows)
    sides = {name: decoupled(network.build(), network.cut, data, schedule()) for name, schedule in OURS.items()}
    found: dict[str, Any] = {name: defaultdict(list) for name in sides}
    for round_ in range(-1, rounds):
        for when, latency in (("0ms", 0.0), ("50ms", seconds)):
            for name, side in sides.items():
                slow_links(side.engine.transport, latency)
                ended = turn(side)
                if round_ >= 0 and side.last == rank:
                    found[name][when] += intervals(ended)
    for side in sides.values():
        side.close()
    return found
