"""The critic: predicts the model's output, and derives the gradient from it.

Four methods of the literature are one idea here, and differ in what the critic learns from:

    labels        a loss of its own: local loss, decoupled greedy learning. Belilovsky et al. 2019, arXiv:1901.08164
    output        the output that the rest of the model makes: critic. Czarnecki et al. 2017, arXiv:1703.00522
    gradient      the gradient that comes back: a synthetic gradient that believes in the task's own loss, as
                  Czarnecki et al. 2017 advise, and not in a quadratic one, as a linear synthesizer does
    two of them   gradient and value: Sobolev training. Czarnecki et al. 2017, arXiv:1706.04859
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from synthgrad.core.batch import Context
from synthgrad.core.errors import ContextError, ShapeError, SynthgradError
from synthgrad.core.synthesizers.contract import Answer, Feedback, Synthesizer, derived, squared_distance
from synthgrad.core.synthesizers.heads import LinearHead, usual_head

__all__ = ["CriticSynthesizer"]

SOURCES = ("labels", "output", "gradient")
HeadFactory = Callable[[tuple[int, ...], int], nn.Module]
SummedLoss = Callable[[Tensor, Tensor], Tensor]


class CriticSynthesizer(Synthesizer):
    """d = dL(C(h), y) / dh, where the head C predicts the model's output and L is the task's loss.

    By what it learns from it is a local loss (Belilovsky et al. 2019, arXiv:1901.08164), a critic (Czarnecki et al.
    2017, arXiv:1703.00522), a synthetic gradient of a log-loss, or Sobolev training (arXiv:1706.04859).

    A row whose label is -100, as torch's losses have it for padding, has no loss: its synthetic gradient is zero, and
    it teaches nothing but, if the real output is learned from, that output. Other marks of padding become -100 in
    `labels=`: `labels=y.masked_fill(y == padding, -100)`.

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W).
        classes: the number of classes, so many outputs the head has; of a loss of your own, the number of outputs.
        learns: what it learns from, out of labels, output, gradient; see above.
        head: `head(shape, classes)`; `usual_head` if not given. It may hold blocks of its own.
        value: weight of the loss on labels or output beside that on the gradient.
        loss: `loss(output, labels)`, the task's loss summed over all its terms; cross-entropy of class indices (B,) or
            (B, T) if not given.

    Raises:
        SynthgradError: `learns` names something else, or nothing.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        classes: int,
        learns: Iterable[str] = ("labels", "gradient"),
        head: HeadFactory = usual_head,
        value: float = 1.0,
        loss: SummedLoss | None = None,
    ) -> None:
        super().__init__()
        self.learns = frozenset(learns)
        if not self.learns or not self.learns.issubset(SOURCES):
            raise SynthgradError(f"learns: got {sorted(self.learns)}, expected some of {', '.join(SOURCES)}")
        self.head = head(shape, classes)
        self.needs, self.feedback = frozenset({"labels"}), self.learns - {"labels"}
        self.classes = classes if loss is None else None
        self.task_loss, self.value = loss or _cross_entropy, value

    @property
    def _linear(self) -> LinearHead | None:
        """The head, if what autograd would find for it is written down below."""
        return self.head if isinstance(self.head, LinearHead) and self.task_loss is _cross_entropy else None

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape."""
        return self.answer(activation, context).grad

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The synthetic gradient, the output that it was derived from, and the loss there."""
        if self._linear is not None:
            return self._linear_answer(self._linear, activation, context)
        return derived(activation, lambda leaf: self.predict(leaf, context), twice="gradient" in self.learns)

    def predict(self, activation: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The output predicted from the activation, (B, O) or (B, T, O), and the task's loss there, summed, a scalar.

        Raises:
            ContextError: the head's output does not fit the loss with these labels.
        """
        output = self.head(activation)
        return output, self._loss(output, context)

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """The weighted sum of what it learns from; each part summed over features and terms.

        Raises:
            ShapeError: the real output has another shape than the one predicted.
        """
        assert answer.output is not None and answer.loss is not None
        target_grad = feedback.target_grad if "gradient" in self.learns else None
        real = feedback.output if "output" in self.learns else None
        if real is not None and real.shape != answer.output.shape:  # else it might be broadcast in silence
            raise ShapeError(
                f"{type(self).__name__}: got a real output of shape {tuple(real.shape)}, expected "
                f"{tuple(answer.output.shape)} as predicted; give classes= and head= that end as the model does"
            )
        if self._linear is not None:
            return self._linear_loss(self._linear, activation, answer, context, target_grad, real)
        parts: list[Tensor] = []
        if target_grad is not None:
            parts.append(squared_distance(answer.grad, target_grad))
        if "labels" in self.learns:
            parts.append(self.value * answer.loss)
        if real is not None:
            parts.append(self.value * self._distance(answer.output, real))
        return sum(parts[1:], parts[0]) if parts else None

    # ---- the linear head with cross-entropy: what autograd would find, in a quarter of its time ----------------------

    @torch.no_grad()
    def _linear_answer(self, head: LinearHead, activation: Tensor, context: Context) -> Answer:
        """Grad = (softmax(W h + b) - onehot(y)) W, zero for rows without a label; as output log-probabilities."""
        one_hot = self._one_hot(activation, context)  # (O, N)
        rows = activation.flatten(0, -2)  # (N, D)
        logits = torch.addmm(head.bias.unsqueeze(1), head.weight, rows.t())
        log_p = logits.log_softmax(0)  # (O, N): along this dimension it takes a tenth of the time
        grad = (log_p.exp() * _given(one_hot) - one_hot).t() @ head.weight
        loss = -torch.dot(one_hot.flatten(), log_p.flatten())
        return Answer(grad.view_as(activation), log_p.t().unflatten(0, activation.shape[:-1]), loss)

    def _linear_loss(
        self,
        head: LinearHead,
        activation: Tensor,
        answer: Answer,
        context: Context,
        target_grad: Tensor | None,
        real: Tensor | None,
    ) -> Tensor | None:
        assert answer.output is not None
        one_hot, log_p = self._one_hot(activation, context), answer.output.flatten(0, -2).t()
        told = "labels" in self.learns
        likely = None if real is None else real.flatten(0, -2).t().softmax(0)
        difference = None if target_grad is None else (answer.grad - target_grad).flatten(0, -2)
        if difference is None and likely is None and not told:
            return None
        parts = (activation.flatten(0, -2), log_p, one_hot, difference, likely)
        return _LinearCriticLoss.apply(head.weight, head.bias, *parts, told, self.value)

    def _one_hot(self, activation: Tensor, context: Context) -> Tensor:
        """The labels, (O, N) for activations of N rows; zeros where there is none."""
        assert self.classes is not None
        one_hot = context.one_hot(self.classes, activation.dtype)  # (B, O) or (B, T, O)
        if one_hot.shape[:-1] != activation.shape[:-1]:
            raise self._misfit(self.head(activation), context, "expected one label for each row")
        return one_hot.flatten(0, -2).t()

    def _loss(self, output: Tensor, context: Context) -> Tensor:
        assert context.labels is not None
        try:
            return self.task_loss(output, context.labels)
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._misfit(output, context, str(error)) from error

    def _misfit(self, output: Tensor, context: Context, why: str) -> ContextError:
        labels = None if context.labels is None else tuple(context.labels.shape)
        return ContextError(
            f"{type(self).__name__}: the head's output of shape {tuple(output.shape)} does not fit the loss with "
            f"labels of shape {labels}: {why}; give a head= that ends in one row for each label, or a loss= for both"
        )

    def _distance(self, output: Tensor, real: Tensor) -> Tensor:
        """Of predicted and real output: of logits, the cross-entropy of what they say; else squared."""
        if self.classes is None:
            return squared_distance(output, real)
        return -(real.softmax(-1) * output.log_softmax(-1)).sum()


def _given(one_hot: Tensor) -> Tensor:
    """Which rows have a label: (1, N) of ones, and zeros for the others."""
    return one_hot.sum(0, keepdim=True)


def _cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy of (B, classes) with (B,), or of (B, T, classes) with (B, T)."""
    if output.shape[:-1] != labels.shape:
        raise ValueError(f"expected labels of shape {tuple(output.shape[:-1])}")
    return functional.cross_entropy(output.flatten(0, -2), labels.flatten(), reduction="sum")


class _LinearCriticLoss(torch.autograd.Function):
    """|difference|^2 + value * (CE(one_hot, softmax(W h + b)) if told + CE(likely, softmax(W h + b)) if given).

    Where difference = (softmax(W h + b) - one_hot) W - target.

    The gradients are made at once: h and the rest are at hand now, and need not be held. Rows without a label are
    answered with zero whatever the weights, so their difference has no gradient.

    Shapes: weight (O, D), bias (O,), h (N, D), log_p and one_hot (O, N), difference (N, D) or None, likely (O, N) or
    None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,
        h: Tensor,
        log_p: Tensor,
        one_hot: Tensor,
        difference: Tensor | None,
        likely: Tensor | None,
        told: bool,
        value: float,
    ) -> Tensor:
        p, given, loss = log_p.exp(), _given(one_hot), log_p.new_zeros(())
        error = p * given - one_hot
        d_weight, d_logits = torch.zeros_like(weight), torch.zeros_like(p)
        if told:
            loss = loss - value * (one_hot * log_p).sum()
            d_logits = torch.add(d_logits, error, alpha=value)
        if likely is not None:
            loss = loss - value * (likely * log_p).sum()
            d_logits = torch.add(d_logits, p - likely, alpha=value)
        if difference is not None:
            loss = loss + torch.dot(difference.flatten(), difference.flatten())
            through = p * given * (weight @ difference.t())  # the softmax's Jacobian: diag(p) - p p^T
            d_logits = torch.add(d_logits, through - p * through.sum(0), alpha=2.0)
            d_weight = torch.addmm(d_weight, error, difference, alpha=2.0)
        ctx.save_for_backward(torch.addmm(d_weight, d_logits, h), d_logits.sum(1))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyrefly: ignore  (the decorator)
        (d_loss,) = grad_outputs
        d_weight, d_bias = ctx.saved_tensors
        return d_weight * d_loss, d_bias * d_loss, *[None] * 7
