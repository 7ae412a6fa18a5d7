"""The sum of two binary numbers, digit by digit: a task whose every answer can be checked.

Shapes: `N` number of examples.
"""

import torch
from torch import Tensor

from synthgrad.data.split import DataError, Split

__all__ = ["addition"]

MOST_BITS = 31
"""Two numbers of so many bits are counted through by one integer of 64 bits."""

HELD_OUT = 10
"""One in so many pairs is for choosing settings, and as many for testing."""


def addition(bits: int = 8, *, examples: int = 65_536, seed: int = 0) -> Split:
    """Make pairs of numbers and their sums, as bits; column `i` of a number is its bit of weight `2**i`.

    Each output is a yes or no of its own: the loss is binary cross-entropy for each bit of the sum, such as
    `BCEWithLogitsLoss`, of which one example has `bits + 1` terms. There is no class label, so a synthesizer that is
    conditioned on the target takes its bits, a float tensor (N, bits + 1), as context. `Split.classes` is the number
    of outputs, `bits + 1`.

    No pair occurs twice, within a part or across them; (a, b) and (b, a) are two pairs if `a` is not `b`.

    Args:
        bits: of each number, 2 to 31.
        examples: how many pairs to draw, at least 10; if there are fewer (`4**bits`), all of them are taken. The
            default takes all of 8 bits.
        seed: seed of the drawing and of the order.

    Returns:
        A tenth of the pairs to choose settings with, a tenth to test, the rest to train on; each part shuffled. Inputs
        are float32 (N, 2 * bits) of zeros and ones, the bits of `a` and then those of `b`; targets are float32
        (N, bits + 1) of zeros and ones, the bits of `a + b`.

    Raises:
        DataError: if `bits` or `examples` is out of range.

    >>> split = addition(4)
    >>> split.train_x.shape, split.train_y.shape, split.classes
    (torch.Size([206, 8]), torch.Size([206, 5]), 5)
    """
    _check(bits, examples)
    pairs = _draw(4**bits, examples, torch.Generator().manual_seed(seed))  # (N,)
    a, b = pairs >> bits, pairs & (2**bits - 1)  # (N,) both
    x = torch.cat([_bits_of(a, bits), _bits_of(b, bits)], dim=1)  # (N, 2 * bits)
    y = _bits_of(a + b, bits + 1)  # (N, bits + 1)
    held_out = len(pairs) // HELD_OUT
    sizes = [len(pairs) - 2 * held_out, held_out, held_out]
    (train_x, valid_x, test_x), (train_y, valid_y, test_y) = x.split(sizes), y.split(sizes)
    return Split(train_x, train_y, valid_x, valid_y, test_x, test_y, classes=bits + 1)


def _draw(choices: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different numbers below `choices`, or all of them, in random order: int64 (N,)."""
    if count >= choices:
        return torch.randperm(choices, generator=generator)
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        drawn = torch.cat([drawn, torch.randint(choices, (count,), generator=generator)]).unique()
    # Sorted by now, so that the first ones would be the small ones.
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]


def _bits_of(numbers: Tensor, bits: int) -> Tensor:
    """Zeros and ones, float32 (N, bits), the bit of weight 1 first."""
    return (numbers.unsqueeze(1) >> torch.arange(bits) & 1).float()


def _check(bits: int, examples: int) -> None:
    if not 2 <= bits <= MOST_BITS:
        raise DataError(f"addition: bits is {bits}, expected 2 to {MOST_BITS}; 8 is the default")
    if examples < HELD_OUT:
        raise DataError(
            f"addition: examples is {examples}, expected {HELD_OUT} or more, so that a tenth is at least one; leave it "
            "out to have all pairs of up to 8 bits"
        )
