"""Does a synthesizer keep the contract? `check_synthesizer` looks; it is what our own are tested with.

Legend: B examples, T time steps; `shape` is an activation's without B.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from synthgrad.core.actions import Kind
from synthgrad.core.batch import Batch, Context, Gradient
from synthgrad.core.boundary import back_propagate
from synthgrad.core.errors import ContextError, ContractError, SynthgradError
from synthgrad.core.learner import Learner
from synthgrad.core.preserve import random_preserved
from synthgrad.core.stage import Passage, Stage
from synthgrad.core.synthesizers import Answer, Feedback, Synthesizer

__all__ = ["PROPERTIES", "Sample", "Subject", "check_synthesizer"]

CLOSE = {"rtol": 1e-5, "atol": 1e-4}  # kernels may block sums by size, and attention has two ways: the last bits only
LESSONS = 300  # in which half of a quadratic loss can be learned
SGD = partial(torch.optim.SGD, lr=0.0)
FIELDS = {"gradient": "target_grad", "output": "output"}


@dataclass(frozen=True)
class Sample:
    """What a synthesizer meets in a step: an activation (B, *shape), and all that there may be besides."""

    activation: Tensor
    context: Context
    feedback: Feedback

    def rows(self, which: slice) -> "Sample":
        """Some of the examples."""

        def some(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[which]

        context = Context(*map(some, (self.context.labels, self.context.index, self.context.error)))
        return Sample(self.activation[which], context, Feedback(*map(some, vars(self.feedback).values())))


@dataclass(frozen=True)
class Subject:
    """A kind of synthesizer, and what is known of it.

    Attributes:
        factory: called with the shape.
        shape: of the activation, without batch.
        classes: labels are drawn below.
        tokens: there is a label, an error and an output for each token of (T, D), not for each example.
        outputs: features of the model's output; `classes` if not given.
        examples: in the data set; the index is drawn below.
        starts_at_zero: its first answer is zero, as the paper advises.
        rows_apart: in eval mode a row's answer and lesson do not depend on the other rows of the batch.
        device: where it is tried.
    """

    factory: Callable[[tuple[int, ...]], Synthesizer]
    shape: tuple[int, ...]
    classes: int = 4
    tokens: bool = False
    outputs: int | None = None
    examples: int = 20
    starts_at_zero: bool = True
    rows_apart: bool = True
    device: str = "cpu"

    def make(self) -> Synthesizer:
        """A new one."""
        made = self.factory(self.shape)
        if not isinstance(made, Synthesizer):
            raise ContractError(
                f"the factory made a {type(made).__name__}, expected a synthesizer; derive your class from it"
            )
        return made.to(self.device)

    def stirred(self) -> Synthesizer:
        """One that is away from its start, so that its answers say something."""
        synthesizer = self.make()
        with torch.no_grad():
            for parameter in synthesizer.parameters():
                parameter.normal_(0, 0.3)
            for buffer in synthesizer.buffers():  # positive, as variances must be
                buffer.uniform_(0.5, 1.5) if buffer.is_floating_point() else None
        return synthesizer

    def sample(self, rows: int = 8) -> Sample:
        """A batch, drawn at random."""
        each = (rows, self.shape[0]) if self.tokens else (rows,)
        labels, index = torch.randint(0, self.classes, each), torch.randperm(self.examples)[:rows]
        outputs = self.outputs or self.classes
        drawn = torch.randn(rows, *self.shape), labels, index, torch.randn(*each, outputs)
        activation, labels, index, error = (value.to(self.device) for value in drawn)
        feedback = Feedback(torch.randn_like(activation), torch.randn_like(error))
        return Sample(activation, Context(labels, index, error), feedback)


def check_synthesizer(
    factory: Callable[[tuple[int, ...]], Synthesizer],
    *,
    shape: tuple[int, ...],
    classes: int = 4,
    seed: int = 0,
    **known: Any,
) -> None:
    """Try a synthesizer of your own on everything that the contract promises; silent if it keeps it.

    That are the `PROPERTIES`: shape, type and device of the answer, a start at zero, lessons that are sums over rows,
    honest `needs` and `feedback`, a whole `state_dict`, no gradient that leaks into the stage, and that it learns.

    Args:
        factory: `factory(shape)`, as for `decouple`.
        shape: of an activation, without batch: (D,), (T, D) or (C, H, W). Try each that it is made for.
        classes: labels are drawn from 0 to `classes` - 1.
        seed: of all that is drawn; the random state is left as it was.
        known: what else is known of it, see `Subject`: `tokens=True`, `starts_at_zero=False`, `rows_apart=False`, ...

    Raises:
        ContractError: names the property (`error.property`), and says what was got, what was expected, and the remedy.

    >>> from synthgrad import LinearSynthesizer
    >>> check_synthesizer(LinearSynthesizer, shape=(6,))
    """
    subject = Subject(factory, shape, classes, **known)
    for name, holds in PROPERTIES.items():
        with random_preserved([torch.empty(0, device=subject.device)]), torch.enable_grad():
            torch.manual_seed(seed)
            try:
                holds(subject)
            except ContractError as error:
                raise ContractError(f"{name}: {error}", property=name) from None
            except (SynthgradError, RuntimeError, LookupError, TypeError, ValueError, AssertionError) as error:
                raise ContractError(
                    f"{name}: raised {type(error).__name__}: {error}; expected that it takes an activation of shape "
                    f"(B, {', '.join(map(str, shape))}), any number of rows, with the context it declares in `needs`",
                    property=name,
                ) from error


# ---- what answers are ------------------------------------------------------------------------------------------------


def _answers_like_the_activation(subject: Subject) -> None:
    for rows in (2, 5):
        given, synthesizer = subject.sample(rows), subject.stirred()
        _expect_like(synthesizer(given.activation, given.context), given.activation)
        double = given.activation.double()
        _expect_like(synthesizer.double()(double, given.context), double)


def _expect_like(answer: Any, activation: Tensor) -> None:
    def described(value: Tensor) -> str:
        return f"{tuple(value.shape)}, {value.dtype}, {value.device}"

    got = described(answer) if isinstance(answer, Tensor) else type(answer).__name__
    if got != (expected := described(activation)):
        raise ContractError(
            f"got {got}, expected {expected} as the activation; end in a layer as wide as the factory's shape says, "
            f"and take type and device from the activation"
        )


def _answers_without_a_graph(subject: Subject) -> None:
    given, synthesizer = subject.sample(), subject.stirred()
    answer = synthesizer.answer(given.activation, given.context)
    with torch.no_grad():
        bare = synthesizer.answer(given.activation, given.context)
    if any(value.requires_grad for value in bare if isinstance(value, Tensor)):
        raise ContractError("got a graph where gradients are off; leave the grad mode as you find it, or detach")
    _expect_close(bare.grad, answer.grad, "the same answer without gradients as with", "compute both in one way")


def _starts_at_zero(subject: Subject) -> None:
    synthesizer, given = subject.make(), subject.sample()
    if not subject.starts_at_zero or not _trainable(synthesizer):
        return
    largest = synthesizer(given.activation, given.context).abs().max().item()
    if largest:
        raise ContractError(
            f"got a first answer of up to {largest:.2g}, expected exactly zero (arXiv:1608.05343 starts so); zero the "
            f"weight and bias of the last layer, or say starts_at_zero=False"
        )


def _layout_does_not_matter(subject: Subject) -> None:
    given, synthesizer = subject.sample(), subject.stirred()
    other = given.activation.transpose(0, -1).contiguous().transpose(0, -1)
    if len(subject.shape) == 3:
        other = given.activation.to(memory_format=torch.channels_last)
    expected = synthesizer.eval()(given.activation, given.context)
    wanted, remedy = "the same answer however the activation lies in memory", "use reshape or flatten, not view"
    _expect_close(synthesizer(other, given.context), expected, wanted, remedy)


# ---- what lessons are ------------------------------------------------------------------------------------------------


def _a_lesson_is_a_sum_over_rows(subject: Subject) -> None:
    given, synthesizer = subject.sample(), subject.stirred().eval()
    loss = _lesson(synthesizer, given)
    if loss is not None and loss.dim() > 0:
        raise ContractError(f"learn: got a loss of shape {tuple(loss.shape)}, expected a scalar, the sum over all rows")
    if loss is None or not _regresses(synthesizer):
        return
    answer, target = torch.randn_like(given.activation), torch.randn_like(given.activation)
    loss = synthesizer.learn(given.activation, Answer(answer), given.context, Feedback(target))
    assert loss is not None
    _expect_close(loss, (answer - target).square().sum(), "the summed squared distance", "leave learn as it is")


def _rows_stand_alone(subject: Subject) -> None:
    if not subject.rows_apart:
        return
    given, synthesizer = subject.sample(), subject.stirred().eval()
    parts = [given.rows(slice(0, 3)), given.rows(slice(3, 8))]
    whole = synthesizer(given.activation, given.context)
    split = torch.cat([synthesizer(part.activation, part.context) for part in parts])
    remedy = "sum over examples, never average or mix them, or say rows_apart=False"
    _expect_close(split, whole, "of two parts of a batch the answers of the whole", remedy)
    for ours, theirs in zip(_learned(synthesizer, *parts), _learned(synthesizer, given), strict=True):
        _expect_close(ours, theirs, "from two parts of a batch the lesson of the whole", remedy)


def _needs_are_honest(subject: Subject) -> None:
    given, synthesizer = subject.sample(), subject.stirred().eval()
    answer = synthesizer(given.activation, given.context)
    limits = {"labels": subject.classes, "index": subject.examples, "error": 10}
    for need, limit in limits.items():
        without = replace(given.context, **{need: None})
        if need not in synthesizer.needs:
            synthesizer.check(without)
            _expect_close(synthesizer(given.activation, without), answer, f"no use of {need}", f"add {need!r} to needs")
            continue
        _expect_refusal(synthesizer, given.activation, without, need)
        other = replace(given.context, **{need: (getattr(given.context, need) + 1) % limit})
        if torch.equal(synthesizer(given.activation, other), answer):
            raise ContractError(f"got the same answer with other {need}, expected another; take {need!r} out of needs")


def _expect_refusal(synthesizer: Synthesizer, activation: Tensor, without: Context, need: str) -> None:
    try:
        synthesizer.check(without)  # the error is no part of the batch: it is missed when it is asked for
        synthesizer(activation, without)
    except ContextError:
        return
    raise ContractError(f"needs {need}, got none and did not raise ContextError; let check call the one of Synthesizer")


def _feedback_is_honest(subject: Subject) -> None:
    given, synthesizer = subject.sample(), subject.stirred().eval()
    usual = _learned(synthesizer, given)
    for asked, field in FIELDS.items():
        value = getattr(given.feedback, field)
        for other in (value + torch.randn_like(value), None):
            changed = _learned(synthesizer, replace(given, feedback=replace(given.feedback, **{field: other})))
            same = all(torch.equal(a, b) for a, b in zip(changed, usual, strict=True))
            if same == (asked in synthesizer.feedback):
                got, remedy = ("none", "take it out of") if same else ("some", "add it to")
                raise ContractError(f"got {got} of the lesson from the {asked}, expected else; {remedy} feedback")


def _learns(subject: Subject) -> None:
    """A regression: from a quadratic loss |h - v_y|^2 / 2, whose gradient is linear in h, for the labels it sees."""
    given, synthesizer = subject.sample(), subject.make()
    if not _trainable(synthesizer):
        return
    if _regresses(synthesizer):
        labels = given.context.labels
        assert labels is not None
        centers = labels.to(given.activation.dtype) if "labels" in synthesizer.needs else torch.ones_like(labels)
        centers = centers.reshape(*labels.shape, *[1] * (given.activation.dim() - labels.dim()))
        given = replace(given, feedback=replace(given.feedback, target_grad=given.activation - centers))
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=0.03)
    losses: list[float] = []
    wanted = 0.5 if _regresses(synthesizer) else 0.98  # its sources may contradict each other
    while len(losses) <= LESSONS and not (losses and losses[-1] < wanted * losses[0]):
        loss = _lesson(synthesizer, given)
        if loss is None or not loss.requires_grad:
            raise ContractError("learn: got no loss with a graph, expected one: there are weights; keep their graph")
        losses.append(loss.item())
        optimizer.zero_grad()
        back_propagate(loss / len(given.activation))
        optimizer.step()
    if idle := [name for name, p in synthesizer.named_parameters() if p.requires_grad and p.grad is None]:
        raise ContractError(f"got no gradient for {idle[0]!r}, expected one for each weight; use it, or freeze it")
    if not losses[-1] < wanted * losses[0]:
        raise ContractError(
            f"got a loss of {losses[-1]:.3g} after {LESSONS} lessons on one batch, from {losses[0]:.3g}, expected less "
            f"than {wanted:.0%} of it; look whether zero answers mean zero gradients for ever"
        )


# ---- what it is as a module, and in a stage --------------------------------------------------------------------------


def _a_state_dict_carries_everything(subject: Subject) -> None:
    given, synthesizer = subject.sample(), subject.stirred()
    synthesizer(given.activation, given.context)  # moves BatchNorm's statistics, where there is one
    other = subject.make()
    other.load_state_dict(synthesizer.state_dict(), strict=True)
    arguments = given.activation, given.context
    wanted, remedy = "the answer of the one that was saved", "register what it knows as a buffer or parameter"
    _expect_close(other.eval()(*arguments), synthesizer.eval()(*arguments), wanted, remedy)
    for ours, theirs in zip(_learned(other, given), _learned(synthesizer, given), strict=True):
        _expect_close(ours, theirs, "the lesson of the one that was saved", remedy)


class _Piece(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, inputs: tuple[Any, ...], received: Tensor | None) -> Tensor:
        return torch.tanh(inputs[0] * self.weight)


def _in_a_stage_no_gradient_leaks(subject: Subject) -> None:
    for recompute in (False, True):
        given, piece = subject.sample(), _Piece(subject.shape).to(subject.device)
        synthesizer = subject.stirred()
        stage = Stage(0, "cut", Learner.of(piece, SGD), synthesizer=Learner.of(synthesizer, SGD), recompute=recompute)
        rows, count = len(given.activation), 3
        batch = Batch((given.activation,), None, given.context, rows, rows, count)
        passage = Passage(batch, 0, set(map(Kind, "FSTU")))
        activation = stage.F(passage)
        assert activation is not None
        answer = copy.deepcopy(synthesizer)(activation, given.context).detach()
        output = piece((given.activation,), None)
        (expected,) = torch.autograd.grad(output, piece.weight, answer / count)
        stage.S(passage)
        got = piece.weight.grad
        assert got is not None
        remedy = "leave the activation's graph alone: detach what you take gradients of"
        _expect_close(got, expected, "the answer, and nothing else, below the cut", remedy)
        before, feedback = got.clone(), given.feedback
        assert feedback.target_grad is not None
        stage.T(passage, Gradient(feedback.target_grad, count, feedback.output) if synthesizer.feedback else None)
        if not torch.equal(got, before) or activation.requires_grad:
            raise ContractError(f"got a gradient below the cut from a lesson, expected none; {remedy}")


# ---- tools -----------------------------------------------------------------------------------------------------------


def _learned(synthesizer: Synthesizer, *parts: Sample) -> list[Tensor]:
    """What the lessons of one step would change: the gradients of its weights, and what it remembers."""
    synthesizer = copy.deepcopy(synthesizer)
    for given in parts:
        loss = _lesson(synthesizer, given)
        if loss is not None and loss.requires_grad:
            back_propagate(loss)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in synthesizer.parameters()]
    return [*gradients, *(buffer for buffer in synthesizer.buffers() if buffer.is_floating_point())]


def _lesson(synthesizer: Synthesizer, given: Sample) -> Tensor | None:
    answer = synthesizer.answer(given.activation, given.context)
    return synthesizer.learn(given.activation, answer, given.context, given.feedback)


def _trainable(synthesizer: Synthesizer) -> list[nn.Parameter]:
    return [parameter for parameter in synthesizer.parameters() if parameter.requires_grad]


def _regresses(synthesizer: Synthesizer) -> bool:
    return type(synthesizer).learn is Synthesizer.learn and "gradient" in synthesizer.feedback


def _expect_close(got: Tensor, expected: Tensor, wanted: str, remedy: str) -> None:
    if got.shape != expected.shape or not torch.allclose(got, expected, **CLOSE):
        off = f"up to {(got - expected).abs().max().item():.2g}" if got.shape == expected.shape else "another shape"
        raise ContractError(f"got a difference of {off}, expected {wanted}; {remedy}")


PROPERTIES: dict[str, Callable[[Subject], None]] = {
    "an answer is like the activation": _answers_like_the_activation,
    "an answer without a graph is the same": _answers_without_a_graph,
    "the first answer is zero": _starts_at_zero,
    "memory layout does not matter": _layout_does_not_matter,
    "a lesson is a sum over rows": _a_lesson_is_a_sum_over_rows,
    "rows stand alone": _rows_stand_alone,
    "needs are honest": _needs_are_honest,
    "feedback is honest": _feedback_is_honest,
    "it learns": _learns,
    "a state_dict carries everything": _a_state_dict_carries_everything,
    "in a stage no gradient leaks": _in_a_stage_no_gradient_leaks,
}
