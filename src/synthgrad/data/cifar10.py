"""CIFAR-10: 60,000 color images of 32x32 pixels in ten classes, found where they were unpacked.

A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. Technical report, University of Toronto, 2009. No
license is stated. Not shipped with the package, and not downloaded by it.

Of its published forms this is the binary one: six files of records, each a byte for the label and 3072 for the pixels,
the red plane first, then green and blue, each row after row. A file may have any number of records.

Shapes: `N` number of images.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synthgrad.data.places import VARIABLE, places
from synthgrad.data.split import DataError, Split, hold_out

__all__ = ["ADDRESS", "MD5", "MEAN", "STD", "cifar10"]

ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""Of the file at that address."""

FOLDER = "cifar-10-batches-bin"
"""What that file unpacks to."""

TRAIN = [f"data_batch_{number}.bin" for number in range(1, 6)]
TEST = "test_batch.bin"

CLASSES = 10
SHAPE = (3, 32, 32)
RECORD = 1 + math.prod(SHAPE)
"""Bytes of a label and its image."""

WHITE = 255
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of red, green and blue over the training images, scaled to [0, 1]."""

AGAIN = f"remove the file and unpack it again from {ADDRESS} (md5 {MD5})"


def cifar10(folder: Path | None = None, *, valid: int = 5000, seed: int = 0) -> Split:
    """Read CIFAR-10 from the first place that has all six files.

    The places are `folder`, if given, and no other; else the folder that the environment variable SYNTHGRAD_DATA
    names, first its subfolder `cifar10`; then the user's cache. In each of them, the subfolder `cifar-10-batches-bin`
    comes first, which is what the public file unpacks to.

    The test part is the one of the source. Each part is in the order of its files.

    Args:
        folder: where the files are.
        valid: how many of the training images to hold out, chosen at random as in `idx_folder`; 0 for none.
        seed: seed of that choice.

    Returns:
        The three parts: images, float32 (N, 3, 32, 32), scaled to [0, 1], less the mean of their channel, (0.4914,
        0.4822, 0.4465), over its standard deviation, (0.2470, 0.2435, 0.2616); labels 0 to 9, int64 (N,): airplane,
        automobile, bird, cat, deer, dog, frog, horse, ship, truck. By default N is 45,000, 5,000 and 10,000.

    Raises:
        DataError: if the files are not found (the message says how to get them) or damaged, or if `valid` leaves
            nothing to train on.

    Reference:
        A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.
    """
    place = _find(places(folder, "cifar10"))
    parts = [_read(place / name) for name in TRAIN]
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))  # (N, 3, 32, 32), (N,)
    test = _read(place / TEST)
    return hold_out(place, (images, labels), test, classes=CLASSES, scaled=_normalized, valid=valid, seed=seed)


def _find(roots: list[Path]) -> Path:
    """The folder with the files, which is one of these or a subfolder of one."""
    looked_in = [place for root in roots for place in (root / FOLDER, root)]
    found = next((place for place in looked_in if not _missing(place)), None)
    if found is None:
        looked = "; ".join(f"{place} (without {_named(_missing(place))})" for place in looked_in)
        raise DataError(
            f"cifar10: got no folder with all six files, after looking in {looked}; expected {', '.join(TRAIN)} and "
            f"{TEST}; fetch {ADDRESS} (170 MB, md5 {MD5}) and unpack it in {roots[0]}, which makes {FOLDER} there, or "
            f"set {VARIABLE} to the folder that has {FOLDER}"
        )
    return found


def _missing(place: Path) -> list[str]:
    return [name for name in (*TRAIN, TEST) if not (place / name).is_file()]


def _named(missing: list[str]) -> str:
    return "any" if len(missing) > len(TRAIN) else ", ".join(missing)


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of a file."""
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        got = f"{size} bytes" if size else "an empty file"
        raise DataError(
            f"{path}: got {got}, expected a multiple of {RECORD}, one byte for a label and {RECORD - 1} for its image "
            f"in each record; {AGAIN}"
        )
    records = torch.from_numpy(np.fromfile(path, dtype=np.uint8)).view(-1, RECORD)  # (N, 1 + 3 * 32 * 32)
    labels = records[:, 0].long()
    if labels.max() >= CLASSES:
        number = int((labels >= CLASSES).nonzero()[0])
        raise DataError(
            f"{path}: got the label {int(labels[number])} in record {number}, expected 0 to {CLASSES - 1}; {AGAIN}"
        )
    return records[:, 1:].unflatten(1, SHAPE), labels


def _normalized(images: Tensor) -> Tensor:
    """From bytes to float32, both (N, 3, 32, 32)."""
    mean, std = (torch.tensor(channels).view(-1, 1, 1) for channels in (MEAN, STD))  # (3, 1, 1)
    # In place, as a second copy of all images is half a gigabyte.
    return images.float().div_(WHITE).sub_(mean).div_(std)
