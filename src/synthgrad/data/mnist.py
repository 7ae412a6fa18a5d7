"""MNIST: 70,000 handwritten digits of 28x28 pixels, found where they are or downloaded.

Y. LeCun, C. Cortes, C. J. C. Burges. The MNIST database of handwritten digits. 1998. Described as CC BY-SA 3.0. Not
shipped with the package.

Shapes: `N` number of images.
"""

from collections.abc import Mapping
from pathlib import Path

from synthgrad.data.download import download as fetch
from synthgrad.data.idx import STEMS, idx_folder, idx_names
from synthgrad.data.places import VARIABLE, places
from synthgrad.data.split import DataError, Split

__all__ = ["MD5", "MIRROR", "mnist"]

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
"""PyTorch's copy of the original files."""

MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def mnist(
    folder: Path | None = None,
    *,
    valid: int = 5000,
    seed: int = 0,
    download: bool = False,
    progress: bool = False,
    mirror: str = MIRROR,
    md5: Mapping[str, str] = MD5,
) -> Split:
    """Read MNIST from the first place that has all four files, or download them.

    The places are `folder`, if given, and no other; else the folder that the environment variable SYNTHGRAD_DATA
    names, first its subfolder `mnist`; then the user's cache. A download goes to the first of them. It leaves files
    that are there already as they are, and uses none that is incomplete or has a wrong checksum; an interrupted one
    goes on with the files that are missing.

    Args:
        folder: where the files are, or shall be.
        valid: how many of the training images to hold out, as in `idx_folder`.
        seed: seed of that choice.
        download: whether the files may be fetched if they are in none of the places.
        progress: whether a download draws a bar on standard error.
        mirror: address that ends in a slash, to fetch from.
        md5: checksum of each file there, by its name.

    Returns:
        The three parts: images, float32 (N, 1, 28, 28) in [0, 1]; labels 0 to 9, int64 (N,). By default N is 55,000,
        5,000 and 10,000.

    Raises:
        DataError: if the files are not found, cannot be fetched, or are damaged, or if `valid` leaves nothing to
            train on.
    """
    looked_in = places(folder, "mnist")
    place = next((place for place in looked_in if not _missing(place)), None)
    if place is None and not download:
        raise DataError(_how_to_get(looked_in))
    if place is None:
        place = looked_in[0]
        for name in _missing(place):
            fetch(mirror + name, place / name, md5[name], progress=progress)
    return idx_folder(place, valid=valid, seed=seed)


def _missing(place: Path) -> list[str]:
    """The names, as they are at the mirror, of the files that are not there under any of their names."""
    return [
        f"{stem}-idx{dimensions}-ubyte.gz"
        for stem, dimensions in STEMS.items()
        if not any((place / name).is_file() for name in idx_names(stem))
    ]


def _how_to_get(looked_in: list[Path]) -> str:
    looked = "; ".join(f"{place} (without {', '.join(_missing(place))})" for place in looked_in)
    return (
        f"mnist: got no folder with all four files, after looking in {looked}; expected {', '.join(MD5)}, with .gz or "
        f"without; fetch them with --download (download=True), or set {VARIABLE} to the folder that has them"
    )
