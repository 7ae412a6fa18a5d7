"""What every synthesizer is, and no engine knows more about.

Legend: B examples, T time steps, D features, C channels, H height, W width; `shape` is an activation's without B.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from synthgrad.core.batch import Context
from synthgrad.core.boundary import cut, gradient_at
from synthgrad.core.errors import ContextError

__all__ = ["Answer", "Feedback", "InputSynthesizer", "Synthesizer"]


class Answer(NamedTuple):
    """What a synthesizer says of an activation.

    Attributes:
        grad: the synthetic gradient of the summed loss, of the activation's shape (B, ...).
        output: the model's output as it predicts it, where the gradient was derived from such a prediction.
        loss: the loss whose gradient that is, summed, a scalar: the task's at that output, or a local loss of its own.
        inner: where one synthesizer is wrapped around another and changed its answer: the answer that was changed.
    """

    grad: Tensor
    output: Tensor | None = None
    loss: Tensor | None = None
    inner: "Answer | None" = None


@dataclass(frozen=True)
class Feedback:
    """What the next stage has sent back; nothing, for a synthesizer that asks for nothing.

    Attributes:
        target_grad: gradient of the *summed* loss with respect to the activation, shape (B, ...). True where the next
            stage knew the truth, bootstrapped where it used a synthetic gradient of its own.
        output: the model's output: true from the last stage, else as the next stage's synthesizer predicts it; None
            where that one predicts none.
    """

    target_grad: Tensor | None = None
    output: Tensor | None = None


class Synthesizer(nn.Module, ABC):
    """Predicts, for each row of an activation, the gradient of the summed loss. arXiv:1608.05343, section 2.

    A subclass writes `forward`, and declares what differs from the defaults below; one that predicts more than a
    gradient writes `answer`. It is built by a factory that is called with the shape of the activation at its cut,
    without the batch dimension.

    Attributes:
        needs: what it looks at besides the activation, out of `labels`, `index`, `error`.
        feedback: what it learns from that the next stage must send, out of `gradient`, `output`; or nothing.
        classes: how many classes there are, where the labels it needs are class indices.
    """

    needs: frozenset[str] = frozenset()
    feedback: frozenset[str] = frozenset({"gradient"})
    classes: int | None = None

    @abstractmethod
    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape (B, ...)."""

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The synthetic gradient, with what else was predicted on the way to it."""
        return Answer(self(activation, context))

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """Learn from what came back: the loss that the optimizer shall minimize, a scalar; None if there is none.

        One without a graph is looked at, whether it is finite, and no more.

        By default the squared L2 distance to the target. Summed over features and examples, never averaged: the mean
        over the examples of the step is taken outside, so that the parts of a batch add up to the batch.
        """
        return None if feedback.target_grad is None else squared_distance(answer.grad, feedback.target_grad)

    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        """What follows a step's lessons and the optimizer's step: the losses of further ones; by default none.

        Each loss is summed over examples as in `learn`, and comes with their number; the mean is taken outside. The
        next one is asked for when the optimizer has stepped from the last one: a generator goes on from there.
        """
        return iter(())

    def sums(self) -> Sequence[Tensor]:
        """What the lessons since the last `rehearse` have added up, to be added up over replicas before the next one.

        For who learns without an optimizer, whose gradients are added up anyhow; by default nothing.
        """
        return ()

    def forget(self) -> None:
        """Drop what is kept of earlier lessons: a step was given up, and they may be at fault. By default nothing."""

    def check(self, context: Context) -> None:
        """Raise `ContextError` if a declared need is missing or out of range; called before anything has changed."""
        name = type(self).__name__
        if self.classes is not None:
            context.class_labels(self.classes, name)
        for need in self.needs - {"error"}:  # the error is made by the last stage, when its forward pass is done
            if getattr(context, need) is None:
                raise ContextError(f"{name} needs {need}, got none; pass {need}= with one row for each example")


class InputSynthesizer(nn.Module, ABC):
    """Predicts a stage's input from the batch, for the complete unlock. arXiv:1608.05343, section 2."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """The predicted activation (B, ...), from the model's own inputs."""

    def loss(self, predicted: Tensor, real: Tensor) -> Tensor:
        """The squared L2 distance of predicted and real input (B, ...), summed over features and examples, a scalar."""
        return squared_distance(predicted, real)


class LabelBias(nn.Module):
    """Adds a learned vector for each class: W [h; onehot(y)] = W_h h + W_y[y]. Without classes it adds nothing.

    Args:
        classes: number of classes, or None.
        features: length of the vector.
    """

    def __init__(self, classes: int | None, features: int) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.randn(classes, features)) if classes else None
        self.needs = frozenset({"labels"}) if classes else frozenset()

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Labels (B,) for hidden (B, D), (B, T, D) or (B, C, H, W); or (B, T), one for each token, for (B, T, D)."""
        if self.weight is None or self.classes is None:
            return hidden
        one_hot = one_hot_for(hidden, context, self.classes, self.weight.dtype)
        if hidden.dim() == 2:
            return torch.addmm(hidden, one_hot, self.weight)  # one matrix product; to look up and add takes longer
        bias = one_hot @ self.weight  # (B, D), (B, T, D) or (B, C)
        if hidden.dim() == 4:
            return hidden + bias[:, :, None, None]
        return hidden + (bias.unsqueeze(1) if bias.dim() < hidden.dim() else bias)


def one_hot_for(hidden: Tensor, context: Context, classes: int, dtype: torch.dtype) -> Tensor:
    """The labels as rows of zeros with a one, (B, classes), or (B, T, classes) for hidden (B, T, D).

    Raises:
        ContextError: there is not one for each example, nor one for each token.
    """
    one_hot = context.one_hot(classes, dtype)
    labels, rows = one_hot.shape[:-1], hidden.shape[:-1]
    if len(labels) > 1 and (hidden.dim() == 4 or labels != rows):
        raise ContextError(
            f"got labels of shape {tuple(labels)} for an activation of {tuple(rows)} rows, expected one for each "
            f"example or one for each token; pass such labels=, or classes=None"
        )
    return one_hot


def derived(activation: Tensor, predict: Callable[[Tensor], tuple[Tensor, Tensor]], *, twice: bool) -> Answer:
    """The answer of a synthesizer with a loss of its own: that loss's gradient. The activation's graph is left alone.

    Args:
        activation: (B, ...).
        predict: `predict(activation)`, the output predicted from it, and the summed loss, a scalar.
        twice: make the gradient differentiable in its turn, for who learns from it.
    """
    keep = torch.is_grad_enabled()
    twice = keep and twice
    plain = sdpa_kernel(SDPBackend.MATH) if twice else nullcontext()  # fused attention has no second derivative
    with torch.enable_grad(), plain:
        leaf = cut(activation)
        output, loss = predict(leaf)
        grad = gradient_at(leaf, loss, keep=keep, differentiable=twice)
    return Answer(grad, output, loss) if keep else Answer(grad.detach(), output.detach(), loss.detach())


def squared_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """The squared L2 distance, a scalar. Holds the difference alone for its backward pass, not both of its sides."""
    return _SquaredDistance.apply(prediction, target)[0]


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    def forward(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        difference = (prediction - target).flatten()
        return torch.dot(difference, difference), difference

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return (difference * (2 * grads[0])).view(ctx.shape), None


def row_features(shape: tuple[int, ...]) -> int:
    """The size of a row: the last dimension of (D,) and (T, D), where a row is a token; all of (C, H, W)."""
    return shape[-1] if len(shape) <= 2 else math.prod(shape)


def as_rows(activation: Tensor) -> Tensor:
    """(B, D) and (B, T, D) as they are; (B, C, H, W) as (B, C*H*W)."""
    return activation if activation.dim() <= 3 else activation.flatten(1)


def start_at_zero(*layers: nn.Module) -> None:
    """Zero the weights and biases of the layers that reach the output: the first synthetic gradient is then zero."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
