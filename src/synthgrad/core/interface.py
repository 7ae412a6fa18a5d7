"""What stands at a cut in a training loop of one's own: forward it lets everything pass, backward it swaps gradients.

forward    h ---------------------------> h (a copy)
           |
           +-- detach -> synthesizer -> synthetic_grad

backward   synthetic_grad / count <------ swap <------ gradient of the mean loss
                                            |
           synthesizer <- gradient of its lesson: autograd trains it
"""

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from synthgrad.core.batch import Context
from synthgrad.core.errors import ShapeError, SynthgradError
from synthgrad.core.synthesizers.contract import Answer, Feedback, Synthesizer
from synthgrad.core.synthesizers.wrappers import Wrapper

__all__ = ["Interface", "context"]

NEVER_STEPPED = 500  # gradients without a step, after which it is told; more than anybody accumulates


@dataclass(frozen=True)
class Given:
    """What `context` says to the interfaces of a model.

    Attributes:
        context: for the synthesizers; None: nothing was said of it.
        count: the loss terms of the step's mean loss; None: as the interface was built with.
        rows: the examples of the step; likewise.
    """

    context: Context | None = None
    count: int | None = None
    rows: int | None = None


class Interface(nn.Module):
    """Decouples what comes before it from what comes after it, in a loop of your own. arXiv:1608.05343, section 2.

        self.cut = sg.Interface(sg.LinearSynthesizer((256,), classes=10))  # in the model's __init__
        h = self.cut(h)                                                    # in its forward
        with sg.context(model, labels=y):                                  # in the loop
            F.cross_entropy(model(x), y).backward()

    In the backward pass the layers below get the synthetic gradient, and the synthesizer, a part of the model, gets
    the gradient of its lesson: the one optimizer of the loop trains it with all the rest. The learning is that of
    `decouple` with `update_unlocked()`. There is no gain in time or memory: the backward pass still comes from the
    end of the model, and the synthesizer is extra work. For that gain there are `decouple` and several processes.

    In eval mode, and where no gradients are recorded, it is the identity: nothing is needed, gradients pass.

    It warns of loops that teach something else than is meant: `backward` twice through one forward pass, gradients of a
    step before that nobody has zeroed, eval mode while gradients wait for the optimizer, an optimizer that was made
    without the synthesizer's parameters. (Not where it is compiled.)

    The loss must be a mean, as usual. A synthesizer speaks of the sum, so the interface must know of how many terms:

        losses for examples        nothing to say: as many as the activation has rows
        losses for tokens          count=, the tokens that were counted
        gradient accumulation      rows=, the examples of all parts of the step, if each part's loss is its share of
                                   the step's mean; for tokens also count=, likewise

    With `DistributedDataParallel` each process speaks of its own mean. With activation checkpointing the layers run
    again in the backward pass: let it, too, stand inside `with sg.context(...)`. `torch.compile(fullgraph=True)` works
    with synthesizers that regress to the gradient; the range of labels is then not looked at. It cannot look into a
    `GradScaler`: with `scale=` compile the parts of the model before and behind.

    Not every synthesizer can be taught by a backward pass, which may change nothing but gradients. Those can that ask
    for no feedback, or whose lesson is the distance to the gradient (`learn` as in the contract); not those that learn
    from the output, remember, or go on learning when the optimizer has stepped. `decouple` takes them all.

    Args:
        synthesizer: built for the shape of the activation, without batch.
        count: the number of terms in the mean loss; `rows` if not given.
        rows: the number of examples in the step; those of the activation if not given.
        scale: `scale()`, what the loss is multiplied by before the backward pass: `scaler.get_scale` of a
            `torch.amp.GradScaler`. Needed in float16.

    Raises:
        SynthgradError: something else than a synthesizer, one that a backward pass cannot teach, a count below 1.

    >>> model = nn.Sequential(nn.Linear(4, 8), Interface(LinearSynthesizer((8,))), nn.Linear(8, 3))
    >>> nn.functional.cross_entropy(model(torch.randn(6, 4)), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        *,
        count: int | None = None,
        rows: int | None = None,
        scale: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(synthesizer, Synthesizer):
            raise SynthgradError(
                f"Interface: got {synthesizer!r}, expected a synthesizer; make it for the shape of the activation, say "
                f"Interface(LinearSynthesizer((256,)))"
            )
        _expect_teachable(synthesizer)
        _expect_counts(count, rows)
        self.synthesizer = synthesizer
        self.count, self.rows, self.scale = count, rows, scale
        self.given = Given()
        self._used: int | None = None  # the version of the synthesizer's weight for which a gradient last came
        self._in_vain = 0  # how many gradients have come for that version

    def forward(self, activation: Tensor, context: Tensor | Context | None = None) -> Tensor:
        """The activation (B, ...), as it is.

        Args:
            activation: (B, ...), floating.
            context: the labels, or all that the synthesizer may look at; before what `sg.context` says.

        Raises:
            ContextError: the synthesizer needs labels or an index, and they are missing or out of range.
            ShapeError: the activation is no floating tensor; the labels have not a row for each of its rows; the
                synthetic gradient is not of its shape.
            SynthgradError: float16 without `scale`.
        """
        if not (self.training and torch.is_grad_enabled()):
            if not torch.compiler.is_compiling():
                self._expect_nothing_pending(activation)
            return activation
        if not isinstance(activation, Tensor) or not activation.is_floating_point():
            got = activation.dtype if isinstance(activation, Tensor) else type(activation).__name__
            raise ShapeError(f"Interface: got {got}, expected a floating tensor (B, ...); call it on that alone")
        _expect_scale(self.scale, activation)
        seen = Context(labels=context) if isinstance(context, Tensor) else context or self.given.context or Context()
        answer = self._ask(activation.detach(), seen)
        lesson, loss = None, None
        if self.synthesizer.feedback:
            lesson = _innermost(answer).grad
        else:
            loss = self.synthesizer.learn(activation.detach(), answer, seen, Feedback())
        rows = self.given.rows or self.rows or len(activation)
        count = self.given.count or self.count or rows
        scale = 1.0 if self.scale is None else self.scale()
        watch = None if torch.compiler.is_compiling() else self._watch()
        return _Swap.apply(activation, answer.grad.detach(), lesson, loss, count / scale, scale / rows, watch)

    def _ask(self, activation: Tensor, seen: Context) -> Answer:
        synthesizer = self.synthesizer
        if not torch.compiler.is_compiling():  # looking at the labels would break the graph
            synthesizer.check(seen)
        if seen.labels is not None and len(seen.labels) != len(activation):
            raise ShapeError(
                f"Interface: got labels of shape {tuple(seen.labels.shape)} for an activation of "
                f"{tuple(activation.shape)}, expected one row of them for each of its {len(activation)}; give those of "
                f"this batch, or of the part of it that comes here: interface(h, context=...)"
            )
        answer = synthesizer.answer(activation, seen)
        if answer.grad.shape != activation.shape:
            raise ShapeError(
                f"Interface: got a synthetic gradient of shape {tuple(answer.grad.shape)}, expected "
                f"{tuple(activation.shape)} as the activation; build the {type(synthesizer).__name__} for "
                f"{tuple(activation.shape[1:])}"
            )
        return answer

    def _weight(self) -> nn.Parameter | None:
        """One of the synthesizer's, by which it is seen when the optimizer steps."""
        return next((weight for weight in self.synthesizer.parameters() if weight.requires_grad), None)

    def _watch(self) -> Callable[[], None]:
        """Called when the gradient comes back through this forward pass."""
        times = 0

        def watch() -> None:
            nonlocal times
            times += 1
            weight = self._weight()
            if times > 1:
                _warn(
                    "backward has come twice through one forward pass, so the synthetic gradient was sent, and the "
                    "synthesizer taught, twice; add the losses up, and call backward once"
                )
            elif weight is not None and self._used not in (None, weight._version) and _any(weight.grad):
                _warn(
                    "gradients are added to those that the optimizer has already used; call optimizer.zero_grad() "
                    "between two steps"
                )
            if weight is not None:
                self._in_vain = 1 + self._in_vain * (weight._version == self._used)
                if self._in_vain == NEVER_STEPPED:
                    _warn(
                        f"{NEVER_STEPPED} gradients have come for the synthesizer, and no optimizer has stepped on it, "
                        f"so what it sends to the layers below is not learned; make the optimizer from the parameters "
                        f"of the whole model, interfaces included"
                    )
            self._used = None if weight is None else weight._version

        return watch

    def _expect_nothing_pending(self, activation: Tensor) -> None:
        weight = self._weight() if self._used is not None and activation.requires_grad else None
        if weight is not None and torch.is_grad_enabled() and weight._version == self._used and _any(weight.grad):
            _warn(
                "it runs in eval mode, where gradients pass, while gradients of training wait for the optimizer; call "
                "train() before the forward pass, or look at the model between two steps"
            )

    def extra_repr(self) -> str:
        """What it was built with."""
        return f"count={self.count}, rows={self.rows}" + (", scaled" if self.scale else "")


@contextmanager
def context(
    model: nn.Module,
    *,
    labels: Tensor | None = None,
    index: Tensor | None = None,
    count: int | None = None,
    rows: int | None = None,
) -> Generator[None]:
    """Tell all interfaces of a model of the batch; on leaving, and on errors, it is as before.

    Args:
        model: holds them at any depth; it may be wrapped (compiled, data parallel).
        labels: (B,) or (B, T) class indices, or what the synthesizers ask for.
        index: (B,) each example's number in the data set.
        count: the terms of this step's mean loss; see `Interface`.
        rows: the examples of this step; likewise.

    Raises:
        SynthgradError: the model has no interface, or a count below 1.

    >>> with context(model, labels=torch.tensor([0, 2])):  # doctest: +SKIP
    ...     loss_function(model(x), y).backward()
    """
    interfaces = [module for module in model.modules() if isinstance(module, Interface)]
    if not interfaces:
        raise SynthgradError(
            f"context: {type(model).__name__} has no Interface; put one where it is to be cut, or use decouple"
        )
    _expect_counts(count, rows)
    before = [interface.given for interface in interfaces]
    given = Given(Context(labels, index), count, rows)
    try:
        for interface in interfaces:
            interface.given = given
        yield
    finally:
        for interface, restored in zip(interfaces, before, strict=True):
            interface.given = restored


class _Swap(torch.autograd.Function):
    """Identity; backward, the synthetic gradient goes up, and the gradients of the lesson to the synthesizer.

    Shapes: activation, synthetic_grad and lesson (B, ...); loss a scalar. `terms` is the number of loss terms in the
    gradient that comes back, `share` what a row's lesson weighs in the step's. `watch` is called before.
    """

    @staticmethod
    def forward(
        activation: Tensor,
        synthetic_grad: Tensor,
        lesson: Tensor | None,
        loss: Tensor | None,
        terms: float,
        share: float,
        watch: Callable[[], None] | None,
    ) -> Tensor:
        return activation.clone()  # what comes behind may write into it, and what is before may have saved it

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, synthetic_grad, lesson, loss, ctx.terms, ctx.share, ctx.watch = inputs
        ctx.loss = loss is not None
        ctx.save_for_backward(synthetic_grad, lesson)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyrefly: ignore  (the decorator)
        if ctx.watch is not None:
            ctx.watch()
        (received,) = grad_outputs
        synthetic_grad, lesson = ctx.saved_tensors
        exact = torch.promote_types(received.dtype, torch.float32)  # half precision would lose the sum's small terms
        sent = synthetic_grad.to(exact) / ctx.terms
        taught, of_loss = None, None
        if lesson is not None:
            distance = (received.to(exact) * ctx.terms).sub_(lesson)  # in one piece of memory: new ones cost more
            taught = distance.mul_(-2 * ctx.share).to(lesson.dtype)
        if ctx.loss:
            of_loss = received.new_full((), ctx.share, dtype=exact)
        return sent.to(received.dtype), None, taught, of_loss, None, None, None


# ---- what the loop does ----------------------------------------------------------------------------------------------


def _any(grad: Tensor | None) -> bool:
    return grad is not None and bool(grad.any())


def _warn(what: str) -> None:
    warnings.warn(f"Interface: {what}", UserWarning, stacklevel=2)


# ---- what cannot work ------------------------------------------------------------------------------------------------


def _innermost(answer: Answer) -> Answer:
    """What the synthesizer itself said, before wrappers around it changed that."""
    return answer if answer.inner is None else _innermost(answer.inner)


def _expect_teachable(synthesizer: Synthesizer) -> None:
    """Raise `SynthgradError` if a backward pass, which changes nothing but gradients, cannot teach the synthesizer."""
    inner = synthesizer
    while isinstance(inner, Wrapper) and _leaves(inner, Wrapper, "learn", "rehearse"):  # it passes lessons on
        inner = inner.inner
    name, why = type(inner).__name__, None
    if "error" in inner.needs:
        why = "needs the output's error, which nobody knows in the forward pass"
    elif "output" in inner.feedback:
        why = "learns from the model's output, which does not come back with a gradient"
    elif isinstance(inner, Wrapper) or inner.feedback and not _leaves(inner, Synthesizer, "learn"):
        why = "has a lesson of its own, other than the distance to the gradient"
    elif not _leaves(inner, Synthesizer, "rehearse"):
        why = "goes on learning when the optimizer has stepped, of which a backward pass knows nothing"
    if why is not None:
        raise SynthgradError(
            f"Interface: {name} {why}; use decouple, or a synthesizer that regresses to the gradient, say "
            f"LinearSynthesizer, or one that asks for no feedback, say CriticSynthesizer(..., learns=('labels',))"
        )


def _leaves(synthesizer: Synthesizer, base: type[Synthesizer], *methods: str) -> bool:
    """Whether the synthesizer leaves these methods as they are in the base class."""
    return all(getattr(type(synthesizer), method) is getattr(base, method) for method in methods)


def _expect_counts(count: int | None, rows: int | None) -> None:
    for name, value in (("count", count), ("rows", rows)):
        if value is not None and (isinstance(value, float) or value < 1):
            raise SynthgradError(f"{name}={value}: expected how many there are in the step, at least 1")


def _expect_scale(scale: Callable[[], float] | None, activation: Tensor) -> None:
    device = activation.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.float16
    if scale is None and (autocast or activation.dtype is torch.float16):
        raise SynthgradError(
            "Interface: runs in float16 without scale=, so it cannot know what the loss is multiplied by; give "
            "Interface(..., scale=scaler.get_scale) of the GradScaler (scale=lambda: 1.0 where there is none), or use "
            "bfloat16"
        )
