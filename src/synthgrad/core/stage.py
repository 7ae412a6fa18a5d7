"""A stage: a piece of the model with its own optimizer. Its methods are the letters of a schedule."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.actions import Action, Kind
from synthgrad.core.agreement import Agreement, agree
from synthgrad.core.batch import Batch, Gradient, Loss
from synthgrad.core.boundary import back_propagate, back_propagate_to, cut
from synthgrad.core.draws import Draws
from synthgrad.core.errors import NumericalError
from synthgrad.core.finite import all_finite, flags_of
from synthgrad.core.learner import Learner
from synthgrad.core.plan import BACKWARD, Declaration
from synthgrad.core.preserve import call_preserved
from synthgrad.core.synthesizers import Answer, Feedback, InputSynthesizer, Synthesizer

__all__ = ["Passage", "Stage"]


@dataclass
class Passage:
    """One microbatch on its way through one stage: what is held for the actions still to come, and no longer.

    Attributes:
        batch: the microbatch; every stage has it.
        step: the step to which it belongs.
        left: what the stage has still to do with it.
        number: of the microbatch, counted from the start of the run.
        ends_step: whether it is the last microbatch of its step.
        sends_gradient: whether anybody waits for the gradient of the stage's input.
        sends_error: whether anybody waits for the output's error (last stage).
        inputs: the leaf at which the stage's graph begins.
        output: with its graph, until it has been back-propagated through; at the last stage, the share of the loss.
        activation: the output's values, for the synthesizer.
        answer: of the synthesizer, with its graph, where T will find the synthesizer as S left it.
        predicted_input: likewise, of the input synthesizer, for Q.
        received: the gradient that I has used and W will.
        model_output: the model's output as far as it is known here, where anybody learns from that.
    """

    batch: Batch
    step: int
    left: set[Kind]
    number: int = 0
    ends_step: bool = True
    sends_gradient: bool = True
    sends_error: bool = False
    inputs: Tensor | None = None
    output: Tensor | None = None
    activation: Tensor | None = None
    answer: Answer | None = None
    predicted_input: Tensor | None = None
    received: Tensor | None = None
    model_output: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Passage":
        """What carries a graph is left out: the lesson finds it again."""
        kept = {name: value for name, value in vars(self).items() if name not in ("answer", "predicted_input")}
        return Passage(**copy.deepcopy(kept, memo))


class Stage:
    """A piece of the model that can learn on its own.

    Args:
        index: its place in the chain.
        name: for people: the cut at its end, or `output`.
        piece: called with (batch inputs, received activation or None).
        synthesizer: predicts the gradient of the stage's output; None: the stage waits for the real one.
        input_synthesizer: predicts the stage's input; None: the stage learns on the real one.
        loss: of the last stage only.
        mixing: λ of `B`, which injects (1-λ)·synthetic + λ·received. arXiv:1608.05343, appendix A (its BP(λ)).
        recompute: T runs the synthesizer again instead of finding what S held for it: less memory, more time.
        tells_output: send the model's output back with the gradient: a synthesizer before learns from it.
        seed: of the random numbers that are drawn here; see `Draws`.
    """

    def __init__(
        self,
        index: int,
        name: str,
        piece: Learner,
        *,
        synthesizer: Learner | None = None,
        input_synthesizer: Learner | None = None,
        loss: Loss | None = None,
        mixing: float = 1.0,
        recompute: bool = False,
        tells_output: bool = False,
        seed: int = 0,
    ) -> None:
        self.index = index
        self.name = name
        self.piece = piece
        self.synthesizer = synthesizer
        self.input_synthesizer = input_synthesizer
        self.loss = loss
        self.mixing = mixing
        self.recompute = recompute
        self.tells_output = tells_output
        self.draws = Draws(seed, index)
        self.passages: dict[int, Passage] = {}
        self.losses: list[Tensor] = []  # shares of the mean loss since they were last taken; last stage only
        self.agreements: list[Agreement] = []  # since they were last taken
        self.suspects: list[Tensor] = []  # flags not yet read, where reading one would stall the device

    @property
    def declaration(self) -> Declaration:
        """What the plan needs to know of the stage."""
        synthesizer: Synthesizer | None = self.synthesizer.module if self.synthesizer else None
        if synthesizer is None:
            return Declaration(False, feedback=frozenset(), input_synthesizer=self.input_synthesizer is not None)
        return Declaration(True, synthesizer.needs, synthesizer.feedback, self.input_synthesizer is not None)

    @property
    def learners(self) -> list[Learner]:
        """All that learns here: the piece, the synthesizer, the input synthesizer."""
        return [learner for learner in (self.piece, self.synthesizer, self.input_synthesizer) if learner is not None]

    def do(self, action: Action, *received: Any) -> Any:
        """Carry out an action with what it waited for; returns what others wait for. Frees what is no longer needed."""
        passage = self.passages[action.microbatch]
        with self.draws.of(action.kind.value, action.microbatch):
            product = getattr(self, action.kind.value)(passage, *received)
        passage.left.discard(action.kind)
        if not passage.left:
            del self.passages[action.microbatch]
        return product

    def abandon(self) -> None:
        """Drop all that is under way, accumulated gradients included; weights and optimizers are left as they are."""
        for held in (self.passages, self.losses, self.agreements, self.suspects):
            held.clear()
        for learner in self.learners:
            learner.forget()
        if self.synthesizer is not None:
            self.synthesizer.module.forget()

    def follow(self, move: Callable[[Tensor], Tensor]) -> None:
        """Take along what is held for later where the modules have been moved, to another device or type."""
        for learner in self.learners:
            learner.follow()
        for passage in self.passages.values():
            passage.answer = passage.predicted_input = None  # their graphs are of the weights as they lay before
            passage.activation = None if passage.activation is None else move(passage.activation)
            inputs = pytree.tree_map_only(Tensor, move, passage.batch.inputs)
            passage.batch = replace(passage.batch, inputs=inputs)

    # ---- forward -----------------------------------------------------------------------------------------------------

    def F(self, passage: Passage, activation: Tensor | None = None) -> Tensor | None:
        """Run forward on the real input; with an input synthesizer at hand, without gradients."""
        learns = self.input_synthesizer is None and not passage.left.isdisjoint(BACKWARD)
        inputs = None if activation is None else cut(activation, differentiable=learns and passage.sends_gradient)
        with torch.set_grad_enabled(learns):
            output = self.piece.module(passage.batch.inputs, inputs)
            if self.loss is None:
                product = output.detach()
            else:
                product = self.loss.error(output, passage.batch) if passage.sends_error else None
                passage.model_output = output.detach() if self.tells_output else None
                output = self.loss(output, passage.batch)
                self.losses.append(output.detach())
        if self.input_synthesizer is None:
            self._hold(passage, inputs, output)
        return product

    def P(self, passage: Passage) -> None:
        """Run forward on a predicted input; the piece's buffers (BatchNorm's statistics) are left to F."""
        with torch.set_grad_enabled(self._keeps(passage, Kind.Q)):
            predicted = self._predict(passage)
        passage.predicted_input = predicted if self._keeps(passage, Kind.Q) else None
        inputs = cut(predicted, differentiable=passage.sends_gradient)
        output = call_preserved(self.piece.module, passage.batch.inputs, inputs)
        if self.loss is not None:
            passage.model_output = output.detach() if self.tells_output else None
            output = self.loss(output, passage.batch)
        self._hold(passage, inputs, output)

    def _hold(self, passage: Passage, inputs: Tensor | None, output: Tensor) -> None:
        passage.activation = output.detach()
        if not passage.left.isdisjoint(BACKWARD):
            passage.inputs, passage.output = inputs, output

    # ---- backward ----------------------------------------------------------------------------------------------------

    def S(self, passage: Passage, error: Tensor | None = None) -> Gradient | None:
        """Ask the synthesizer, inject its answer, back-propagate through the piece."""
        if error is not None:
            passage.batch = replace(passage.batch, context=replace(passage.batch.context, error=error))
        return self._back_propagate(passage, self._synthesize(passage))

    def B(self, passage: Passage, received: Gradient | None = None) -> Gradient | None:
        """Back-propagate the received gradient through the piece; the last stage, that of the loss."""
        return self._back_propagate(passage, self._mixed(passage, received))

    def I(self, passage: Passage, received: Gradient | None = None) -> Gradient | None:  # noqa: E743
        """The first half of B: the gradient of the input alone."""
        assert passage.output is not None
        passage.received = self._mixed(passage, received)
        leaves = [passage.inputs] if passage.inputs is not None else []
        back_propagate_to(leaves, passage.output, passage.received, keep=True)
        return self._sent_back(passage, passage.output, passage.received)

    def W(self, passage: Passage) -> None:
        """The second half of B: the gradients of the piece's own parameters."""
        assert passage.output is not None
        output, received = passage.output, passage.received
        back_propagate_to(self.piece.parameters, output, received, keep=False)
        passage.output = passage.received = None
        self._sent_back(passage, output, received)

    def _synthesize(self, passage: Passage) -> Tensor:
        """The synthetic gradient of the step's mean loss, ready to be injected."""
        assert passage.activation is not None
        keeps = self._keeps(passage, Kind.T)
        with torch.set_grad_enabled(keeps):
            answer = self._answer(passage)
        passage.answer = answer if keeps else None
        if self.tells_output and answer.output is not None:
            passage.model_output = answer.output.detach()
        return answer.grad.detach().to(passage.activation.dtype) / passage.batch.count

    def _mixed(self, passage: Passage, received: Gradient | None) -> Tensor | None:
        if received is None:
            return None
        values = received.values
        if self.mixing < 1.0:
            synthetic_grad = self._synthesize(passage)
            values = torch.lerp(synthetic_grad, values, self.mixing) if self.mixing else synthetic_grad
        if self.tells_output and received.output is not None:
            passage.model_output = received.output  # nearer to the truth than what the synthesizer here predicts
        return values

    def _back_propagate(self, passage: Passage, gradient: Tensor | None) -> Gradient | None:
        assert passage.output is not None
        output, passage.output = passage.output, None
        if Kind.T not in passage.left:
            passage.activation = None
        back_propagate(output, gradient)
        return self._sent_back(passage, output, gradient)

    def _sent_back(self, passage: Passage, output: Tensor, gradient: Tensor | None) -> Gradient | None:
        """The gradient of the input, for the stage before; first a look at all gradients that have been made."""

        def cause() -> str:
            if not all_finite(output.detach()):
                return "loss" if gradient is None else "activation"
            return "gradient made in its backward pass" if gradient is None or all_finite(gradient) else "gradient"

        leaf, passage.inputs = passage.inputs, None
        values = leaf.grad if leaf is not None else None
        gradients = [parameter.grad for parameter in self.piece.parameters]
        self._expect_finite([output.detach(), values, *gradients], cause)
        if leaf is None or not passage.sends_gradient:
            return None
        values = torch.zeros_like(leaf) if values is None else values
        return Gradient(values, passage.batch.count, passage.model_output)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def T(self, passage: Passage, received: Gradient | None = None) -> None:
        """Teach the synthesizer, as it is now, on the held activation; the step's last T takes its optimizer steps."""
        assert self.synthesizer is not None and passage.activation is not None
        synthesizer: Synthesizer = self.synthesizer.module
        activation, answer = passage.activation, passage.answer
        context = passage.batch.context.on(activation.device)
        if "error" in synthesizer.needs and context.error is None and self.synthesizer.optimizer is None:
            return  # no S has brought the error that it would answer with; and there is nothing to teach
        if answer is None:
            answer = self._answer(passage)
        feedback = Feedback()
        if received is not None:
            output = None if received.output is None else received.output.to(activation.device)
            feedback = Feedback(received.values * received.count, output)
        loss = synthesizer.learn(activation, answer, context, feedback)
        if loss is not None:
            self._teach(self.synthesizer, loss, passage, "target of the synthesizer, or its answer,")
        if feedback.target_grad is not None:
            self.agreements.append(agree(answer.grad.detach(), feedback.target_grad))
        if passage.ends_step:
            self._rehearse(self.synthesizer)

    def Q(self, passage: Passage, real: Tensor) -> None:
        """Teach the input synthesizer from the real input; the step's last Q takes its optimizer step."""
        assert self.input_synthesizer is not None
        predictor: InputSynthesizer = self.input_synthesizer.module
        predicted = passage.predicted_input
        if predicted is None:
            predicted = self._predict(passage)
        self._teach(self.input_synthesizer, predictor.loss(predicted, real), passage, "input, or the one predicted,")

    def U(self, passage: Passage) -> None:
        """One optimizer step from all gradients accumulated since the last one."""
        self.piece.update()

    def _teach(self, learner: Learner, loss: Tensor, passage: Passage, wrong: str) -> None:
        """Accumulate from a loss summed over the examples here; the mean is over those of the whole step."""
        self._expect_finite([loss.detach()], lambda: wrong)
        back_propagate(loss / passage.batch.step_rows)
        if passage.ends_step:
            learner.update()

    def _rehearse(self, synthesizer: Learner) -> None:
        """Take the further optimizer steps that the synthesizer asks for; the graphs kept for this step are used up."""
        wrong = "remembered target of the synthesizer, or its answer to it,"
        synthesizer.rehearse(lambda loss: self._expect_finite([loss], lambda: wrong))

    def _keeps(self, passage: Passage, lesson: Kind) -> bool:
        """Whether the graph of a prediction made now can serve the lesson, so that the synthesizer runs only once.

        It can where no earlier step's lesson is still to come: then the lesson finds the weights unchanged.
        """
        behind = (other for other in self.passages.values() if other.step < passage.step)
        return not self.recompute and lesson in passage.left and not any(lesson in other.left for other in behind)

    def _answer(self, passage: Passage) -> Answer:
        """The synthesizer's; asked twice, as when T recomputes what S was told, with the same random numbers."""
        assert self.synthesizer is not None and passage.activation is not None
        context = passage.batch.context.on(passage.activation.device)
        with self.draws.of("answer", passage.number):
            return self.synthesizer.module.answer(passage.activation, context)

    def _predict(self, passage: Passage) -> Tensor:
        """The stage's input, as the input synthesizer predicts it; asked twice, with the same random numbers."""
        assert self.input_synthesizer is not None
        with self.draws.of("prediction", passage.number):
            return self.input_synthesizer.module(*passage.batch.inputs)

    # ---- faults ------------------------------------------------------------------------------------------------------

    def _expect_finite(self, values: Iterable[Tensor | None], cause: Callable[[], str]) -> None:
        """Look for NaN and infinity in what has just been made, before anything is updated with it.

        A bad injected gradient need not be looked at: the gradients made from it are products with it.
        """
        flags = flags_of(values)
        if not flags:
            return
        if _would_stall(flags[0].device):
            self.suspects.append(torch.stack(flags).sum())
        elif not all(math.isfinite(flag.item()) for flag in flags):
            raise self.fault(cause())

    def fault(self, what: str) -> NumericalError:
        """The error that says what is not finite here."""
        return NumericalError(
            f"stage {self.index} ({self.name}): {what} is not finite; look for a bad row in the batch, or for a "
            f"learning rate too high",
            stage=self.index,
        )


def _would_stall(device: torch.device) -> bool:
    """Whether to read a number from the device now would make it wait."""
    return device.type != "cpu"
