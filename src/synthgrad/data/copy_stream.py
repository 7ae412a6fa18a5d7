"""The copying tasks as a stream of windows: in each lane one sequence behind the other, as long as the curriculum says.

The lanes do not go in step: each begins some windows late, so that at any time some read while others write, and a step
of learning sees all of it.

Shapes: `B` lanes, `T` steps of a window, `C` steps behind it, `D` digits of an input, `K` digits of a target.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from synthgrad.data.copying import Copying, Sequences
from synthgrad.data.curriculum import Curriculum
from synthgrad.data.split import DataError

__all__ = ["CopyStream", "Window"]

LATE = 4
"""A lane begins less than so many windows late."""


class Window(NamedTuple):
    """The next T steps of all lanes.

    Attributes:
        inputs: float32 (B, T, D).
        targets: float32 (B, T, K).
        mask: bool (B, T), the steps whose targets count.
        first: bool (B,), lanes whose sequence begins here: their state starts anew.
        left: int64 (B,), windows that the lane's sequence has behind this one; 0: it ends here.
        coming: float32 (B, C, K), the targets of the C steps behind this window; -1 where nothing counts, and behind
            the sequence's end. For a synthesizer that is told of what it predicts the gradient.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    first: Tensor
    left: Tensor
    coming: Tensor


class CopyStream:
    """Windows of sequences, without end; `next` the window, and tell it by `score` how it went.

    Args:
        curriculum: says how long the sequences are, and is told how well those of the present length are known.
        lanes: B.
        unroll: T.
        seed: of the characters, and of how late the lanes begin.
        ahead: C, steps that a window tells the targets of beforehand.

    Raises:
        DataError: fewer lanes or steps than one, or fewer steps ahead than none.
    """

    def __init__(self, curriculum: Curriculum, lanes: int, unroll: int, *, seed: int, ahead: int = 0) -> None:
        if lanes < 1 or unroll < 1:
            raise DataError(f"CopyStream: got {lanes} lanes and windows of {unroll} steps, expected 1 or more of both")
        if ahead < 0:
            raise DataError(f"CopyStream: ahead is {ahead}, expected 0 steps or more")
        self.curriculum, self.unroll = curriculum, unroll
        self._draw = torch.Generator().manual_seed(seed)
        self._rows = torch.arange(lanes).unsqueeze(1)  # (B, 1)
        self._steps = torch.arange(unroll)  # (T,)
        self._ahead = torch.arange(ahead)  # (C,)
        self._held: Sequences = _nothing(curriculum.copying, lanes, unroll)
        self._place = torch.zeros(lanes, dtype=torch.int64)  # of each lane in its sequence
        self._end = torch.zeros(lanes, dtype=torch.int64)
        self._level = torch.full((lanes,), -1)  # what its sequence is called below; -1: it is still to begin
        self._lengths: list[tuple[int, int]] = []  # n and r of each level
        self._nats = torch.zeros(lanes, dtype=torch.float64)
        self._late = torch.randint(LATE, (lanes,), generator=self._draw)  # (B,) windows

    def __next__(self) -> Window:
        """The next window."""
        ended = self._place >= self._end
        waits = ended & (self._late > 0)
        self._late -= waits.long()
        if waits.any():
            self._begin(waits, _nothing(self.curriculum.copying, int(waits.sum()), self.unroll), level=-1)
        begins = ended & ~waits
        if begins.any():
            self._begin(begins, self._sequences(int(begins.sum())), level=len(self._lengths) - 1)
        where = (self._rows, self._place.unsqueeze(1) + self._steps)  # (B, T)
        inputs, targets, mask = (held[where] for held in self._held)
        self._place += self.unroll
        left = (self._end - self._place) // self.unroll
        return Window(inputs, targets, mask, ended, left, self._coming())

    def __iter__(self) -> "CopyStream":
        return self

    def score(self, nats: Tensor) -> bool:
        """Take in how well the window that was handed out last was known.

        Args:
            nats: of each lane, `Copying.loss` summed over the window: (B,).

        Returns:
            Whether the curriculum has advanced; sequences that have begun still come to their end.
        """
        self._nats += nats.detach().to(self._nats)
        over = (self._place >= self._end) & (self._level == len(self._lengths) - 1) & (self._level >= 0)
        if not over.any():
            return False
        n, r = self._lengths[-1]
        return self.curriculum.see([self.curriculum.copying.bits(nats, n, r) for nats in self._nats[over].tolist()])

    def _coming(self) -> Tensor:
        """The targets of the next C steps, (B, C, K)."""
        places = self._place.unsqueeze(1) + self._ahead  # (B, C)
        there = places < self._end.unsqueeze(1)
        where = (self._rows, places.clamp_max(self._held.mask.shape[1] - 1))
        counts = self._held.mask[where] & there
        return self._held.targets[where].masked_fill(~counts.unsqueeze(2), -1.0)

    def _sequences(self, count: int) -> Sequences:
        curriculum = self.curriculum
        now = (curriculum.n, curriculum.r)
        if not self._lengths or self._lengths[-1] != now:
            self._lengths.append(now)
        return curriculum.copying.batch(*now, size=count, generator=self._draw, multiple_of=self.unroll)

    def _begin(self, lanes: Tensor, sequences: Sequences, *, level: int) -> None:
        steps = sequences.inputs.shape[1]
        if (more := steps - self._held.inputs.shape[1]) > 0:
            grown = _nothing(self.curriculum.copying, len(lanes), more)
            self._held = Sequences(*(torch.cat(pair, dim=1) for pair in zip(self._held, grown, strict=True)))
        for held, new in zip(self._held, sequences, strict=True):
            held[lanes, :steps] = new
        self._place[lanes], self._end[lanes], self._level[lanes], self._nats[lanes] = 0, steps, level, 0.0


def _nothing(copying: Copying, lanes: int, steps: int) -> Sequences:
    shape = (lanes, steps)
    return Sequences(
        torch.zeros(*shape, copying.inputs), torch.zeros(*shape, copying.outputs), torch.zeros(shape, dtype=torch.bool)
    )
