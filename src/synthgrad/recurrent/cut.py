"""The cut between two unrolls of a recurrent net.

    unroll k                        cut                        unroll k + 1
    state -> ... -> state  --- close | open ---> state (leaf) -> ... -> state
                      ^                            |
                      +-- synthetic gradient       +-- its gradient: the target for that prediction

Legend: B sequences, T steps of an unroll, S features of the whole state.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from synthgrad.core.agreement import Agreement, agree
from synthgrad.core.batch import Context
from synthgrad.core.boundary import cut
from synthgrad.core.errors import NumericalError, ShapeError, StateError, SynthgradError
from synthgrad.core.learner import OptimizerFactory
from synthgrad.core.synthesizers import Answer, Feedback
from synthgrad.recurrent.pupil import NOTHING, Pupil, SynthesizerFactory, copied
from synthgrad.recurrent.state import Layout, State, map_state

__all__ = ["TimeCut", "check_ends"]


@dataclass
class _Lesson:
    """What the synthesizer was asked at the end of an unroll, until it has learned what the answer should have been.

    Attributes:
        activation: the state asked about, (B, S), no graph.
        context: what it was told besides.
        ends: the sequences that ended there, (B,), or None: for them the true gradient is zero.
        answer: what it said, where it learns from that: no lesson has changed it since.
        leaves: the state with which the next unroll began; None until it begins, and where all sequences ended.
        count: what the next unroll's loss was divided by; None until it ends.
    """

    activation: Tensor
    context: Context
    ends: Tensor | None
    answer: Answer | None = None
    leaves: State | None = None
    count: int | None = None


class TimeCut(nn.Module):
    """Lets gradients past the end of an unroll: a synthetic one comes in there. arXiv:1608.05343, section 2.1.

    In a loop of one's own:

        state = cut.open(state)                      # the state of the last unroll, as a leaf
        output, state = net(chunk, state)
        loss = criterion(output, target)             # a mean over `count` loss terms
        (loss + cut.close(state, count=count)).backward()
        optimizer.step()

    `close` asks the synthesizer about the state, and gives the term whose gradient is its answer. `open` makes leaves;
    the gradient found at them after the backward pass is what the answer should have been, and the next `open` teaches
    it: the target is bootstrapped, as it holds the next synthetic gradient, pulled back through the unroll.

    The synthesizer speaks of the *summed* loss of all that comes, per sequence. `count` converts: it is what the sum
    over the unroll's loss terms was divided by to give your loss, B*T for a mean over steps and sequences, 1 for a sum.
    So a prediction depends neither on B nor on how the mean is taken.

    `scale` multiplies a synthetic gradient where it is injected. As every target holds the next synthetic gradient, it
    acts as a discount: what the loss j unrolls ahead says reaches the net multiplied by scale**j. At 1 nothing is
    discounted; at 0 it is plain truncated back-propagation. The paper uses 0.1 (and multiplies the bootstrap as well).

    In training more may be known than the state: the targets to come, say. They are the context, which a synthesizer
    that declares such needs is given with the state, and given again for its lesson; labels are any tensor with B rows.
    One that asks for no feedback (a critic that learns from labels alone) needs not wait: it learns at once.

    At each unroll the synthesizer runs twice, once to answer and once, with its current weights, to learn: between an
    answer and its lesson stands always the update from the lesson before. Without feedback it runs once.

    Called in eval mode, `open` only detaches and `close` gives zero: no synthesizer runs.

    Attributes:
        synthetic_grad: what was answered at the last `close`, of the summed loss, (B, S); zero where a sequence ended.

    Args:
        synthesizer: `synthesizer((S,))`, a factory as in `decouple`.
        state: a sample: any state of the net, for its tree, shapes and type.
        optimizer: `optimizer(parameters)`, for the synthesizer.
        scale: of the injected gradient; see above.
        batch_dim: the dimension of each leaf of the state in which the sequences lie; see `Layout.of`.
        initial: `initial(B)`, the state with which sequences begin; zeros if not given.
        into_core: lessons teach the net, too, see `learn`.

    Raises:
        StateError: the sample is no tree of tensors with a floating one among them.
        ContextError: the synthesizer needs the output's error, or learns from the output: in time there is none.
        ShapeError: its answer is not (B, S).
        SynthgradError: a negative scale; `into_core`, and the synthesizer gives no gradient to the state.
    """

    def __init__(
        self,
        synthesizer: SynthesizerFactory,
        state: State,
        *,
        optimizer: OptimizerFactory,
        scale: float = 1.0,
        batch_dim: int | None = None,
        initial: Callable[[int], State] | None = None,
        into_core: bool = False,
    ) -> None:
        super().__init__()
        if not scale >= 0:
            raise SynthgradError(f"scale={scale}: expected 0 (no synthetic gradient) or more; 1 discounts nothing")
        self.layout = Layout.of(state, batch_dim)
        self._pupil = Pupil(synthesizer, self.layout.rows(state).detach(), optimizer, through=into_core)
        self.synthesizer = self._pupil.synthesizer
        self.scale = scale
        self.initial = initial
        self.synthetic_grad: Tensor | None = None
        self._asked: _Lesson | None = None  # at the last close; what follows has not begun
        self._opened: _Lesson | None = None  # what follows has begun
        self._ready: _Lesson | None = None  # nothing that follows is needed

    def open(self, state: State) -> State:
        """Begin an unroll: learn what the last one has taught, and give the state as leaves.

        Args:
            state: as the net gave it back at the end of the last unroll, and `close` saw it; None begins anew.

        Returns:
            The same values without their past; sequences that ended begin anew. None for None.

        Raises:
            StateError: laid out otherwise, or of another number of sequences than at `close`.
            NumericalError: what was to be learned is not finite.
        """
        if state is not None:
            self.layout.check(state)
            self._expect_the_same_sequences(state)
        self.learn()
        asked, self._asked, self._opened = self._asked, None, None
        if state is not None and asked is not None and asked.ends is not None:
            state = self.layout.restarted(state, asked.ends, self.initial)
        learns = self.training and asked is not None and "gradient" in self.synthesizer.feedback
        if learns and asked is not None:
            self._opened = asked if state is not None else _of_the_ended(asked)
        if state is None:
            return None

        def leaf(tensor: Tensor) -> Tensor:
            return cut(tensor, differentiable=learns and tensor.is_floating_point())

        state = map_state(leaf, state)
        if self._opened is not None:
            self._opened.leaves = state
        return state

    def close(self, state: State, *, count: int, ends: Tensor | None = None, context: Context = NOTHING) -> Tensor:
        """End an unroll: the term to add to its loss, of which the gradient is the synthetic one.

        Args:
            state: at the end of the unroll, with its graph.
            count: what the sum over the unroll's loss terms was divided by to give its loss.
            ends: (B,), bool: the sequences that end here, on the border of an unroll. Nothing is injected for them,
                their true gradient is zero, and they begin anew at the next `open`.
            context: what the synthesizer may look at besides the state: of what comes behind it, say. For a sequence
                that ends, nothing comes; a loss on labels should leave it out.

        Returns:
            A scalar, <scale * synthetic gradient / count, state>.

        Raises:
            StateError: the state is laid out otherwise.
            ContextError: a need of the synthesizer is missing, or does not fit it.
            ShapeError: `ends` is no bool mask of B, the context has other rows, or the count is below 1.
        """
        rows = self.layout.rows(state)  # (B, S)
        if ends is not None:
            check_ends(ends, len(rows))
            ends = ends.to(rows.device, copy=True)
        if count < 1:
            raise ShapeError(f"count={count}: expected the number that the sum of the loss was divided by, at least 1")
        self.check(context, len(rows))
        activation = rows.detach()
        if self.training:
            self._pupil.try_out(activation, context)
        if self._opened is not None:
            self._opened.count = count
        if not self.training:
            self._asked = _Lesson(activation, NOTHING, ends)
            return rows.new_zeros(())
        self._asked = lesson = _Lesson(activation, copied(context), ends)
        answer = self._pupil.ask(activation, lesson.context)
        self._ready = replace(lesson, answer=answer) if self._pupil.learns_at_once else None
        grad = answer.grad.detach().to(rows.dtype)
        self.synthetic_grad = grad if ends is None else grad.masked_fill(ends.unsqueeze(1), 0.0)
        return (rows * (self.synthetic_grad * (self.scale / count))).sum()

    def check(self, context: Context, rows: int) -> None:
        """Whether a context will do, for so many sequences; called before anything has changed.

        Raises:
            ContextError: a need of the synthesizer is missing, or out of range.
            ShapeError: it has not B rows.
        """
        self._pupil.check(context, rows, asked=self.training)

    def learn(self, again: State | None = None) -> Agreement | None:
        """Teach the synthesizer what the last backward pass has brought; the next `open` does it, if nobody did before.

        One that asks for no feedback is taught what it was told at the last `close`.

        Args:
            again: with `into_core`, the state that the lesson is about, made anew with its graph by the net as it now
                is. What is to be learned goes on into the net: its gradient is accumulated there, and makes states of
                which the synthetic gradient is easier to tell.

        Returns:
            The agreement of its answer, as it now is, with the target; None where there was no target to learn.

        Raises:
            NumericalError: target or answer is not finite; the synthesizer is as it was.
        """
        try:
            if self._ready is not None:
                lesson, self._ready = self._ready, None
                self._pupil.teach(lesson.activation, lesson.context, Feedback(), lesson.answer)
            target = self._target()
            if target is None:
                return None
            lesson, self._opened = self._opened, None
            assert lesson is not None
            activation = lesson.activation if again is None or lesson.leaves is None else self.layout.rows(again)
            answer = self._pupil.teach(activation, lesson.context, Feedback(target))
        except NumericalError:
            self.forget()
            raise
        return agree(answer.grad.detach(), target)

    @property
    def held(self) -> list[Tensor]:
        """What is kept from one unroll to the next, leaves with their gradients aside: to count its bytes."""
        lessons = [lesson for lesson in (self._asked, self._opened) if lesson is not None]
        parts = [(one.activation, one.ends, one.context.labels, one.context.index) for one in lessons]
        return [tensor for part in parts for tensor in part if tensor is not None]

    def forget(self) -> None:
        """Drop what is under way: predictions without target yet, and what the synthesizer keeps of earlier ones.

        Weights and optimizer are left as they are.
        """
        self._asked = self._opened = self._ready = None
        self._pupil.forget()

    def _target(self) -> Tensor | None:
        """Of the summed loss, (B, S); None where no backward pass has brought one."""
        lesson = self._opened
        if lesson is None:
            return None
        if lesson.leaves is None:  # all that is left are ended sequences
            return torch.zeros_like(lesson.activation)
        brought = [False]

        def gradient(leaf: Tensor) -> Tensor:
            brought[0] |= leaf.grad is not None
            return leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)

        grads = map_state(gradient, lesson.leaves)
        if not brought[0] or lesson.count is None:
            return None
        target = self.layout.rows(grads) * lesson.count
        return target if lesson.ends is None else target.masked_fill(lesson.ends.unsqueeze(1), 0.0)

    def _expect_the_same_sequences(self, state: State) -> None:
        before, now = self._asked, self.layout.count(state)
        if before is not None and len(before.activation) != now:
            raise StateError(
                f"state: got {now} sequences, expected {len(before.activation)} as at the end of the last unroll; "
                f"go on with the same ones, or begin anew with open(None)"
            )


def check_ends(ends: Tensor, rows: int) -> None:
    """Raise `ShapeError` if `ends` is no bool mask of so many sequences."""
    if not isinstance(ends, Tensor) or ends.dtype != torch.bool or ends.shape != (rows,):
        got = f"{ends.dtype} of shape {tuple(ends.shape)}" if isinstance(ends, Tensor) else repr(ends)
        raise ShapeError(f"ends: got {got}, expected torch.bool of shape ({rows},), one for each sequence")


def _of_the_ended(asked: _Lesson) -> _Lesson | None:
    """What is left to learn where no unroll follows: that the ended sequences have no gradient."""
    if asked.ends is None or not bool(asked.ends.any()):
        return None
    labels, index = (
        None if value is None else value[asked.ends] for value in (asked.context.labels, asked.context.index)
    )
    return _Lesson(asked.activation[asked.ends], Context(labels, index), ends=None)
