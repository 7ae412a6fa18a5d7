"""Two recurrent nets at two speeds: one ticks at every step, the other once in a period; the fast one never waits.

    step      1 2 .. T | T+1 .. 2T | ... | .. T^2
    fast      o-o-...-o | o- ... -o | ... |     o        reports, and is updated, every T steps
                      |           |             |  message --- cut: a synthetic gradient comes back at once
    slow      --------o-----------o---...-------o        reports, and is updated, every T^2 steps, say
                                                         then the true gradients of all those messages are known

Without the cut the fast net could not be updated before the slow one's report is judged. Jaderberg et al. 2016,
arXiv:1608.05343, section 3.2 (of the version of 2017).

Legend: T steps of a period, B sequences, M features of a message.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from synthgrad.core.agreement import Agreement, agree
from synthgrad.core.batch import Context
from synthgrad.core.boundary import back_propagate, cut
from synthgrad.core.errors import ShapeError, StateError, SynthgradError
from synthgrad.core.learner import Learner, OptimizerFactory
from synthgrad.core.synthesizers import Feedback
from synthgrad.recurrent.pupil import NOTHING, Pupil, SynthesizerFactory, copied, expect_finite
from synthgrad.recurrent.state import Layout, State, map_state
from synthgrad.recurrent.walk import Walk

__all__ = ["Period", "TwoSpeeds"]


class Period(NamedTuple):
    """What a period gave; no graph.

    Attributes:
        fast: what the fast net says, (B, ...).
        slow: what the slow net says, (B, ...).
        loss: of the fast net's report, a scalar.
        slow_loss: of the slow net's; None where none was asked for.
        agreement: of what was said of the messages with the gradients that the slow net now sends back, all of them;
            None where it sends none.
    """

    fast: Tensor
    slow: Tensor
    loss: Tensor
    slow_loss: Tensor | None
    agreement: Agreement | None


class _Message(NamedTuple):
    """A message, until the slow net's report is judged.

    Attributes:
        leaf: as the slow net reads it, (B, M).
        context: what was known besides when it was sent.
    """

    leaf: Tensor
    context: Context


class _Side:
    """One of the two nets, with its read-out and its optimizer."""

    def __init__(self, net: nn.Module, head: nn.Module, optimizer: OptimizerFactory, sample: Tensor) -> None:
        self.walk, self.head = Walk(net), head
        self.learner = Learner.of(nn.ModuleList([net, head]), optimizer)
        self.layout = Layout.of(self.walk.state_of(sample, None))
        self.state: State | None = None

    def run(self, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """The output at the chunk's last step, and the report, (B, ...) both; the state goes on with its graph."""
        outputs, state = self.walk(chunk, self.state)
        self.layout.check(state)
        self.state = state
        return outputs[-1], self.head(outputs[-1])

    def update(self, total: Tensor, who: str) -> None:
        """From the gradients of what was asked since the last update; the state goes on without its past."""
        grads = [parameter.grad for parameter in self.learner.parameters]
        expect_finite([total.detach(), *grads], lambda: f"loss or gradient of the {who} net")
        self.state = map_state(Tensor.detach, self.state)
        self.learner.update()


class TwoSpeeds(nn.Module):
    """Trains a fast and a slow net on one stream; the fast one is updated in every period, whatever the slow one does.

    The message is the fast net's output at the last step of a period; the slow net ticks once on it. What that is worth
    to the slow net a synthesizer predicts, and the fast net learns from it at once, beside its own loss. When the slow
    net's report is judged, it is back-propagated through all its ticks since the last time, and updated; what arrives
    at the messages is the true gradient of what it was asked, and the synthesizer's lesson.

    Neither net's own state is cut by a synthesizer: back-propagation goes through the period in the fast net, and
    through all ticks between two judged reports in the slow one, whose graph is held as long. A slow net that is
    asked nothing for ever holds ever more.

    Of a message alone, whatever fits best says about nothing: the mean gradient of a slow net that has learned what it
    is told is zero. What is known in training should be told, as context: the slow net's next target, say.

    Args:
        fast: `nn.LSTM`, `nn.GRU`, `nn.RNN`, a cell, or any `(chunk (T, B, ...), state) -> (outputs, state)`.
        slow: likewise, on messages (1, B, M).
        fast_head: from the fast net's output to its report.
        slow_head: from the slow net's.
        loss: `loss(report, target)`, a mean over sequences, of both.
        optimizer: `optimizer(parameters)`, called for each net.
        synthesizer: `synthesizer((M,))`, for the messages. None cuts nothing: both nets wait, and are updated by
            back-propagation through both, and through all periods since, when the slow net's report is judged.
        sample: a chunk, (T, B, ...).
        synthesizer_optimizer: as `optimizer`, for the synthesizer; `optimizer` if not given.
        scale: of the synthetic gradient where it is injected; 0: the fast net never hears of the slow one. The paper
            has 10.

    Raises:
        StateError: a net keeps a state of its own; see `TruncatedBPTT`.
        ShapeError: the fast net's output is not (T, B, M); the synthesizer's answer is not (B, M).
        ContextError: the synthesizer needs the output's error, or learns from the output.
        SynthgradError: a negative scale.

    >>> nets = TwoSpeeds(nn.GRU(2, 8), nn.GRU(8, 8), fast_head=nn.Linear(8, 1), slow_head=nn.Linear(8, 1),
    ...                  loss=nn.functional.mse_loss, optimizer=torch.optim.Adam, synthesizer=LinearSynthesizer,
    ...                  sample=torch.zeros(3, 4, 2))
    >>> first = nets.step(torch.randn(3, 4, 2), target=torch.randn(4, 1))  # the fast net has learned already
    >>> nets.step(torch.randn(3, 4, 2), target=torch.randn(4, 1), slow_target=torch.randn(4, 1)).slow_loss.shape
    torch.Size([])
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
        synthesizer: SynthesizerFactory | None,
        sample: Tensor,
        synthesizer_optimizer: OptimizerFactory | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not scale >= 0:
            raise SynthgradError(f"scale={scale}: expected 0 (no synthetic gradient) or more; 1 changes nothing")
        self.nets = nn.ModuleDict({"fast": fast, "slow": slow, "fast_head": fast_head, "slow_head": slow_head})
        with torch.no_grad():
            message = Walk(fast)(sample, None)[0][-1]
        if message.dim() != 2:
            raise ShapeError(
                f"message: got {tuple(message.shape)}, expected (B, M) as output of a step of the fast net"
            )
        self._fast = _Side(fast, fast_head, optimizer, sample)
        self._slow = _Side(slow, slow_head, optimizer, message.unsqueeze(0))
        self.loss, self.scale = loss, scale
        self._pupil: Pupil | None = None
        if synthesizer is not None:
            self._pupil = Pupil(synthesizer, message, synthesizer_optimizer or optimizer)
            self.synthesizer = self._pupil.synthesizer
        self._messages: list[_Message] = []  # since the slow net's report was last judged
        self._waiting: list[Tensor] = []  # losses of the fast net's reports, where nothing is cut

    def step(
        self, chunk: Tensor, *, target: Tensor, slow_target: Tensor | None = None, context: Context = NOTHING
    ) -> Period:
        """Learn from a period.

        Args:
            chunk: (T, B, ...).
            target: of the fast net's report, (B, ...).
            slow_target: of the slow net's; None where it is asked for none.
            context: what the synthesizer may look at besides the message.

        Raises:
            ShapeError: a target has not B rows.
            ContextError: a need of the synthesizer is missing, or does not fit it.
            StateError: another number of sequences than before; call `reset` first.
            NumericalError: loss or gradient is not finite; raised before that net's update. The stream is given up.
        """
        self._expect_fitting(chunk, target, slow_target, context)
        try:
            return self._step(chunk, target, slow_target, context)
        except BaseException:
            self.reset()
            raise

    def reset(self) -> None:
        """Begin a new stream; messages that the slow net has not been judged by are dropped."""
        self._fast.state = self._slow.state = None
        self._messages, self._waiting = [], []
        for side in (self._fast, self._slow):
            side.learner.forget()
        if self._pupil is not None:
            self._pupil.forget()

    def _step(self, chunk: Tensor, target: Tensor, slow_target: Tensor | None, context: Context) -> Period:
        fast, slow = self._fast, self._slow
        message, report = fast.run(chunk)
        loss = self.loss(report, target)
        if self._pupil is None:
            received = message
            self._waiting.append(loss)
        else:
            received = self._send(self._pupil, message, loss, context)
        _, slow_report = slow.run(received.unsqueeze(0))
        slow_loss = None if slow_target is None else self.loss(slow_report, slow_target)
        agreement = None if slow_loss is None else self._judge(slow_loss)
        reports = report.detach(), slow_report.detach(), loss.detach()
        return Period(*reports, None if slow_loss is None else slow_loss.detach(), agreement)

    def _send(self, pupil: Pupil, message: Tensor, loss: Tensor, context: Context) -> Tensor:
        """Update the fast net now, whatever the slow one does; gives the message as that one reads it."""
        leaf = cut(message)
        pupil.try_out(leaf.detach(), context)
        answer = pupil.ask(leaf.detach(), context)
        grad = answer.grad.detach() * (self.scale / len(leaf))
        total = loss + (message * grad).sum()
        self._fast.learner.forget()
        back_propagate(total)
        self._fast.update(total, "fast")
        if pupil.learns_at_once:
            pupil.teach(leaf.detach(), context, Feedback(), answer)
        self._messages.append(_Message(leaf, copied(context)))
        return leaf

    def _judge(self, slow_loss: Tensor) -> Agreement | None:
        """Update the slow net, and teach what the messages' gradients are; where nothing is cut, update both."""
        together = self._pupil is None
        sides = {"slow": self._slow} | ({"fast": self._fast} if together else {})
        for side in sides.values():
            side.learner.forget()
        total = torch.stack([slow_loss, *self._waiting]).sum() if together else slow_loss
        back_propagate(total)
        for who, side in sides.items():
            side.update(total, who)
        messages, self._messages, self._waiting = self._messages, [], []
        return None if self._pupil is None else _teach(self._pupil, messages)

    def _expect_fitting(self, chunk: Tensor, target: Tensor, slow_target: Tensor | None, context: Context) -> None:
        rows = self._fast.walk.size(chunk)[1]
        for name, aim in (("target", target), ("slow_target", slow_target)):
            if aim is not None and len(aim) != rows:
                raise ShapeError(f"{name}: got {len(aim)} rows, expected {rows}, one for each sequence of the chunk")
        if self._fast.state is not None and (before := self._fast.layout.count(self._fast.state)) != rows:
            raise StateError(
                f"chunk: got {rows} sequences, expected {before} as in the period before, whose states are carried on; "
                f"go on with the same ones, or call reset() before new ones"
            )
        if self._pupil is not None:
            self._pupil.check(context, rows)


def _teach(pupil: Pupil, messages: list[_Message]) -> Agreement | None:
    """One lesson of all messages; none, where they had nothing to do with the report, or it asks for no gradient."""
    if "gradient" not in pupil.synthesizer.feedback or any(one.leaf.grad is None for one in messages):
        return None
    told = [one.context for one in messages]
    labels, index = (_joined([getattr(one, name) for one in told]) for name in ("labels", "index"))
    leaves = [one.leaf for one in messages]
    activation = torch.cat([leaf.detach() for leaf in leaves])  # (K B, M) of K messages
    target = torch.cat([leaf.grad * len(leaf) for leaf in leaves if leaf.grad is not None])
    answer = pupil.teach(activation, Context(labels, index), Feedback(target))
    return agree(answer.grad.detach(), target)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None
