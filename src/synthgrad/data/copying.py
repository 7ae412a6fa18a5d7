"""Copy and Repeat Copy: read a sequence of random characters, then write it down, once or several times.

A character is a vector of `width` binary digits. One sequence, with N characters and R repeats:

    step      0      1 .. N        N + 1       N + 2 .. N R + N + 1     N R + N + 2
    input     start  characters    stop, or R  nothing                  nothing
    target    -      -             -           characters, R times      end

Copy has R = 1, a plain stop mark and no end. A step with a target is one loss term, the mean over its digits of the
cross-entropy; at all other steps the mask is False.

**Bits.** The score of a sequence is the mean over all digits of all its targets of -log2 p(digit): 1 for who guesses, 0
for who knows. It is per digit, neither per character nor per sequence.

**Lengths.** A sequence of Copy has 2 N + 2 steps, one of Repeat Copy N (R + 1) + 3. The paper's table 1 gives the
"longest sequence solved". For Repeat Copy each of its numbers (5, 7, 19, 23, 33, 39, 59, 67) is N (R + 1) + 3 with
R = N or R = N - 1, so it counts steps; for Copy, where even and odd numbers occur, it can only count characters. The
paper does not say so, it is read off its numbers; `Copying.solved` counts likewise.

A. Graves et al. 2014, arXiv:1410.5401, sections 4.1 and 4.2; Jaderberg et al. 2016, arXiv:1608.05343, section 3.1.

Shapes: `B` sequences, `L` steps, `D` digits of an input, `K` digits of a target.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from synthgrad.data.split import DataError

__all__ = ["Copying", "Sequences"]

MARKS = 2
"""Digits of an input besides those of a character: start, and stop (Copy) or how often to repeat (Repeat Copy)."""


REPEATS_UNIT = 10
"""R is given as a number, in units of this."""


class Sequences(NamedTuple):
    """A batch of sequences.

    Attributes:
        inputs: float32 (B, L, D).
        targets: float32 (B, L, K), of zeros and ones; zero where the mask is False.
        mask: bool (B, L), the steps whose targets count.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Copying:
    """The task, Copy or Repeat Copy.

    Args:
        repeats: Repeat Copy.
        width: digits of a character.

    Raises:
        DataError: a width below 1.
    """

    repeats: bool = False
    width: int = 8

    def __post_init__(self) -> None:
        if self.width < 1:
            raise DataError(f"Copying: width is {self.width}, expected 1 or more; 8 is the default")

    @property
    def inputs(self) -> int:
        """D, digits of an input."""
        return self.width + MARKS

    @property
    def outputs(self) -> int:
        """K, digits of a target: those of a character, and in Repeat Copy one for the end."""
        return self.width + self.repeats

    def length(self, n: int, r: int = 1) -> int:
        """L, steps of a sequence, without padding."""
        return n * (r + 1) + 2 + self.repeats

    def solved(self, n: int, r: int = 1) -> int:
        """What a solved sequence counts in the paper's table 1: characters (Copy) or steps (Repeat Copy)."""
        return self.length(n, r) if self.repeats else n

    def batch(self, n: int, r: int = 1, *, size: int, generator: torch.Generator, multiple_of: int = 1) -> Sequences:
        """Draw sequences, all of the same length.

        Args:
            n: N, characters of a sequence.
            r: R, repeats; 1 in Copy.
            size: B.
            generator: what the characters are drawn from; they do not depend on `multiple_of`.
            multiple_of: steps of nothing are put behind a sequence until L is a multiple of this, the unroll: so that
                sequences end where windows do.

        Returns:
            The sequences.

        Raises:
            DataError: a number below 1, or repeats in Copy.

        >>> Copying().batch(3, size=2, generator=torch.Generator()).inputs.shape
        torch.Size([2, 8, 10])
        """
        for name, value in {"n": n, "r": r, "size": size, "multiple_of": multiple_of}.items():
            if value < 1:
                raise DataError(f"Copying.batch: {name} is {value}, expected 1 or more")
        if r > 1 and not self.repeats:
            raise DataError(f"Copying.batch: r is {r}, expected 1 in Copy; pass repeats=True for Repeat Copy")
        steps = math.ceil(self.length(n, r) / multiple_of) * multiple_of
        characters = torch.randint(2, (size, n, self.width), generator=generator).float()  # (B, N, width)
        inputs = torch.zeros(size, steps, self.inputs)
        inputs[:, 0, self.width] = 1.0
        inputs[:, 1 : n + 1, : self.width] = characters
        inputs[:, n + 1, self.width + 1] = r / REPEATS_UNIT if self.repeats else 1.0
        targets, mask = torch.zeros(size, steps, self.outputs), torch.zeros(size, steps, dtype=torch.bool)
        first, end = n + 2, n + 2 + n * r
        targets[:, first:end, : self.width] = characters.repeat(1, r, 1)  # (B, N * R, width)
        mask[:, first : end + self.repeats] = True
        if self.repeats:
            targets[:, end, self.width] = 1.0
        return Sequences(inputs, targets, mask)

    @staticmethod
    def loss(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy of each step in nats, the mean over its digits; 0 where nothing counts: (B, L).

        Args:
            scores: (B, L, K), log-odds of each digit.
            targets: (B, L, K).
            mask: (B, L).
        """
        each = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")  # (B, L, K)
        return each.mean(-1) * mask

    def bits(self, nats: float, n: int, r: int = 1) -> float:
        """The score of a sequence: bits of a digit, from the sum of `loss` over its steps."""
        return nats / (n * r + self.repeats) / math.log(2)
