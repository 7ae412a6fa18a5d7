"""Similarity matching: a local loss that wants examples of one class to look alike, and others not."""

import torch
from torch import Tensor, nn

from synthgrad.core.batch import Context
from synthgrad.core.errors import SynthgradError
from synthgrad.core.synthesizers.contract import Answer, Feedback, Synthesizer, derived, squared_distance
from synthgrad.core.synthesizers.critic import CriticSynthesizer, HeadFactory
from synthgrad.core.synthesizers.heads import linear_head

__all__ = ["SimilaritySynthesizer"]

FEW = 3  # so many channels are compared by all their values: a row of so few standard deviations says too little
NO_LENGTH = 1e-8  # a row this short has no direction: it is like no other, and gets no gradient


class SimilaritySynthesizer(Synthesizer):
    """The gradient of a local loss, "predsim". Noekland and Eidnes 2019, arXiv:1901.06656, section 2.

        (1 - similarity) * CE(C(h), y)  +  similarity * |S(q(h)) - S(onehot(y))|_F^2 / B

    C is a head that predicts the labels, as a critic's that learns from labels; q a linear map to as many features, or
    a 3x3 convolution to as many channels; S holds the cosine of every row with every other, each row less its own mean.
    A map's row is the standard deviations of its channels over space, as in the authors' code. A token of (T, D) is
    compared with those in the same place of the other examples: T matrices of B x B, not one of (B*T) x (B*T). With one
    label for each example (and a head for that), all tokens of an example are one row.

    The cross-entropy is summed over rows. The squared Frobenius norm sums over all pairs; divided by B it leaves each
    row the mean over its partners, and so grows as a sum over rows does. This is B times the loss of the authors' code,
    which averages both; hence their weight, 0.99, means here what it means there.

    It looks at the other examples of the batch: a batch in parts is not the batch, and a row alone has nobody to
    resemble. It asks for no feedback, and does not start at zero.

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W).
        classes: the number of classes, so many outputs the head has.
        head: `head(shape, classes)`; a linear one if not given.
        similarity: weight of the similarity matching; what is left to 1 is that of the prediction.

    Raises:
        SynthgradError: the weight is not between 0 and 1.
    """

    needs = frozenset({"labels"})
    feedback = frozenset()

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        classes: int,
        head: HeadFactory = linear_head,
        similarity: float = 0.99,
    ) -> None:
        super().__init__()
        if not 0.0 <= similarity <= 1.0:
            raise SynthgradError(f"similarity={similarity}: expected a weight from 0 (prediction alone) to 1 (none)")
        self.classes, self.similarity = classes, similarity
        self.critic = CriticSynthesizer(shape, classes=classes, learns=("labels",), head=head)
        width = shape[0] if len(shape) == 3 else shape[-1]
        self.projection = (
            nn.Conv2d(width, width, 3, padding=1, bias=False)
            if len(shape) == 3
            else nn.Linear(width, width, bias=False)
        )

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape."""
        return self.answer(activation, context).grad

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The synthetic gradient, the output that the head predicts, and the local loss."""

        def predict(leaf: Tensor) -> tuple[Tensor, Tensor]:
            output, loss = self.critic.predict(leaf, context)
            return output, torch.lerp(loss, self._mismatch(leaf, context), self.similarity)

        return derived(activation, predict, twice=False)

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """The local loss itself, summed over rows."""
        return answer.loss

    def _mismatch(self, activation: Tensor, context: Context) -> Tensor:
        """|S(q(h)) - S(onehot(y))|_F^2 / B, a scalar."""
        assert self.classes is not None
        one_hot = context.one_hot(self.classes, activation.dtype)  # (B, V) or (B, T, V)
        rows = self._rows(self.projection(activation), labels=one_hot.dim() - 1)
        rows = rows * one_hot.sum(-1, keepdim=True)  # a row without a label is not compared
        return squared_distance(_cosines(rows), _cosines(one_hot)) / len(activation)

    def _rows(self, features: Tensor, *, labels: int) -> Tensor:
        """What is compared, (B, D) or (B, T, D): a row for each label, of which an example has one or T."""
        if features.dim() == 4 and features.shape[1] > FEW and features[0, 0].numel() > 1:
            return features.flatten(2).std(2)  # (B, C)
        return features.flatten(labels)


def _cosines(rows: Tensor) -> Tensor:
    """Of every row with every other, each less its own mean: (B, D) to (B, B), or (B, T, D) to (T, B, B)."""
    centered = rows - rows.mean(-1, keepdim=True)
    length = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
    unit = torch.where(length > NO_LENGTH, centered / length.clamp_min(NO_LENGTH), torch.zeros_like(centered))
    unit = unit if unit.dim() == 2 else unit.transpose(0, 1)
    return unit @ unit.transpose(-1, -2)
