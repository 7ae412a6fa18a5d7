"""What every data set is handed out as: three parts, and one error for when it cannot be.

Shapes: `N` number of examples, `...` the shape of one, `T` tokens of a sequence.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from synthgrad.core.errors import SynthgradError

__all__ = ["DataError", "Split", "hold_out"]


class DataError(SynthgradError, ValueError):
    """A data set cannot be had as asked: files missing or damaged, a failed download, sizes that do not fit."""


@dataclass(frozen=True, eq=False)
class Split:
    """One division of a data set into three disjoint parts. What an example and its target are, each data set says.

    Attributes:
        train_x: inputs to learn from, float32 (N, ...), or sequences of tokens, int64 (N, T).
        train_y: their targets: labels, int64 (N,), or one for each token, int64 (N, T), unless the data set says
            otherwise.
        valid_x: inputs to choose settings with, so that the test part stays unseen.
        valid_y: their targets.
        test_x: inputs to report on.
        test_y: their targets.
        classes: number of classes, which is the number of outputs that a model needs; labels run from 0 to
            `classes - 1`, and so do tokens.
    """

    train_x: Tensor
    train_y: Tensor
    valid_x: Tensor
    valid_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int


def hold_out(source: Path, count: int, *, valid: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose at random which of the training images are kept to train on and which are for validation.

    Args:
        source: where they are from, for the message.
        count: how many there are, N.
        valid: how many to hold out; 0 for none.
        seed: seed of the choice.

    Returns:
        Indices of those kept, int64 (N - valid,), and of those held out, int64 (valid,), both ascending.

    Raises:
        DataError: if `valid` is negative or leaves nothing to train on.
    """
    if not 0 <= valid < count:
        raise DataError(
            f"{source}: got valid={valid} of {count} training images, expected 0 to {count - 1}, so that some are left "
            "to train on; pass a smaller number"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))  # (N,)
    return order[valid:].sort().values, order[:valid].sort().values
