"""The data sets there are to train on; data, which need no torch to be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from synthgrad.experiments.names import SettingsError, named

if TYPE_CHECKING:
    from synthgrad.data import Split

__all__ = ["DATA_SETS", "DataSet", "Place", "data_set_named"]


class Place(Protocol):
    """What a data set is told of where it is, and how to part it; a `Training` has it."""

    @property
    def data_dir(self) -> Path | None:
        """The folder, if one was named."""
        ...

    @property
    def download(self) -> bool:
        """Whether it may be fetched."""
        ...

    @property
    def context(self) -> int:
        """How many tokens an example has."""
        ...

    @property
    def valid(self) -> int:
        """How many training images to hold out."""
        ...


@dataclass(frozen=True)
class DataSet:
    """Labeled images, or windows of text, in three parts.

    Attributes:
        name: how it is called for.
        title: what it is, in a few words.
        load: `load(place, seed)`, the three parts, with images (N, C, H, W) or tokens (N, T).
        defaults: settings that suit it, where they differ from those of the digits.
        folder: whether it takes a folder (or a file): `needed`, `taken` or `none`.
        folds: whether the seed says which part is tested; else all seeds test on the same.
        largest_batch: what the training part surely holds.
        measure: what it is judged by: `error`, or `loss` in nats.
        tokens: whether its examples are text.
        needs: what `--data-dir` has to name.
    """

    name: str
    title: str
    load: "Callable[[Place, int], Split]"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    folder: str = "none"
    folds: bool = False
    largest_batch: int = 1024
    measure: str = "error"
    tokens: bool = False
    needs: str = "the folder with the four files in MNIST's layout"

    def check(self, folder: Path | None, download: bool) -> None:
        """Raise `SettingsError` if it is not to be had this way; looks at no file's contents."""
        if self.folder == "needed" and folder is None:
            raise SettingsError(f"--data {self.name} needs --data-dir: {self.needs}")
        if self.folder == "none" and folder is not None:
            raise SettingsError(
                f"--data {self.name} is shipped with the package; leave --data-dir out, or use --data idx"
            )
        if download and self.name != "mnist":
            raise SettingsError(f"--data {self.name} cannot be downloaded; leave --download out, or use --data mnist")
        if folder is not None and not download and not folder.is_dir() and not (self.tokens and folder.exists()):
            raise SettingsError(f"--data-dir {folder}: no such folder; check the path")


def _digits(_place: Place, seed: int) -> "Split":
    from synthgrad.data import digits

    split = digits(fold=seed)
    images = {part: getattr(split, part).unflatten(1, (1, 8, 8)) for part in ("train_x", "valid_x", "test_x")}
    return replace(split, **images)


def _mnist(place: Place, _seed: int) -> "Split":
    from synthgrad.data import mnist

    return mnist(place.data_dir, valid=place.valid, download=place.download)


def _idx(place: Place, _seed: int) -> "Split":
    from synthgrad.data import idx_folder

    assert place.data_dir is not None  # see `DataSet.check`
    return idx_folder(place.data_dir, valid=place.valid)


def _cifar10(place: Place, _seed: int) -> "Split":
    from synthgrad.data import cifar10

    return cifar10(place.data_dir, valid=place.valid)


def _text(place: Place, _seed: int) -> "Split":
    from synthgrad.data import text

    assert place.data_dir is not None  # see `DataSet.check`
    return text(place.data_dir, context=place.context)


_MNIST_DEFAULTS = MappingProxyType({"batch_size": 256, "epochs": 8})

DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        one.name: one
        for one in (
            DataSet("digits", "1,797 handwritten digits of 8x8 pixels, shipped with the package", _digits, folds=True),
            DataSet(
                "mnist",
                "70,000 handwritten digits of 28x28 pixels",
                _mnist,
                _MNIST_DEFAULTS,
                folder="taken",
                largest_batch=10_000,
            ),
            DataSet(
                "idx",
                "any folder in MNIST's layout",
                _idx,
                _MNIST_DEFAULTS,
                folder="needed",
                largest_batch=10_000,
            ),
            DataSet(
                "cifar10",
                "60,000 photographs of 32x32 pixels, in 10 classes",
                _cifar10,
                MappingProxyType(
                    {"model": "residual", "layers": 8, "channels": 16, "cuts": "2", "batch_size": 128, "epochs": 5}
                ),
                folder="taken",
                largest_batch=10_000,
            ),
            DataSet(
                "text",
                "any text file, a character at a time",
                _text,
                MappingProxyType(
                    {
                        "model": "transformer",
                        "hidden": 128,
                        "cuts": "1",
                        "batch_size": 32,
                        "steps": 900,
                        "warm_up": 50,
                        "weight_decay": 0.01,
                        "synthesizer_lr": 1e-3,
                    }
                ),
                folder="needed",
                measure="loss",
                tokens=True,
                needs="a text file, or the folder with one",
            ),
        )
    }
)


def data_set_named(name: str) -> DataSet:
    """Find a data set.

    Raises:
        UnknownNameError: there is none of this name.

    >>> data_set_named("mnist").title
    '70,000 handwritten digits of 28x28 pixels'
    """
    return named("data", name, DATA_SETS)
