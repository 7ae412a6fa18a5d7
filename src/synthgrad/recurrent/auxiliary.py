"""The auxiliary task: early in an unroll, predict the synthetic gradient at its end. arXiv:1608.05343, section 2.1."""

from collections.abc import Callable

from torch import Tensor, nn

from synthgrad.core.batch import Context
from synthgrad.core.synthesizers import Synthesizer
from synthgrad.core.synthesizers.contract import squared_distance

__all__ = ["Auxiliary"]


class Auxiliary(nn.Module):
    """A head that reads the state behind an unroll's first step and predicts the synthetic gradient at its end.

    The net learns from it as well: to tell early what will matter past the window, its state must hold that. The state
    is read behind the first step, not at the unroll's beginning, as no weight of this unroll has made that one.

    The target is the synthesizer's answer at the end, of the summed loss, not scaled, and taken as given; zero for a
    sequence that ends. The loss is the squared distance, summed over features, mean over sequences.

    Args:
        head: `head((S,))`, shaped as a synthesizer, with S in and S out.
        features: S.
        weight: of the task beside the unroll's loss; the paper's is 1.
    """

    def __init__(self, head: Callable[[tuple[int, ...]], Synthesizer], features: int, *, weight: float = 1.0) -> None:
        super().__init__()
        self.head = head((features,))
        self.weight = weight

    def forward(self, rows: Tensor, synthetic_grad: Tensor) -> Tensor:
        """The task's loss, a scalar, for the early state (B, S) and the synthetic gradient (B, S) at the end."""
        return squared_distance(self.head(rows, Context()), synthetic_grad) * (self.weight / len(rows))
