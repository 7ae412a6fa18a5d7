"""A pupil: a synthesizer with its optimizer, asked now, and taught when it is known what the answer should have been.

Legend: B rows, one for each sequence, S features of a row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from synthgrad.core.batch import Context
from synthgrad.core.boundary import back_propagate, back_propagate_to, cut
from synthgrad.core.errors import ContextError, NumericalError, ShapeError, SynthgradError
from synthgrad.core.finite import flags_of
from synthgrad.core.learner import Learner, OptimizerFactory
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.synthesizers import Answer, Feedback, Synthesizer

__all__ = ["NOTHING", "Pupil", "SynthesizerFactory", "copied", "expect_finite"]

SynthesizerFactory = Callable[[tuple[int, ...]], Synthesizer]
NOTHING = Context()
"""Known besides the activation."""


class Pupil:
    """A synthesizer and what trains it, for a cut whose answers are judged later, or never.

    Args:
        synthesizer: `synthesizer((S,))`, a factory as in `decouple`.
        rows: a sample of what it will be asked about, (B, S).
        optimizer: `optimizer(parameters)`.
        through: lessons go on into what made the rows, see `teach`.

    Raises:
        ContextError: it needs the output's error, or learns from the output: in time there is none.
        ShapeError: its answer is not (B, S).
        SynthgradError: `through`, and nothing can go through it.
    """

    def __init__(
        self, synthesizer: SynthesizerFactory, rows: Tensor, optimizer: OptimizerFactory, *, through: bool = False
    ) -> None:
        self.synthesizer = synthesizer((rows.shape[1],)).to(rows.device, rows.dtype)
        self._through = through
        _expect_possible(self.synthesizer)
        self._tried = False
        if not self.synthesizer.needs:  # else the first context shows it
            self.try_out(rows, NOTHING)
        self._learner = Learner.of(self.synthesizer, optimizer)

    @property
    def learns_at_once(self) -> bool:
        """Whether it asks for no feedback: what it is told is all that it learns from."""
        return not self.synthesizer.feedback and bool(self._learner.parameters)

    def ask(self, activation: Tensor, context: Context) -> Answer:
        """What it says of rows (B, S) without a past; with a graph where it can learn from that at once."""
        with torch.set_grad_enabled(self.learns_at_once):
            return self.synthesizer.answer(activation, context)

    def teach(self, activation: Tensor, context: Context, feedback: Feedback, answer: Answer | None = None) -> Answer:
        """One lesson and what it is rehearsed with; gives the answer that it was about.

        Args:
            activation: the rows asked about, (B, S). With `through`, the gradient of the lesson's loss is accumulated
                in what made them, too: whoever updates that does so afterwards.
            context: what it was told besides.
            feedback: what came back.
            answer: what it said, with its graph, if no lesson has changed it since; else it is asked anew.

        Raises:
            NumericalError: target or answer is not finite; the synthesizer is as it was.
        """
        learner = self._learner
        with torch.enable_grad():
            answer = answer or self.synthesizer.answer(activation, context)
            loss = self.synthesizer.learn(activation, answer, context, feedback)
            if loss is not None:
                self._expect_finite(loss.detach(), "target of the synthesizer, or its answer,")
                learner.forget()
                loss = loss / len(activation)
                if self._through:
                    back_propagate(loss)
                else:
                    back_propagate_to(learner.parameters, loss, None, keep=False)
                learner.update()
            learner.rehearse(lambda loss: self._expect_finite(loss, "remembered target of the synthesizer"))
        return answer

    def check(self, context: Context, rows: int, *, asked: bool = True) -> None:
        """Whether a context will do, for so many rows; called before anything has changed.

        Args:
            context: what is to be told.
            rows: B.
            asked: whether the synthesizer will be asked at all, or what it needs is no matter.

        Raises:
            ContextError: a need of the synthesizer is missing, or out of range.
            ShapeError: it has not B rows.
        """
        for name, value in (("labels", context.labels), ("index", context.index)):
            if value is not None and (value.dim() == 0 or len(value) != rows):
                raise ShapeError(
                    f"context: got {name} of shape {tuple(value.shape)}, expected {rows} rows, one for each sequence"
                )
        if asked:
            self.synthesizer.check(context)

    def try_out(self, rows: Tensor, context: Context) -> None:
        """Whether it can take such rows, and what its answer's shape is; leaves it as it is. Once is enough."""
        if self._tried:
            return
        name, shape = type(self.synthesizer).__name__, tuple(rows.shape)
        remedy = f"build it from the shape that its factory is called with, ({shape[1]},)"
        leaf = cut(rows)
        try:
            with torch.set_grad_enabled(self._through), random_preserved([rows]):
                answer = call_preserved(self.synthesizer, leaf, context)
        except (RuntimeError, IndexError) as error:
            raise ShapeError(f"{name}: cannot take the rows of a state, of shape {shape}: {error}; {remedy}") from error
        if answer.shape != rows.shape:
            raise ShapeError(f"{name}: got an answer of shape {tuple(answer.shape)}, expected {shape}; {remedy}")
        if self._through:
            _expect_way_through(name, answer, leaf)
        self._tried = True

    def forget(self) -> None:
        """Drop what it keeps of earlier lessons. Weights and optimizer are left as they are."""
        self._learner.forget()
        self.synthesizer.forget()

    def _expect_finite(self, loss: Tensor, what: str) -> None:
        try:
            expect_finite([loss], lambda: what)
        except NumericalError:
            self.forget()
            raise


def copied(context: Context) -> Context:
    """The same, to be kept: the tensors are the caller's, who may write into them."""
    labels, index = (None if value is None else value.detach().clone() for value in (context.labels, context.index))
    return Context(labels, index)


def expect_finite(values: list[Tensor | None], cause: Callable[[], str]) -> None:
    """Raise `NumericalError` where a value is NaN or infinite; the device is waited for, once."""
    flags = flags_of(values)
    if flags and not bool(torch.stack(flags).isfinite().all()):
        raise NumericalError(
            f"recurrent net: {cause()} is not finite; look for a bad row in the chunk, or for a learning rate too "
            f"high, or a loss that is a mean of no terms",
            stage=0,
        )


def _expect_possible(synthesizer: Synthesizer) -> None:
    name = type(synthesizer).__name__
    if "output" in synthesizer.feedback:
        raise ContextError(
            f"{name} learns from the output, and a cut in time sends back none, only the gradient; take one that "
            f"learns from the gradient, from labels or both, say CriticSynthesizer(..., learns=('gradient',))"
        )
    if "error" in synthesizer.needs:
        raise ContextError(
            f"{name} needs the error of the output, and that of what is to come is not known at a cut in time; take "
            f"one that looks at the state, and at labels, if you have some"
        )


def _expect_way_through(name: str, answer: Tensor, leaf: Tensor) -> None:
    way = torch.autograd.grad(answer.sum(), leaf, allow_unused=True)[0] if answer.requires_grad else None
    if way is None:
        raise SynthgradError(
            f"into_core: {name} gives no gradient to the state that it looks at (a critic derives its answer from a "
            f"copy of it); take LinearSynthesizer or MLPSynthesizer, or leave into_core out"
        )
