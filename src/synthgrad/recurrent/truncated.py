"""Truncated back-propagation through time, with a synthetic gradient where it is truncated.

Legend: B sequences, T steps of a chunk, S features of the whole state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Batch, Context, Loss
from synthgrad.core.boundary import back_propagate
from synthgrad.core.errors import ContextError, ShapeError, StateError, SynthgradError
from synthgrad.core.finite import all_finite
from synthgrad.core.keys import expect_free_name, keep_plain_keys
from synthgrad.core.learner import Learner, OptimizerFactory
from synthgrad.core.synthesizers import LinearSynthesizer, ZeroSynthesizer
from synthgrad.recurrent.auxiliary import Auxiliary
from synthgrad.recurrent.cut import TimeCut, check_ends
from synthgrad.recurrent.pupil import NOTHING, SynthesizerFactory, expect_finite
from synthgrad.recurrent.state import State, map_state
from synthgrad.recurrent.walk import Walk

__all__ = ["TruncatedBPTT", "Unrolled"]

Follow = Callable[["TruncatedBPTT", Any, State | None, State, Tensor | None], None]
"""Is shown each unroll before its lesson: what was read, the state before it and behind it, which sequences end."""


@dataclass(frozen=True)
class Unrolled:
    """What a chunk gave.

    Attributes:
        loss: the mean loss of the chunk, a scalar without graph; synthetic terms are not in it.
        agreement: of synthetic gradients with their targets, of all that were learned from in this chunk; None where
            nothing was: at the beginning of a stream, or without a synthesizer that learns.
    """

    loss: Tensor
    agreement: Agreement | None


class TruncatedBPTT(nn.Module):
    """Trains a recurrent net on a stream, with credit from past the window. arXiv:1608.05343, section 2.1.

    Back-propagation reaches `unroll` steps back. At the end of each unroll a synthetic gradient stands for what the
    rest of the stream would send back; its synthesizer learns from the next unroll. After each unroll the net and the
    synthesizer are updated; a chunk longer than `unroll` is several of them, the last of which may be shorter.

    Called, it is the plain net: `(input, state) -> (output, state)`. Its `state_dict` has the plain net's keys, and
    `synthgrad.*` for the rest. The state carried on is not saved.

    Sequences end on borders of chunks alone: inside, a chunk goes through the net at once, for its fused kernels.

    Args:
        module: `nn.LSTM`, `nn.GRU`, `nn.RNN` (of any number of layers), one of their cells, or any module
            `(input, state) -> (output, state)` with a tree of tensors as state, and None as state to begin with.
        unroll: steps that back-propagation reaches back.
        loss: `loss(output, target)`, where time and sequences are one dimension: outputs (B*T, ...) and targets
            (B*T, ...). A mean, or the terms themselves, or a `Loss` that counts its terms: where some steps have no
            target, terms that are zero there, or a count, as a mean of nothing is none.
        optimizer: `optimizer(parameters)`, for the net and its head.
        head: from an output to a prediction, where the module has no read-out itself.
        synthesizer: `synthesizer((S,))`; None is plain truncated back-propagation.
        synthesizer_optimizer: as `optimizer`, for the synthesizer and the auxiliary head; `optimizer` if not given.
        auxiliary: also let the net predict, early in an unroll, the synthetic gradient at its end; a factory
            `auxiliary((S,))` says by what, True is a linear map. It splits the unroll behind its first step.
        into_core: let the synthesizer's lessons teach the net, too: to make states of which the synthetic gradient is
            easier to tell. For that the unroll before is run again, by the net as it now is. In the paper a setting to
            try: it may help, and may make training unstable.
        scale: of the synthetic gradient where it is injected; a discount for each unroll, see `TimeCut`.
        clip: bound on the L2 norm of the gradient of all the net's parameters together.
        batch_first: chunks are (B, T, ...); torch's own nets know it themselves.
        each_step: the module takes one step at a time, (B, ...); cells do.
        sample: a chunk, to learn how the state is laid out; for modules that are not torch's own.
        batch_dim: the dimension of each leaf of the state in which the sequences lie, see `Layout.of`.
        initial: `initial(B)`, the state with which sequences begin, if not zeros.

    Raises:
        StateError: the module keeps a state of its own, or the sample is missing; see `Layout.of` for more.
        ShapeError: the sample is no chunk; the synthesizer's answer is not (B, S).
        ContextError: the synthesizer needs the output's error, or learns from the output.
        SynthgradError: a setting out of range; `into_core`, and the synthesizer gives no gradient to the state.

    >>> net = nn.LSTM(3, 8)
    >>> bptt = TruncatedBPTT(net, unroll=4, loss=nn.functional.mse_loss, head=nn.Linear(8, 2),
    ...                      synthesizer=LinearSynthesizer, optimizer=torch.optim.Adam)
    >>> bptt.step(torch.randn(12, 5, 3), target=torch.randn(12, 5, 2)).loss.shape
    torch.Size([])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        unroll: int,
        loss: Callable[[Any, Any], Tensor] | Loss,
        optimizer: OptimizerFactory,
        head: nn.Module | None = None,
        synthesizer: SynthesizerFactory | None = None,
        synthesizer_optimizer: OptimizerFactory | None = None,
        auxiliary: bool | SynthesizerFactory = False,
        into_core: bool = False,
        scale: float = 1.0,
        clip: float | None = None,
        batch_first: bool | None = None,
        each_step: bool = False,
        sample: Any = None,
        batch_dim: int | None = None,
        initial: Callable[[int], State] | None = None,
    ) -> None:
        super().__init__()
        _expect(unroll, clip, cut=synthesizer is not None, auxiliary=bool(auxiliary))
        expect_free_name(module)
        learn = synthesizer_optimizer or optimizer
        self.plain, self.unroll, self.clip, self.initial = module, unroll, clip, initial
        self.loss = loss if isinstance(loss, Loss) else Loss(loss)
        self.walk = Walk(module, batch_first=batch_first, each_step=each_step)
        state = self.walk.state_of(self.walk.sample() if sample is None else sample, initial)
        cut = TimeCut(
            synthesizer or ZeroSynthesizer,
            state,
            optimizer=learn,
            scale=scale,
            batch_dim=batch_dim,
            initial=initial,
            into_core=into_core,
        )
        self.synthgrad = nn.ModuleDict({"cut": cut})
        if head is not None:
            self.synthgrad["head"] = head
        self.core = Learner.of(nn.ModuleList([module] if head is None else [module, head]), optimizer)
        self.predictor: Learner | None = None  # of the auxiliary task
        if auxiliary:
            rows = cut.layout.rows(state)
            task = Auxiliary(LinearSynthesizer if auxiliary is True else auxiliary, rows.shape[1])
            self.synthgrad["auxiliary"] = task.to(rows.device, rows.dtype)
            self.predictor = Learner.of(task, learn)
        self.state: State | None = None
        self.into_core = into_core
        self._before: tuple[Any, State | None] | None = None  # what the unroll before read, and began with
        self._measured = False
        self.follow: Follow | None = None
        keep_plain_keys(self)

    @property
    def cut(self) -> TimeCut:
        """The cut between two unrolls."""
        cut = self.synthgrad["cut"]
        assert isinstance(cut, TimeCut)
        return cut

    @property
    def head(self) -> nn.Module | None:
        """From an output to a prediction."""
        return self.synthgrad["head"] if "head" in self.synthgrad else None

    def forward(self, inputs: Any, state: State | None = None) -> tuple[Any, State]:
        """The plain net's predictions for a stretch of any length, and the state behind it; nothing is learned."""
        if state is None and self.initial is not None:
            state = self.initial(self.walk.size(inputs)[1])
        output, state = self.walk(inputs, state)
        return self._read_out(output), state

    def step(
        self,
        chunk: Any,
        *,
        target: Any,
        ends: Tensor | None = None,
        context: Context | Sequence[Context] = NOTHING,
    ) -> Unrolled:
        """Learn from a chunk: one update for each unroll in it. The state is carried on to the next chunk.

        Args:
            chunk: (T, B, ...), or (B, T, ...) with `batch_first`; a tensor or a tree of them.
            target: a tensor or a tree of them, with the same T and B.
            ends: (B,), bool: the sequences that end with this chunk. No gradient comes from behind the end, and they
                begin anew; when all end, the next chunk may have another B.
            context: what the synthesizer may look at besides the state at the unroll's end, say the targets to come as
                labels, (B, ...); see `TimeCut.close`. Of a chunk of several unrolls, one for each.

        Raises:
            ContextError: a need of the synthesizer is missing, or not one context for each unroll.
            ShapeError: chunk, target and ends do not fit together, or the unroll is longer than the stream: its first
                chunk has fewer steps, and not all sequences end there.
            StateError: another number of sequences than before; or the state that the net gave back is of another tree,
                shape or type than before.
            NumericalError: loss, gradient or target is not finite; raised before the update. The chunk is given up.
        """
        steps, rows = self._expect_fitting(chunk, target, ends)
        contexts = self._expect_contexts(context, -(-steps // self.unroll), rows)
        losses, agreements, counts = [], [], []
        for low, told in zip(range(0, steps, self.unroll), contexts, strict=True):
            high = min(low + self.unroll, steps)
            inputs, wanted = (self.walk.part(whole, low, high) for whole in (chunk, target))
            try:
                loss, count, agreement = self._unroll(inputs, wanted, ends if high == steps else None, told)
            except BaseException:
                self._give_up()
                raise
            losses.append(loss)
            counts.append(count)
            agreements += [agreement] if agreement is not None else []
        if ends is not None and bool(ends.all()):
            self.state = self._before = None
        if len(losses) == 1:
            return Unrolled(losses[0], agreements[0] if agreements else None)
        shares = [loss * (count / sum(counts)) for loss, count in zip(losses, counts, strict=True)]
        return Unrolled(torch.stack(shares).sum(), _joined(agreements))

    def reset(self) -> None:
        """Begin a new stream. What has ended sequences learn is kept, what the others waited for is dropped."""
        self.state = self._before = None

    # ---- one unroll --------------------------------------------------------------------------------------------------

    def _unroll(
        self, inputs: Any, target: Any, ends: Tensor | None, context: Context
    ) -> tuple[Tensor, int, Agreement | None]:
        """Its loss, by what that was divided, and the agreement."""
        steps, rows = self.walk.size(inputs)
        learners = [self.core, *([self.predictor] if self.predictor is not None else [])]
        for learner in learners:
            learner.forget()  # gradients that somebody else has left are not this unroll's
        begin = self.state = self.cut.open(self.state)
        if begin is None and self.initial is not None:
            begin = self.initial(rows)
        output, state, early = self._forward(inputs, begin)
        loss, count = self._loss(self._read_out(output), target, steps * rows)
        total = loss + self.cut.close(state, count=count, ends=ends, context=context)
        if self.follow is not None:
            self.follow(self, inputs, begin, state, ends)
        if early is not None and self.predictor is not None and self.cut.synthetic_grad is not None:
            total = total + self.predictor.module(early, self.cut.synthetic_grad)
        back_propagate(total)
        loss, total = loss.detach(), total.detach()
        gradients = [parameter.grad for learner in learners for parameter in learner.parameters]
        expect_finite([total, *gradients], lambda: "gradient" if all_finite(total) else "loss")
        agreement = self.cut.learn(self._again(inputs, begin))
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.core.parameters, self.clip)
        for learner in learners:
            learner.update()
        self.state = map_state(Tensor.detach, state)
        return loss, count, agreement

    def _again(self, inputs: Any, begin: State | None) -> State | None:
        """The state that the unroll before ended with, made anew; None where no lesson is to go on into the net."""
        if not self.into_core:
            return None
        begin = None if begin is None else map_state(Tensor.detach, begin)
        before, self._before = (
            self._before,
            (pytree.tree_map(torch.clone, inputs), begin),
        )  # the inputs are the caller's
        return None if before is None else self.walk(*before)[1]

    def _forward(self, inputs: Any, state: State | None) -> tuple[Any, State, Tensor | None]:
        """The outputs and the state at the end; for the auxiliary task also the rows of the state behind one step."""
        steps = self.walk.size(inputs)[0]
        if self.predictor is None or steps < 2:
            return *self.walk(inputs, state), None
        first, state = self.walk(self.walk.part(inputs, 0, 1), state)
        early = self.cut.layout.rows(state)
        rest, state = self.walk(self.walk.part(inputs, 1, steps), state)
        return self.walk.join(first, rest), state, early

    def _read_out(self, output: Any) -> Any:
        return output if self.head is None else self.head(output)

    def _loss(self, output: Any, target: Any, rows: int) -> tuple[Tensor, int]:
        """The mean loss, and of how many terms; where there are none, their place is taken by the steps."""
        output, target = (pytree.tree_map(lambda leaf: leaf.flatten(0, 1), whole) for whole in (output, target))
        if not self._measured:
            with torch.no_grad():
                self.loss.measure(output, target, rows, sums=True)
            self._measured = True
        count = self.loss.count(target, rows) or rows
        return self.loss(output, Batch((), target, Context(), rows, rows, count)), count

    def _expect_fitting(self, chunk: Any, target: Any, ends: Tensor | None) -> tuple[int, int]:
        """T and B."""
        steps, rows = self.walk.size(chunk)
        if (aimed := self.walk.size(target)) != (steps, rows):
            raise ShapeError(
                f"target: got {aimed[0]} steps of {aimed[1]} sequences, expected {steps} of {rows} as in the chunk"
            )
        if ends is not None:
            check_ends(ends, rows)
        if self.state is not None and (before := self.cut.layout.count(self.state)) != rows:
            raise StateError(
                f"chunk: got {rows} sequences, expected {before} as in the chunk before, whose state is carried on; "
                f"go on with the same ones, or call reset() before new ones"
            )
        ended = ends is not None and bool(ends.all())
        if steps < self.unroll and self.state is None and not ended:
            raise ShapeError(
                f"unroll={self.unroll} is longer than the stream, whose first chunk has {steps} steps; pass chunks of "
                f"at least {self.unroll}, or ends= where all sequences end here, or take a shorter unroll"
            )
        return steps, rows

    def _expect_contexts(self, given: Context | Sequence[Context], unrolls: int, rows: int) -> Sequence[Context]:
        contexts = [given] * (1 if self.cut.synthesizer.needs else unrolls) if isinstance(given, Context) else given
        if len(contexts) != unrolls:
            raise ContextError(
                f"context: got {len(contexts)} for a chunk of {unrolls} unrolls, expected one for each: what may be "
                f"looked at is another thing at the end of each; pass a list of them, or chunks of one unroll"
            )
        for context in contexts:
            self.cut.check(context, rows)
        return contexts

    def _give_up(self) -> None:
        self._before = None
        self.cut.forget()
        self.core.forget()
        if self.predictor is not None:
            self.predictor.forget()


def _expect(unroll: int, clip: float | None, *, cut: bool, auxiliary: bool) -> None:
    if unroll < 1:
        raise SynthgradError(f"unroll={unroll}: expected the number of steps between two updates, at least 1")
    if clip is not None and not clip > 0:
        raise SynthgradError(f"clip={clip}: expected a bound above 0, or None")
    if auxiliary and not cut:
        raise SynthgradError("auxiliary: there is no synthetic gradient to predict; give a synthesizer")
    if auxiliary and unroll < 2:
        raise SynthgradError("auxiliary: in unroll=1 no step lies between first and last; expected at least 2")


def _joined(parts: list[Agreement]) -> Agreement | None:
    """All rows of a chunk's unrolls."""
    if not parts:
        return None
    return Agreement(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Agreement)))
