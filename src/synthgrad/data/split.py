"""What every data set is handed out as: three parts, and one error for when it cannot be.

Shapes: `N` number of examples, `...` the shape of one, `T` tokens of a sequence.
"""

from collections.abc import Callable
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


def hold_out(
    source: Path,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    classes: int,
    scaled: Callable[[Tensor], Tensor],
    valid: int,
    seed: int,
) -> Split:
    """Part a data set that comes with a test part: some of the training images, chosen at random, are for validation.

    Args:
        source: where they are from, for the message.
        train: images and labels, N of each.
        test: likewise.
        classes: number of classes.
        scaled: from the images as they are stored to those handed out; called on each part, to bound the memory.
        valid: how many to hold out; 0 for none.
        seed: seed of the choice.

    Returns:
        The three parts, each in the order of its source; N - valid images to train on.

    Raises:
        DataError: if `valid` is negative or leaves nothing to train on.
    """
    images, labels = train
    count = len(labels)
    if not 0 <= valid < count:
        raise DataError(
            f"{source}: got valid={valid} of {count} training images, expected 0 to {count - 1}, so that some are left "
            "to train on; pass a smaller number"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))  # (N,)
    kept, held_out = order[valid:].sort().values, order[:valid].sort().values
    return Split(
        train_x=scaled(images[kept]),
        train_y=labels[kept],
        valid_x=scaled(images[held_out]),
        valid_y=labels[held_out],
        test_x=scaled(test[0]),
        test_y=test[1],
        classes=classes,
    )
