"""Handwritten digits, small enough to ship: 1,797 images of 8x8 pixels in ten classes.

These are the test images of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository, 1998, doi:10.24432/C50P49, licensed under CC BY 4.0. Each pixel counts the dark points, 0 to 16,
in a 4x4 block of a 32x32 bitmap; they are stored unchanged.

Shapes: `N` number of images.
"""

from importlib import resources

import numpy as np
import torch
from torch import Tensor

from synthgrad.data.split import Split

__all__ = ["digits", "load_digits"]

CLASSES = 10

DARKEST = 16
"""The largest value of a stored pixel."""

VALID_PART = 10
"""One in so many of the images outside the test set is for choosing settings."""


def load_digits() -> tuple[Tensor, Tensor]:
    """Read all images and labels, in the order of the source.

    Returns:
        Images, float32 (1797, 64), the rows of each image one after another, scaled to [0, 1]; labels 0 to 9,
        int64 (1797,).

    Reference:
        E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.
        doi:10.24432/C50P49

    >>> images, labels = load_digits()
    >>> images.shape, labels[:4]
    (torch.Size([1797, 64]), tensor([0, 1, 2, 3]))
    """
    with resources.files("synthgrad.data").joinpath("digits.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as arrays:
            images = torch.from_numpy(arrays["images"])  # (N, 8, 8)
            labels = torch.from_numpy(arrays["labels"])  # (N,)
    return images.flatten(1).float() / DARKEST, labels.long()


def digits(fold: int, folds: int = 5, seed: int = 0) -> Split:
    """Divide the digits for cross-validation: over `fold` 0 to `folds - 1`, each image is tested exactly once.

    Every class is spread evenly: over the folds (the numbers of a class in two test sets differ by at most one), and
    within a fold over `train` and `valid`, which gets a tenth of what is not tested. The parts are in the order of the
    data set, so shuffle `train` when making batches.

    Args:
        fold: which part is the test set; counts on from the start beyond the last, so that a run's number will do.
        folds: into how many parts the images are dealt, at least 2.
        seed: seed of the shuffling before dealing; keep it the same over the folds of one experiment.

    Returns:
        The three parts, which together hold every image: images (N, 64), labels (N,).

    Raises:
        ValueError: if `fold` is negative, or if `folds` is below 2 or above the size of the smallest class.

    >>> split = digits(fold=0)
    >>> len(split.train_y), len(split.valid_y), len(split.test_y)
    (1293, 144, 360)
    """
    images, labels = load_digits()
    _check_fold(fold, folds, smallest_class=int(labels.bincount().min()))

    order = _shuffled_by_class(labels, torch.Generator().manual_seed(seed))  # (N,)
    # Dealt like cards, without starting anew at each class: so the parts' sizes, too, differ by at most one.
    tested = torch.arange(len(order)) % folds == fold % folds
    rest = order[~tested]
    chosen = torch.arange(len(rest)) % VALID_PART == 0

    # Within `order` the images stand class by class; sorting restores the mixed order of the data set.
    train, valid, test = (part.sort().values for part in (rest[~chosen], rest[chosen], order[tested]))
    return Split(
        train_x=images[train],
        train_y=labels[train],
        valid_x=images[valid],
        valid_y=labels[valid],
        test_x=images[test],
        test_y=labels[test],
        classes=CLASSES,
    )


def _shuffled_by_class(labels: Tensor, generator: torch.Generator) -> Tensor:
    """All indices, (N,): class after class, each class shuffled."""
    members = [(labels == label).nonzero().flatten() for label in labels.unique()]
    return torch.cat([indices[torch.randperm(len(indices), generator=generator)] for indices in members])


def _check_fold(fold: int, folds: int, *, smallest_class: int) -> None:
    if not 2 <= folds <= smallest_class:
        raise ValueError(
            f"digits: folds is {folds}, expected 2 to {smallest_class} (the size of the smallest class), so that every "
            "class is tested and trained on; 5 is usual"
        )
    if fold < 0:
        raise ValueError(f"digits: fold is {fold}, expected 0 or more; count the folds from 0 to {folds - 1}")
