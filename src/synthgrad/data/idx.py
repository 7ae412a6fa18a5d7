"""Data sets in the IDX format, which MNIST introduced and others (Fashion-MNIST, KMNIST, EMNIST) share.

A file holds one array: two zero bytes, one for the type of the numbers, one for the number of dimensions; each
dimension as a big-endian 32-bit integer; then the numbers, big-endian, the last dimension running fastest. Such files
are often compressed with gzip; whether one is, its first bytes tell, not its name.

Shapes: `N` number of images, `H` and `W` their height and width.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from synthgrad.data.split import DataError, Split, hold_out

__all__ = ["STEMS", "idx_folder", "idx_names", "read_idx"]

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""The numbers' type, as numpy writes it, by its code in the file."""

MOST_DIMENSIONS = 8
"""More are not in use, and are taken as a sign that the file is something else."""

STEMS = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}
"""The four files of a folder: how their names begin, and the number of dimensions of their arrays."""

GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 << 20
"""Bytes read at once, so that a header which promises too much costs no memory."""

WHITE = 255
AGAIN = "remove the file and get it again"


def read_idx(path: Path, *, dimensions: int | None = None) -> Tensor:
    """Read one array. No more is read than the header promises, and one byte to see that nothing follows.

    Args:
        path: the file, plain or compressed with gzip.
        dimensions: how many the array must have; any number if not given.

    Returns:
        The array, of the file's own type and shape.

    Raises:
        DataError: if the file is missing, empty, damaged, not in this format, shorter or longer than its header says,
            without items, or of another number of dimensions.

    Reference:
        Y. LeCun, C. Cortes, C. J. C. Burges. The MNIST database of handwritten digits. 1998.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: got no such file, expected an IDX file; check the path")
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        try:
            if not compressed:
                return _read_array(file, path, dimensions)
            with gzip.open(file, "rb") as unpacked:
                return _read_array(unpacked, path, dimensions)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: got damaged gzip data ({error}), expected an IDX file; {AGAIN}") from error


def idx_folder(folder: Path, *, valid: int = 5000, seed: int = 0) -> Split:
    """Read a data set of labeled images in MNIST's layout: four IDX files, plain or compressed with gzip.

    They are called `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, with `.gz` or without; `train-images.idx3-ubyte` and so on are found as well. The test
    part is the one of the source. Each part is in the order of its file.

    Args:
        folder: where the files are.
        valid: how many of the training images to hold out, chosen at random; 0 for none.
        seed: seed of that choice.

    Returns:
        The three parts: images, float32 (N, 1, H, W) in [0, 1]; labels, int64 (N,). `classes` is one more than the
        largest label.

    Raises:
        DataError: if the folder or a file is missing, a file is damaged, what is in them does not fit together, or
            `valid` leaves nothing to train on.
    """
    train_images, train_labels, test_images, test_labels = _read_four(Path(folder))
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    train, test = (train_images, train_labels), (test_images, test_labels)
    return hold_out(folder, train, test, classes=classes, scaled=_scaled, valid=valid, seed=seed)


def idx_names(stem: str) -> list[str]:
    """The names that one of the four files may have, the usual ones first.

    >>> idx_names("t10k-labels")[:2]
    ['t10k-labels-idx1-ubyte', 't10k-labels-idx1-ubyte.gz']
    """
    kind = f"idx{STEMS[stem]}-ubyte"
    return [f"{stem}{joint}{kind}{ending}" for joint in "-." for ending in ("", ".gz")]


def _read_array(file: BinaryIO | gzip.GzipFile, path: Path, dimensions: int | None) -> Tensor:
    kind, shape = _read_header(file, path)
    if dimensions is not None and len(shape) != dimensions:
        raise DataError(
            f"{path}: got an array of {len(shape)} dimensions, {shape}, expected {dimensions}; images have 3 and "
            "labels 1, so check that the files were not mixed up when they were renamed"
        )
    size = math.prod(shape) * kind.itemsize
    if size == 0:
        raise DataError(f"{path}: got an array without items, of shape {shape}, expected at least one; {AGAIN}")
    data = _read_up_to(file, size)
    if len(data) < size:
        raise DataError(f"{path}: got {len(data)} bytes of data, expected {size} for shape {shape}; {AGAIN}")
    if file.read(1):
        raise DataError(f"{path}: got more than the {size} bytes of data expected for shape {shape}; {AGAIN}")
    array = np.frombuffer(data, dtype=kind).reshape(shape)
    return torch.from_numpy(array.astype(kind.newbyteorder("="), copy=False))


def _read_header(file: BinaryIO | gzip.GzipFile, path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    """The type of the numbers and the array's shape."""
    magic = file.read(4)
    if not magic:
        raise DataError(f"{path}: got an empty file, expected an IDX file; {AGAIN}")
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MOST_DIMENSIONS:
        codes = ", ".join(f"{code:02x}" for code in TYPES)
        raise DataError(
            f"{path}: got a file that begins with {magic.hex(' ')}, expected an IDX file: 00 00, a type ({codes}) and "
            f"the number of dimensions (01 to {MOST_DIMENSIONS:02}); {AGAIN}"
        )
    count = magic[3]
    sizes = file.read(4 * count)
    if len(sizes) < 4 * count:
        raise DataError(f"{path}: got {len(sizes)} bytes for the shape, expected {4 * count}; {AGAIN}")
    return np.dtype(TYPES[magic[2]]), tuple(np.frombuffer(sizes, dtype=">u4").tolist())


def _read_up_to(file: BinaryIO | gzip.GzipFile, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size and (chunk := file.read(min(CHUNK, size - len(data)))):
        data += chunk
    return data


def _read_four(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images uint8 (N, H, W) and labels int64 (N,) for training, then both for testing."""
    paths = _find_four(folder)
    train, test = _read_pair(*paths[:2]), _read_pair(*paths[2:])
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"{paths[2]}: got images of {_size(test[0])} pixels, expected {_size(train[0])} as in {paths[0].name}; "
            "check that all four files are of one data set"
        )
    return *train, *test


def _find_four(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: got no such folder, expected one with the files {_usual_names()}; check the path")
    found = {stem: _find(folder, stem) for stem in STEMS}
    missing = [stem for stem, path in found.items() if path is None]
    if missing:
        looked_for = "; ".join(" or ".join(idx_names(stem)) for stem in missing)
        raise DataError(
            f"{folder}: got {len(STEMS) - len(missing)} of 4 files, expected also {looked_for}; put them there"
        )
    return [path for path in found.values() if path is not None]


def _find(folder: Path, stem: str) -> Path | None:
    return next((folder / name for name in idx_names(stem) if (folder / name).is_file()), None)


def _usual_names() -> str:
    return ", ".join(idx_names(stem)[0] for stem in STEMS) + " (or with .gz)"


def _read_pair(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    images = read_idx(images_path, dimensions=STEMS["train-images"])
    labels = read_idx(labels_path, dimensions=STEMS["train-labels"])
    if images.dtype != torch.uint8:
        raise DataError(f"{images_path}: got pixels of {images.dtype}, expected unsigned bytes (type 08); {AGAIN}")
    if labels.is_floating_point():
        raise DataError(f"{labels_path}: got labels of {labels.dtype}, expected whole numbers; {AGAIN}")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: got {len(labels)} labels, expected {len(images)}, one for each image in "
            f"{images_path.name}; check that both are of one data set"
        )
    if labels.min() < 0:
        raise DataError(
            f"{labels_path}: got the label {int(labels.min())}, expected 0 or more; number the classes from 0 on"
        )
    return images, labels.long()


def _scaled(images: Tensor) -> Tensor:
    """From bytes (N, H, W) to float32 (N, 1, H, W) in [0, 1]."""
    return images.unsqueeze(1).float() / WHITE


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))
