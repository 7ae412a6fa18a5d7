"""What makes synthetic gradients work in practice, each around any synthesizer, and around each other.

    Averaged      answers from a moving average of the weights that learn: a target that moves less
    Normalized    learns targets of size one, whatever their scale
    Clipped       bounds the answer for each example
    Replay        learns from remembered targets too, several times a step

    lambda shape: Replay(Averaged(LinearSynthesizer(shape, classes=10)))

Legend: B examples; `...` the rest of an activation's shape.
"""

import copy
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthgrad.core.batch import Context
from synthgrad.core.errors import SynthgradError
from synthgrad.core.synthesizers.contract import Answer, Feedback, Synthesizer

__all__ = ["Averaged", "Clipped", "Normalized", "Replay"]


class Wrapper(Synthesizer):
    """A synthesizer around another one, whose needs, feedback and checks are its own.

    Args:
        synthesizer: the one inside, an instance: a factory makes it from its shape, and wraps it.

    Raises:
        SynthgradError: given something else, say the class.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(synthesizer, Synthesizer):
            raise SynthgradError(
                f"{name}: got {synthesizer!r}, expected a synthesizer; wrap it where it is made, say "
                f"lambda shape: {name}(LinearSynthesizer(shape))"
            )
        self.inner = synthesizer
        self.needs, self.feedback, self.classes = synthesizer.needs, synthesizer.feedback, synthesizer.classes

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape (B, ...)."""
        return self.answer(activation, context).grad

    @abstractmethod
    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The synthetic gradient, with what else was predicted on the way to it."""

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """As the synthesizer inside, from its own answer."""
        inner = answer.inner or self.inner.answer(activation, context)
        return self.inner.learn(activation, inner, context, feedback)

    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        """As the synthesizer inside."""
        return self.inner.rehearse()

    def sums(self) -> Sequence[Tensor]:
        """As the synthesizer inside."""
        return self.inner.sums()

    def forget(self) -> None:
        """As the synthesizer inside."""
        self.inner.forget()

    def check(self, context: Context) -> None:
        """As the synthesizer inside."""
        self.inner.check(context)


class Averaged(Wrapper):
    """Answers from a moving average of the weights, and learns with the weights themselves: a target network.

    The average moves when a step's lessons are over, right behind the optimizer's step (or steps, with Replay inside;
    with Replay outside, behind each of them): mean <- decay * mean + (1 - decay) * weight. Buffers (BatchNorm's
    statistics) are copied. No optimizer trains the average; it is saved with the rest. The synthesizer runs a second
    time for its lesson.

    Marschall et al. 2020 (arXiv:1907.02649) copy the weights every few steps instead. Mnih et al. 2015,
    doi:10.1038/nature14236 (copies); Lillicrap et al. 2016, arXiv:1509.02971 (averages).

    Args:
        synthesizer: the one that learns.
        decay: the share of the average that stays; 0 answers as the synthesizer itself.

    Raises:
        SynthgradError: a decay below 0, or of 1 and more, with which nothing learned would be heard of.
    """

    def __init__(self, synthesizer: Synthesizer, decay: float = 0.9) -> None:
        super().__init__(synthesizer)
        self.decay = _share("Averaged: decay", decay)
        self.average = copy.deepcopy(synthesizer)
        for parameter in self.average.parameters():
            parameter.requires_grad = False  # so that no optimizer takes it, nor its weight decay

    @torch.no_grad()
    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The average's answer, a gradient (B, ...)."""
        return self.average.answer(activation, context)

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """As the synthesizer inside, from what it would have answered."""
        return self.inner.learn(activation, self.inner.answer(activation, context), context, feedback)

    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        """As the synthesizer inside; and when that is over, the average moves."""
        yield from self.inner.rehearse()
        self._move()

    @torch.no_grad()
    def _move(self) -> None:
        for mean, weight in zip(self.average.parameters(), self.inner.parameters(), strict=True):
            mean.lerp_(weight, 1 - self.decay)
        for held, buffer in zip(self.average.buffers(), self.inner.buffers(), strict=True):
            held.copy_(buffer)


class Normalized(Wrapper):
    """Divides the targets by their running root mean square, and multiplies the answers by it.

    So the synthesizer inside regresses to values of size one, and an answer is as large as the targets seen. The scale
    begins with the first target that is not zero; until then answers are zero. It moves with each lesson, before it:
    scale^2 <- momentum * scale^2 + (1 - momentum) * mean square. Hence the size of a normalized target is at most
    1 / sqrt(1 - momentum), and a batch in parts is not quite the batch. What is not finite does not move the scale.

    An optimizer whose steps do not depend on the scale of the loss (Adam) now takes steps that are smaller in the units
    of the gradient wherever that is small: give the synthesizers a higher learning rate (`synthesizer_optimizer`).

    The output and the loss that the synthesizer inside predicts are passed on as they are: a critic that learns from
    labels besides, without scale, is served ill.

    Args:
        synthesizer: the one that learns; the gradient must be its feedback.
        momentum: the share of the squared scale that stays.

    Raises:
        SynthgradError: the synthesizer learns from no gradient, or a momentum below 0, or of 1 and more.
    """

    scale: Tensor

    def __init__(self, synthesizer: Synthesizer, momentum: float = 0.99) -> None:
        super().__init__(synthesizer)
        if "gradient" not in synthesizer.feedback:
            raise SynthgradError(
                f"Normalized: got a {type(synthesizer).__name__} that learns from {sorted(synthesizer.feedback)}, "
                f"expected one that learns from the gradient: there is nothing else to normalize; leave it out"
            )
        self.momentum = _share("Normalized: momentum", momentum)
        self.register_buffer("scale", torch.zeros(()))

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The answer of the synthesizer inside, of size one, times the scale; a gradient (B, ...)."""
        inner = self.inner.answer(activation, context)
        return Answer(inner.grad.detach() * self.scale, inner.output, inner.loss, inner)

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """As the synthesizer inside, from the target divided by the scale."""
        if feedback.target_grad is not None:
            self._move(feedback.target_grad)
            divisor = torch.where(self.scale > 0, self.scale, torch.ones_like(self.scale))
            feedback = Feedback(feedback.target_grad / divisor, feedback.output)
        return super().learn(activation, answer, context, feedback)

    @torch.no_grad()
    def _move(self, target_grad: Tensor) -> None:
        """The root, not its square, is held: half precision would lose the squares of small gradients."""
        exact = torch.promote_types(target_grad.dtype, torch.float32)
        square, before = target_grad.to(exact).square().mean(), self.scale.to(exact).square()
        moved = torch.where(before > 0, torch.lerp(square, before, self.momentum), square)
        self.scale.copy_(torch.where(moved.isfinite(), moved, before).sqrt())


class Clipped(Wrapper):
    """Bounds the L2 norm of each example's synthetic gradient; direction, and shorter ones, are left as they are.

    The synthesizer inside learns from what it said, not from what was made of it.

    Args:
        synthesizer: the one that learns.
        norm: the bound, in units of the summed loss: it depends neither on the batch's size nor on its split.

    Raises:
        SynthgradError: the bound is not above 0.
    """

    def __init__(self, synthesizer: Synthesizer, norm: float) -> None:
        super().__init__(synthesizer)
        if not norm > 0:
            raise SynthgradError(f"Clipped: norm={norm}: expected a bound above 0; ZeroSynthesizer answers zero")
        self.norm = norm

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The answer of the synthesizer inside, no row of its gradient (B, ...) longer than the bound."""
        inner = self.inner.answer(activation, context)
        grad = inner.grad.detach()
        norms = torch.linalg.vector_norm(grad.flatten(1), dim=1)  # (B,)
        shares = (self.norm / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)  # NaN and inf stay bad
        clipped = grad * shares.view(-1, *[1] * (grad.dim() - 1))  # (B, 1, ...)
        return Answer(clipped, inner.output, inner.loss, inner)


class Pair(NamedTuple):
    """What a lesson was: an activation (B, ...), and what came back for it."""

    activation: Tensor
    context: Context
    feedback: Feedback


class Replay(Wrapper):
    """After each optimizer step, further ones, each on a pair of activation and target drawn from the latest.

    The synthesizer then keeps up better with a network that changes below its targets. Lin 1992,
    doi:10.1007/BF00992699, for reinforcement learning.

    A pair is what one lesson had: a microbatch. It is drawn with replacement, the present one among them, and the loss
    is the mean over its own examples. What follows the optimizer's step in the synthesizer inside follows each of these
    too.

    `memory` activations with their targets stay on the device. The state_dict holds them, as extra state, and where the
    draws stand. A move to another device or type drops them, and so does a step that was given up: its pair may be what
    was not finite.

    Args:
        synthesizer: the one that learns.
        lessons: how many further steps; with 0 it is the synthesizer itself.
        memory: how many of the latest pairs are held.
        seed: of the draws.

    Raises:
        SynthgradError: fewer lessons than 0, or no memory; or a synthesizer that adds up its lessons, which remembers.
    """

    def __init__(self, synthesizer: Synthesizer, lessons: int = 3, memory: int = 16, *, seed: int = 0) -> None:
        super().__init__(synthesizer)
        if lessons < 0 or memory < 1:
            raise SynthgradError(
                f"Replay: lessons={lessons}, memory={memory}: expected whole numbers of at least 0 and 1"
            )
        if synthesizer.sums():
            raise SynthgradError(
                f"Replay: got a {type(synthesizer).__name__}, which adds up its lessons and so remembers them all, "
                f"expected one that an optimizer teaches; leave Replay out"
            )
        self.lessons = lessons
        self._pairs: deque[Pair] = deque(maxlen=memory)
        self._draw = torch.Generator().manual_seed(seed)

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The answer of the synthesizer inside, a gradient (B, ...)."""
        return self.inner.answer(activation, context)

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """As the synthesizer inside, and remember of what."""
        loss = self.inner.learn(activation, answer, context, feedback)
        if loss is not None and self.lessons:
            self._remember(activation.detach(), context, feedback)
        return loss

    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        """As the synthesizer inside, now and after each further step."""
        yield from self.inner.rehearse()
        for _ in range(self.lessons if self._pairs else 0):
            place = torch.randint(len(self._pairs), (), generator=self._draw)
            activation, context, feedback = self._pairs[int(place)]
            context = replace(context)  # a new one: the one-hot labels that it works out shall not stay in memory
            loss = self.inner.learn(activation, self.inner.answer(activation, context), context, feedback)
            assert loss is not None  # it was none only where nothing was remembered
            yield loss, len(activation)
            yield from self.inner.rehearse()

    def forget(self) -> None:
        """Drop the pairs."""
        self._pairs.clear()
        self.inner.forget()

    def get_extra_state(self) -> dict[str, Any]:
        """The pairs, the oldest first, and where the draws stand: plain values and tensors."""
        pairs = [
            {field.name: getattr(part, field.name) for part in pair[1:] for field in fields(part)}
            for pair in self._pairs
        ]
        activations = [pair.activation for pair in self._pairs]
        return {"activations": activations, "pairs": pairs, "draw": self._draw.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Remember what was remembered there; where this memory is shorter, the latest of it."""
        device = next((weight.device for weight in self.parameters()), None)
        self._draw.set_state(state["draw"].cpu())
        self._pairs.clear()
        for activation, kept in zip(state["activations"], state["pairs"], strict=True):
            held = {name: None if value is None else value.to(device) for name, value in kept.items()}
            context = Context(held["labels"], held["index"], held["error"])
            self._pairs.append(Pair(activation.to(device), context, Feedback(held["target_grad"], held["output"])))

    def _remember(self, activation: Tensor, context: Context, feedback: Feedback) -> None:
        last = self._pairs[-1].activation if self._pairs else activation
        if (last.dtype, last.device) != (activation.dtype, activation.device):
            self._pairs.clear()
        given = (context.labels, context.index, context.error)
        copied = Context(*map(_copied, given))  # whoever loads batches may fill the same tensors anew each step
        self._pairs.append(Pair(activation, copied, feedback))


def _copied(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def _share(name: str, value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise SynthgradError(f"{name}={value}: expected a share from 0 to below 1")
    return value
