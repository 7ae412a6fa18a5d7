"""What every data set is handed out as: three parts, and one error for when it cannot be.

Shapes: `N` number of examples, `...` the shape of one.
"""

from dataclasses import dataclass

from torch import Tensor

from synthgrad.core.errors import SynthgradError

__all__ = ["DataError", "Split"]


class DataError(SynthgradError, ValueError):
    """A data set cannot be had as asked: files missing or damaged, a failed download, sizes that do not fit."""


@dataclass(frozen=True, eq=False)
class Split:
    """One division of a data set into three disjoint parts. What an example and its target are, each data set says.

    Attributes:
        train_x: inputs to learn from, float32 (N, ...).
        train_y: their targets: labels, int64 (N,), unless the data set says otherwise.
        valid_x: inputs to choose settings with, so that the test part stays unseen.
        valid_y: their targets.
        test_x: inputs to report on.
        test_y: their targets.
        classes: number of classes, which is the number of outputs that a model needs; labels run from 0 to
            `classes - 1`.
    """

    train_x: Tensor
    train_y: Tensor
    valid_x: Tensor
    valid_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
