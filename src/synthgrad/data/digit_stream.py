"""A stream of digits, and two questions about it, one asked more often than the other.

With a period T: every T steps, how many of the last T digits are odd; every T^2 steps, how many of the last T^2 are
threes. Jaderberg et al. 2016, arXiv:1608.05343, section 3.2 (of the version of 2017).

Shapes: `T` period, `B` lanes, `...` the shape of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from synthgrad.data.split import DataError

__all__ = ["DigitStream", "DigitWindow"]

COUNTED = 3
"""The digit that is counted over the longer stretch."""


class DigitWindow(NamedTuple):
    """The next T digits of all lanes.

    Attributes:
        images: (T, B, ...).
        odd: int64 (B,), how many of them are odd, 0 to T.
        threes: int64 (B,), how many of the last T^2 are threes, 0 to T^2; None at windows that end no such stretch.
    """

    images: Tensor
    odd: Tensor
    threes: Tensor | None


class DigitStream:
    """Windows of digits drawn at random, without end; the first T of them are the first stretch of T^2.

    Args:
        images: (N, ...), a part of any `Split` of digits, say `split.train_x`.
        labels: int64 (N,).
        period: T.
        lanes: B.
        seed: of the drawing.

    Raises:
        DataError: no images, or not as many labels; a period or lanes below 1.

    >>> from synthgrad.data import digits
    >>> split = digits(fold=0)
    >>> window = next(DigitStream(split.train_x, split.train_y, period=3, lanes=2, seed=0))
    >>> window.images.shape, window.odd.shape, window.threes
    (torch.Size([3, 2, 64]), torch.Size([2]), None)
    """

    def __init__(self, images: Tensor, labels: Tensor, *, period: int, lanes: int, seed: int) -> None:
        if not len(images) or labels.shape != (len(images),):
            raise DataError(
                f"DigitStream: got {len(images)} images and labels of shape {tuple(labels.shape)}, expected one label "
                f"for each image, and at least one of both; pass two parts of a Split, say train_x and train_y"
            )
        if period < 1 or lanes < 1:
            raise DataError(f"DigitStream: got period={period} and lanes={lanes}, expected 1 or more of both")
        self.images, self.labels, self.period, self.lanes = images, labels, period, lanes
        self._draw = torch.Generator().manual_seed(seed)
        self._windows = 0
        self._threes = torch.zeros(lanes, dtype=torch.int64, device=labels.device)

    def __next__(self) -> DigitWindow:
        """The next window."""
        drawn = torch.randint(len(self.labels), (self.period, self.lanes), generator=self._draw)  # (T, B)
        drawn = drawn.to(self.labels.device)
        labels = self.labels[drawn]
        self._threes = self._threes + (labels == COUNTED).sum(0)
        self._windows += 1
        threes = None
        if self._windows % self.period == 0:
            threes, self._threes = self._threes, torch.zeros_like(self._threes)
        return DigitWindow(self.images[drawn], (labels % 2).sum(0), threes)

    def __iter__(self) -> "DigitStream":
        return self
