"""Stale gradients: what came back when this very example was last seen."""

import torch
from torch import Tensor

from synthgrad.core.batch import Context
from synthgrad.core.errors import ContextError, SynthgradError
from synthgrad.core.synthesizers.contract import Answer, Feedback, Synthesizer

__all__ = ["StaleSynthesizer"]


class StaleSynthesizer(Synthesizer):
    """Remembers, for every example, the last target gradient; zero for an example never seen.

    True gradients, late, as in Huo et al. 2018 (arXiv:1804.10574); there by a few steps, which weights and activations
    are kept back for, here by a pass through the data, in which both have moved on. It asks which example a row is
    (`net.step(..., index=)`), and has no weights: nothing for an optimizer.

    The table takes examples * prod(shape) * itemsize bytes, and one more for each example; the state_dict holds it, and
    `probe` makes a copy. 60,000 examples of 256 features in float32 are 61 MB.

    Args:
        shape: of the activation, without batch.
        examples: how many there are in the data set; `index` counts from 0.
        decay: remember a moving average: decay * remembered + (1 - decay) * target, from the second visit on.

    Raises:
        SynthgradError: decay is not from 0 to below 1, or examples below 1.
    """

    needs = frozenset({"index"})
    table: Tensor  # (examples, *shape)
    seen: Tensor  # (examples,)

    def __init__(self, shape: tuple[int, ...], *, examples: int, decay: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise SynthgradError(f"decay={decay}: expected 0 (the last gradient alone) or more, and less than 1")
        if examples < 1:
            raise SynthgradError(f"examples={examples}: expected the size of the data set, at least 1")
        self.decay = decay
        self.register_buffer("table", torch.zeros(examples, *shape))
        self.register_buffer("seen", torch.zeros(examples, dtype=torch.bool))

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape: a copy of the table's rows."""
        assert context.index is not None
        return self.table[context.index]

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """Write down what came back. There is no loss: None. Of an example twice in the batch, one of both is kept."""
        index, target = context.index, feedback.target_grad
        if index is None or target is None:
            return None
        target = target.detach().to(self.table.dtype)
        if self.decay:
            first = ~self.seen[index].view(-1, *[1] * (target.dim() - 1))  # (B, 1, ...)
            target = torch.where(first, target, torch.lerp(target, self.table[index], self.decay))
        self.table[index], self.seen[index] = target, True
        return None

    def check(self, context: Context) -> None:
        """Raise `ContextError` if the index is missing, is no row of whole numbers, or lies outside the table."""
        super().check(context)
        index, examples, who = context.index, len(self.table), type(self).__name__
        assert index is not None
        if index.dtype != torch.int64 or index.dim() != 1:
            raise ContextError(
                f"{who}: got an index of type {index.dtype} and shape {tuple(index.shape)}, expected int64 and (B,); "
                f"pass index= with each example's number in the data set"
            )
        if index.device.type == "cpu" and index.numel():  # elsewhere looking would stall the device
            low, high = map(int, index.aminmax())
            if low < 0 or high >= examples:
                raise ContextError(
                    f"{who}: got an index from {low} to {high}, expected 0 to {examples - 1}; give examples= the size "
                    f"of the data set, and number its examples from 0"
                )
