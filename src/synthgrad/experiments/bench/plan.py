"""`plan`: how far the chosen cuts are from the best there are, on a transformer of 12 blocks, and how long it takes.

All choices of cuts are tried, on the measurement that the choice was made from (`chosen_over_best`: is the search
right?), and on another one (`again_over_best`: does what was measured hold the next time?).
"""

import time
from itertools import combinations

import torch

from synthgrad.models import transformer
from synthgrad.planning.advice import plan_for
from synthgrad.planning.balance import balance, bottleneck, merged
from synthgrad.planning.profile import profile

__all__ = ["run"]

VOCABULARY, WIDTH, LAYERS, TOKENS, ROWS = 65, 128, 12, 64, 16
STAGES = 4


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """The chosen cuts' bottleneck over the best one's, with and without synthesizers, the worst of so many rounds."""
    torch.manual_seed(0)
    model = transformer(VOCABULARY, width=WIDTH, layers=LAYERS, context=TOKENS)
    sample = tuple(torch.randint(0, VOCABULARY, (ROWS, TOKENS)) for _ in range(2))
    before = time.perf_counter()
    plan_for(model, sample, devices=STAGES, links="1GBps,20ms")
    seconds = time.perf_counter() - before
    ratios: dict[str, float] = {}
    figures = {"plan_seconds": seconds}
    ways: list[tuple[int, ...]] = []
    for _ in range(rounds):
        first, second = profile(model, sample), profile(model, sample)
        ways = list(combinations(range(len(first) - 1), STAGES - 1))
        for name, unlocked in (("unlocked", True), ("locked", False)):
            chosen = balance(first, STAGES, unlocked=unlocked)
            for word, segments in (("chosen", first), ("again", second)):
                found = {ends: bottleneck(merged(segments, ends), unlocked=unlocked) for ends in ways}
                best, ratio = min(found.values()), f"{name}_{word}_over_best"
                ratios[ratio] = max(ratios.get(ratio, 0.0), found[chosen] / best)
                figures |= {f"{name}_best_ms": 1e3 * best, f"{name}_worst_ms": 1e3 * max(found.values())}
    figures["ways_to_cut"] = float(len(ways))
    return ratios, figures
