"""Synthesizers that learn nothing: the two ends of the scale, to measure the others by."""

from collections.abc import Callable

import torch
from torch import Tensor

from synthgrad.core.batch import Context
from synthgrad.core.synthesizers.contract import Synthesizer

__all__ = ["OracleSynthesizer", "ZeroSynthesizer"]


class ZeroSynthesizer(Synthesizer):
    """No gradient at all: with it only the last stage learns. The paper's "no back-propagation" baseline.

    Args:
        shape: of the activation; not used.
    """

    feedback = frozenset()

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """Zeros of the activation's shape."""
        return torch.zeros_like(activation)


class OracleSynthesizer(Synthesizer):
    """Knows the truth: asks a function for it. With it every decoupled schedule must equal back-propagation.

    Args:
        function: `function(activation, context)`, the gradient of the *summed* loss, of the activation's shape.
        needs: what it looks at besides the activation.
    """

    feedback = frozenset()

    def __init__(
        self, function: Callable[[Tensor, Context], Tensor], *, needs: frozenset[str] = frozenset({"labels"})
    ) -> None:
        super().__init__()
        self.function = function
        self.needs = needs

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The gradient that the function gives."""
        return self.function(activation, context)
