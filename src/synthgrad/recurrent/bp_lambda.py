"""BP(lambda): synthetic gradients of a recurrent net learned online, by eligibility traces, without going back in time.

    delta = (dL_t/dh_t + gamma M(h_t)) J_t - M(h_{t-1})       what is now known better of the gradient at h_{t-1}
    e     = gamma lambda J_{t-1} e + dM(h_{t-1})/dphi         whom it concerns: all earlier predictions
    phi  += alpha mean_batch(delta e)
    w    -= eta (dL_t/dh_t + scale M(h_t)) dh_t/dw            the net: from this step alone

Pemberton and Costa 2024, arXiv:2401.07044 (TMLR). Not the mixing of received and synthetic gradients over depth.

Legend: B sequences, S features of the whole state h_t (h and c of an LSTM), R terms of the trace.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synthgrad.core.batch import Context, Loss
from synthgrad.core.errors import SynthgradError
from synthgrad.core.learner import OptimizerFactory
from synthgrad.core.synthesizers import Answer, Feedback, LinearSynthesizer
from synthgrad.core.synthesizers.wrappers import Wrapper
from synthgrad.recurrent.eligibility import Trace
from synthgrad.recurrent.jacobian import Jacobian, expect_known, jacobian_of
from synthgrad.recurrent.state import State
from synthgrad.recurrent.truncated import TruncatedBPTT

__all__ = ["Traced", "bp_lambda"]


def bp_lambda(
    module: nn.Module,
    *,
    lambda_: float,
    loss: Callable[[Any, Any], Tensor] | Loss,
    optimizer: OptimizerFactory,
    gamma: float = 1.0,
    scale: float | None = None,
    head: nn.Module | None = None,
    synthesizer_optimizer: OptimizerFactory | None = None,
    clip: float | None = None,
    batch_first: bool | None = None,
) -> TruncatedBPTT:
    """A recurrent net that learns at each step, and never goes back in time: BP(lambda), arXiv:2401.07044.

    It is `TruncatedBPTT` with an unroll of one step, whose linear synthesizer learns by an eligibility trace: what a
    step tells of the gradient at the state before it reaches all earlier predictions of the sequence, too. At lambda 0
    it is synthetic gradients with unrolls of one step; at lambda 1 (and gamma 1) the synthesizer learns from the
    gradient that back-propagation through the whole sequence would give, without its memory. A chunk is walked through
    step by step, with an update at each.

    What it costs: in principle the trace, S x S x (S + 1) numbers for each sequence, goes through the Jacobian at each
    step, S^4 multiplications. It is only asked for its product with delta, so the last S steps are held apart and the
    rest is moved once in S steps: 3 S^3 a step in the mean, and R S^2 for sequences of no more than R <= S steps. The
    memory does not grow with the sequences.

    M(h_{t-1}) is what the synthesizer says now; in the authors' code, what it had said when it was asked.

    Args:
        module: `nn.RNN` or `nn.LSTM`, of one layer and one direction, or one of their cells.
        lambda_: from 0 to 1, how far a lesson reaches back.
        loss: as of `TruncatedBPTT`.
        optimizer: likewise.
        gamma: what a synthetic gradient is multiplied by in the target of the one before: a discount for each step.
        scale: what it is multiplied by where the net learns from it; gamma if not given. The agreement that `step`
            tells is with the target that has this scale in the place of gamma.
        head: as of `TruncatedBPTT`.
        synthesizer_optimizer: likewise.
        clip: likewise.
        batch_first: likewise.

    Raises:
        SynthgradError: lambda or gamma is out of range, or of another module the Jacobian is not known.

    >>> net = bp_lambda(nn.LSTM(3, 8), lambda_=0.9, gamma=0.9, loss=nn.functional.mse_loss, optimizer=torch.optim.Adam)
    >>> net.step(torch.randn(12, 5, 3), target=torch.randn(12, 5, 8)).loss.shape
    torch.Size([])
    """
    expect_known(module)
    for name, value in (("lambda_", lambda_), ("gamma", gamma)):
        if not 0.0 <= value <= 1.0:
            raise SynthgradError(f"bp_lambda: {name}={value}: expected 0 to 1")
    scale = gamma if scale is None else scale
    bptt = TruncatedBPTT(
        module,
        unroll=1,
        loss=loss,
        optimizer=optimizer,
        head=head,
        synthesizer=lambda shape: Traced(LinearSynthesizer(shape), gamma * lambda_, gamma - scale),
        synthesizer_optimizer=synthesizer_optimizer,
        scale=scale,
        clip=clip,
        batch_first=batch_first,
    )
    bptt.follow = _follow
    return bptt


def _follow(bptt: TruncatedBPTT, inputs: Any, before: State | None, after: State, ends: Tensor | None) -> None:
    traced = bptt.cut.synthesizer
    assert isinstance(traced, Traced)
    if before is None:
        traced.begin(ends)
    else:
        rows = bptt.cut.layout.rows(after).detach()
        traced.follow(jacobian_of(bptt.plain, inputs, before, after), rows, ends)


class _Step(NamedTuple):
    """A step, until its lesson.

    Attributes:
        jacobian: of the state behind it with respect to the one before.
        links: (B,), 0 for sequences that begin or end with it: between these two states nothing passes; else 1.
        left_out: of the target, (B, S), or None.
    """

    jacobian: Jacobian
    links: Tensor
    left_out: Tensor | None


class Traced(Wrapper):
    """A linear synthesizer whose lessons reach back: it is told of each step's Jacobian before the lesson of that step.

    Args:
        synthesizer: the one that learns.
        decay: gamma times lambda.
        more: gamma less scale: what the cut leaves out of the target of the synthetic gradient behind the step.
    """

    def __init__(self, synthesizer: LinearSynthesizer, decay: float, more: float) -> None:
        super().__init__(synthesizer)
        self.trace = Trace(decay)
        self.more = more
        self._step: _Step | None = None
        self._ended: Tensor | None = None  # (B,), at the step before

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """As the synthesizer inside."""
        return self.inner.answer(activation, context)

    def begin(self, ends: Tensor | None) -> None:
        """All sequences began with the step that was just made: what was before is of no concern to them."""
        self.forget()
        self._ended = None if ends is None else ends.clone()

    @torch.no_grad()
    def follow(self, jacobian: Jacobian, after: Tensor, ends: Tensor | None) -> None:
        """The step that was just made.

        Args:
            jacobian: of the state behind it with respect to the one before.
            after: the state behind it, (B, S).
            ends: (B,), the sequences that end there.
        """
        if self._step is not None:  # the lesson of the step before did not take place
            self.trace.clear()
        links = after.new_ones(len(after))
        for broken in (self._ended, ends):
            links = links if broken is None else links.masked_fill(broken.to(links.device), 0.0)
        left_out = None
        if self.more:
            ahead = self.inner(after, Context()) * (self.more * links).unsqueeze(1)
            left_out = jacobian.pulled(ahead.unsqueeze(1)).squeeze(1)
        self._step, self._ended = _Step(jacobian, links, left_out), None if ends is None else ends.clone()

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """A loss with the gradient of the squared distance, at this state and at those that the trace knows."""
        target, step = feedback.target_grad, self._step
        if target is None:
            return None
        with torch.no_grad():
            if step is not None and step.left_out is not None:
                target = target + step.left_out
            self.trace.see(activation)
            reached = self.trace.reached(target - answer.grad)  # (S, S + 1)
            if step is None:
                self.trace.clear()
            else:
                self.trace.move(step.jacobian, step.links)
        self._step = None
        assert isinstance(self.inner, LinearSynthesizer)
        up = self.inner.up
        weights = torch.cat([up.weight, up.bias.unsqueeze(1)], 1)
        return -2 * (weights * reached).sum()

    def forget(self) -> None:
        """Drop the trace, and what the synthesizer inside keeps."""
        self.trace.clear()
        self._step = self._ended = None
        self.inner.forget()
