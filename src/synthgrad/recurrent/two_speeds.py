"""Two recurrent nets at two speeds: one ticks at every step, the other once in a period; neither waits for the other.

    step      1 2 .. T | T+1 .. 2T | ...
    fast      o-o-...-o--o- ... -o---        reports, and is updated, every T steps
                      |          |  message --- cut: a synthetic gradient comes back at once
    slow      --------o----------o---        reports every T^2 steps, say

Without the cut the fast net could not be updated before the slow one's report is judged. Jaderberg et al. 2016,
arXiv:1608.05343, section 3.2 (of the version of 2017).

Legend: T steps of a period, B sequences, M features of a message.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from synthgrad.core.boundary import back_propagate
from synthgrad.core.errors import ShapeError, StateError
from synthgrad.core.learner import Learner, OptimizerFactory
from synthgrad.recurrent.cut import SynthesizerFactory, TimeCut, expect_finite
from synthgrad.recurrent.state import State, map_state
from synthgrad.recurrent.walk import Walk

__all__ = ["Report", "TwoSpeeds"]


class Report(NamedTuple):
    """What a period gave; no graph.

    Attributes:
        fast: what the fast net says, (B, ...).
        slow: what the slow net says, (B, ...).
        loss: of the fast net's report, a scalar.
        slow_loss: of the slow net's; None where none was asked for.
    """

    fast: Tensor
    slow: Tensor
    loss: Tensor
    slow_loss: Tensor | None


class _Side:
    """One of the two nets, with its read-out, its optimizer, and the cut of its own state behind each period."""

    def __init__(self, net: nn.Module, head: nn.Module, cut: TimeCut, optimizer: OptimizerFactory) -> None:
        self.walk, self.head, self.cut = Walk(net), head, cut
        self.learner = Learner.of(nn.ModuleList([net, head]), optimizer)
        self.state: State | None = None

    def run(self, chunk: Tensor) -> tuple[Tensor, State]:
        """The output at the chunk's last step, (B, ...), and the state there."""
        self.learner.forget()
        self.state = self.cut.open(self.state)
        outputs, state = self.walk(chunk, self.state)
        return outputs[-1], state

    def learn(self, total: Tensor, state: State, who: str) -> None:
        """One update; the state is carried on."""
        back_propagate(total)
        grads = [parameter.grad for parameter in self.learner.parameters]
        expect_finite([total.detach(), *grads], lambda: f"loss or gradient of the {who} net")
        self.cut.learn()
        self.learner.update()
        self.state = map_state(Tensor.detach, state)


class TwoSpeeds(nn.Module):
    """Trains a fast and a slow net on one stream, each updated once in a period of the fast one.

    The message is the fast net's output at the last step of a period; the slow net ticks once on it. What that is worth
    to the slow net the `messages` cut predicts, and the fast net learns from it at once, beside its own loss. What
    comes back from the slow net's tick is that synthesizer's lesson, at the next period. Both nets' states are cut
    behind each period, likewise: the slow net's, too, for its report may be periods away.

    Args:
        fast: `nn.LSTM`, `nn.GRU`, `nn.RNN`, a cell, or any `(chunk (T, B, ...), state) -> (outputs, state)`.
        slow: likewise, on messages (1, B, M).
        fast_head: from the fast net's output to its report.
        slow_head: from the slow net's.
        loss: `loss(report, target)`, a mean over sequences, of both.
        optimizer: `optimizer(parameters)`, called for each net.
        synthesizer: `synthesizer((features,))`, for the messages and the two states.
        sample: a chunk, (T, B, ...).
        synthesizer_optimizer: as `optimizer`, for each synthesizer; `optimizer` if not given.
        scale: of the synthetic gradient of messages where it is injected; 0: the fast net never hears of the slow one.

    Raises:
        StateError: a net keeps a state of its own; see `TruncatedBPTT`.
    """

    def __init__(
        self,
        fast: nn.Module,
        slow: nn.Module,
        *,
        fast_head: nn.Module,
        slow_head: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: OptimizerFactory,
        synthesizer: SynthesizerFactory,
        sample: Tensor,
        synthesizer_optimizer: OptimizerFactory | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({"fast": fast, "slow": slow, "fast_head": fast_head, "slow_head": slow_head})
        with torch.no_grad():
            message = Walk(fast)(sample, None)[0][-1]
        states = Walk(fast).state_of(sample, None), Walk(slow).state_of(message.unsqueeze(0), None)
        learn = synthesizer_optimizer or optimizer
        own = [TimeCut(synthesizer, state, optimizer=learn) for state in states]
        self.messages = TimeCut(synthesizer, message, optimizer=learn, scale=scale, batch_dim=0)
        self.cuts = nn.ModuleList([*own, self.messages])
        self.loss = loss
        self._fast = _Side(fast, fast_head, own[0], optimizer)
        self._slow = _Side(slow, slow_head, own[1], optimizer)

    def step(self, chunk: Tensor, *, target: Tensor, slow_target: Tensor | None = None) -> Report:
        """Learn from a period.

        Args:
            chunk: (T, B, ...).
            target: of the fast net's report, (B, ...).
            slow_target: of the slow net's; None where it is asked for none.

        Raises:
            ShapeError: a target has not B rows.
            StateError: another number of sequences than before; call `reset` first.
            NumericalError: loss or gradient is not finite; raised before that net's update. The stream is given up.
        """
        rows = self._fast.walk.size(chunk)[1]
        for name, aim in (("target", target), ("slow_target", slow_target)):
            if aim is not None and len(aim) != rows:
                raise ShapeError(f"{name}: got {len(aim)} rows, expected {rows}, one for each sequence of the chunk")
        if self._fast.state is not None and (before := self._fast.cut.layout.count(self._fast.state)) != rows:
            raise StateError(
                f"chunk: got {rows} sequences, expected {before} as in the period before, whose states are carried on; "
                f"go on with the same ones, or call reset() before new ones"
            )
        try:
            return self._step(chunk, target, slow_target, rows)
        except BaseException:
            self.reset()
            raise

    def reset(self) -> None:
        """Begin a new stream."""
        self._fast.state = self._slow.state = None
        for cut in (self._fast.cut, self._slow.cut, self.messages):
            cut.forget()

    def _step(self, chunk: Tensor, target: Tensor, slow_target: Tensor | None, rows: int) -> Report:
        fast, slow = self._fast, self._slow
        message, state = fast.run(chunk)
        report = fast.head(message)
        loss = self.loss(report, target)
        ahead = self.messages.close(message, count=rows) + fast.cut.close(state, count=rows)
        fast.learn(loss + ahead, state, "fast")  # now, not when the slow net's report is judged

        received = self.messages.open(message.detach())  # the last message's lesson, and this one as a leaf
        output, state = slow.run(received.unsqueeze(0))
        slow_report = slow.head(output)
        slow_loss = None if slow_target is None else self.loss(slow_report, slow_target)
        ahead = slow.cut.close(state, count=rows)
        slow.learn(ahead if slow_loss is None else slow_loss + ahead, state, "slow")
        return Report(
            report.detach(), slow_report.detach(), loss.detach(), None if slow_loss is None else slow_loss.detach()
        )
