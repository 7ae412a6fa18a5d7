"""Choosing cuts: which neighboring segments make a stage, so that the slowest stage is as fast as can be. No torch.

Every schedule runs at the pace of its slowest stage. A synthesizer is work of the stage before its cut, and the last
stage has none; an input synthesizer is work of the stage behind it, and the first has none. So where to cut best for an
unlocked schedule is not where it is best for a locked one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from synthgrad.core.errors import PlanningError
from synthgrad.core.links import Link

__all__ = ["Segment", "balance", "bottleneck", "merged", "prediction"]


@dataclass(frozen=True)
class Segment:
    """What lies between two neighboring places where a model can be cut. Seconds and bytes are of one whole batch.

    Attributes:
        name: of the cut at its end; of the last, `output`.
        forward: seconds of F.
        backward: seconds of B.
        input_half: seconds of I.
        weight_half: seconds of W.
        update: seconds of U.
        synthesis: seconds that S takes longer than B, with a synthesizer at this cut.
        lesson: seconds of T there.
        prediction: seconds that P takes longer than F in the stage behind the cut, with an input synthesizer; None: it
            has none.
        input_lesson: seconds of Q there.
        activation: bytes that autograd keeps from F to B.
        boundary: bytes of the activation at the cut.
        parameters: bytes of the weights.
        synthesizer: bytes of the synthesizer's weights.
        predictor: bytes of the input synthesizer's.
    """

    name: str
    forward: float
    backward: float
    input_half: float = 0.0
    weight_half: float = 0.0
    update: float = 0.0
    synthesis: float = 0.0
    lesson: float = 0.0
    prediction: float | None = None
    input_lesson: float = 0.0
    activation: float = 0.0
    boundary: float = 0.0
    parameters: float = 0.0
    synthesizer: float = 0.0
    predictor: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "name" and value is not None and not 0.0 <= value < math.inf:
                raise PlanningError(f"segment {self.name!r}: {name} is {value}, expected zero or more, and finite")
        if not self.forward + self.backward > 0.0:
            raise PlanningError(
                f"segment {self.name!r}: forward and backward take no time; measure again with a larger batch"
            )

    @property
    def work(self) -> float:
        """Seconds of one batch, without a synthesizer."""
        return self.forward + self.backward + self.update

    @property
    def extra(self) -> float:
        """Seconds that a synthesizer at this cut adds."""
        return self.synthesis + self.lesson


_SUMMED = ("forward", "backward", "input_half", "weight_half", "update", "activation", "parameters")


def merged(segments: Sequence[Segment], ends: Sequence[int]) -> list[Segment]:
    """The stages that segments make, cut behind those whose indices are given: work adds up, the last cut stays."""
    edges = zip([0, *(end + 1 for end in ends)], [*(end + 1 for end in ends), len(segments)], strict=True)
    stages = []
    for low, high in edges:
        sums: dict[str, Any] = {name: math.fsum(getattr(one, name) for one in segments[low:high]) for name in _SUMMED}
        stages.append(replace(segments[high - 1], **sums))  # the cut is the last one's, and what stands there
    return stages


def prediction(before: Segment, forward: float) -> float:
    """Seconds that a stage takes longer when it learns on a predicted input: it runs forward twice, P and F.

    Args:
        before: what ends at the cut before it.
        forward: seconds of the stage's F.
    """
    return math.inf if before.prediction is None else before.prediction + before.input_lesson + forward


def bottleneck(
    stages: Sequence[Segment], *, unlocked: bool, predicted: bool = False, link: Link | None = None
) -> float:
    """Seconds between two batches where nothing is ever waited for: of the slowest stage, or of the slowest link.

    Args:
        stages: of the model.
        unlocked: with a synthesizer at every cut.
        predicted: with an input synthesizer behind every cut; infinite where there is none.
        link: between two stages.
    """
    cost = _cost(stages, unlocked, predicted, link or Link())
    return max(cost(index, index + 1) for index in range(len(stages)))


def balance(
    segments: Sequence[Segment],
    stages: int,
    *,
    unlocked: bool = True,
    predicted: bool = False,
    link: Link | None = None,
) -> tuple[int, ...]:
    """Behind which segments to cut, so that the bottleneck is the smallest there is.

    Of several such cuts, those whose stages are the most even (the smallest sum of squares).

    Args:
        segments: of the model, in order.
        stages: how many stages to make.
        unlocked: count a synthesizer at every cut.
        predicted: count an input synthesizer behind every cut.
        link: between two stages; its bandwidth can be the bottleneck, too.

    Returns:
        stages - 1 indices of segments, rising.

    Raises:
        PlanningError: fewer segments than stages, or no stages.
    """
    count = len(segments)
    if not 1 <= stages <= count:
        places = ", ".join(repr(one.name) for one in segments[:-1]) or "nowhere"
        raise PlanningError(
            f"stages is {stages}, expected 1 to {count}: the model can be cut at {places}; use fewer devices, or build "
            f"it from more submodules that each batch passes in a row"
        )
    cost = _cost(segments, unlocked, predicted, link or Link())
    least, _ = _best(count, stages, cost, max)
    _, ends = _best(count, stages, lambda low, high: _square(cost(low, high), least), lambda a, b: a + b)
    return ends


def _cost(segments: Sequence[Segment], unlocked: bool, predicted: bool, link: Link) -> Callable[[int, int], float]:
    """Of a stage made of segments low .. high-1, whatever the others are."""
    sums, forward = [0.0], [0.0]
    for one in segments:
        sums.append(sums[-1] + one.work)
        forward.append(forward[-1] + one.forward)

    def cost(low: int, high: int) -> float:
        last = high == len(segments)
        end = segments[high - 1]
        sent = 0.0 if last else end.boundary / link.bandwidth
        own = sums[high] - sums[low] + (end.extra if unlocked and not last else 0.0)
        if predicted and low > 0:
            own += prediction(segments[low - 1], forward[high] - forward[low])
        return max(own, sent)

    return cost


def _square(cost: float, least: float) -> float:
    return cost * cost if cost <= least else math.inf


def _best(
    count: int, stages: int, cost: Callable[[int, int], float], join: Callable[[float, float], float]
) -> tuple[float, tuple[int, ...]]:
    """The least joined cost of all ways to make so many stages, and where they end. Dynamic programming, O(P N²)."""
    best: list[tuple[float, tuple[int, ...]]] = [(cost(0, high), ()) for high in range(1, count + 1)]
    for made in range(2, stages + 1):
        found: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())] * (made - 1)
        for high in range(made, count + 1):
            ways = ((join(best[low - 1][0], cost(low, high)), low) for low in range(made - 1, high))
            value, low = min(ways)
            found.append((value, (*best[low - 1][1], low - 1)))
        best = found
    return best[count - 1]
