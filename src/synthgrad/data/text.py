"""Language modeling on any text: from the characters so far, tell the next one.

Shapes: `N` number of windows, `T` characters of a window.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synthgrad.data.split import DataError, Split

__all__ = ["text", "vocabulary"]

PARTS = ("training", "validation", "test")


def text(path: Path, *, context: int = 64, valid: float = 0.05, test: float = 0.1) -> Split:
    """Read a text in UTF-8 as windows of characters, each with the characters that follow its own.

    A character's token is its place in `vocabulary(path)`, among the characters of the whole file; so no part has one
    that is unknown to the others, and `classes` is how many there are. The text is parted as it stands: its end is for
    testing, what stands before that for validation, its beginning to train on. No window reaches into another part.

    Windows to train on begin at every character; neighbors overlap. They are views of one and the same memory, so N
    of them cost no more than the text, but writing into one changes others, and moving all of them to another device
    makes them N * T tokens there. Windows of the other two parts do not overlap, so that no character is a target
    twice; the last few, which fill no window, are left out.

    Args:
        path: the file; or a folder with one file whose name ends in `.txt`.
        context: T, characters of a window.
        valid: share of the characters to choose settings with.
        test: share of the characters to report on.

    Returns:
        The three parts: inputs, int64 (N, T), tokens from 0 to `classes - 1`; targets, int64 (N, T), of each token the
        one behind it.

    Raises:
        DataError: if there is no such file, or in the folder not one alone; if it is empty, not in UTF-8, or too short
            for a window in each part; if `context` is below 1, or a share is none or leaves nothing to train on.
    """
    _check(context, valid, test)
    path = _file(Path(path))
    tokens = _tokens(_read(path))  # (characters,)
    edges = [int(len(tokens) * share) for share in (1 - test - valid, 1 - test)]
    parts = tokens.tensor_split(edges)
    for name, part in zip(PARTS, parts, strict=True):
        if len(part) <= context:
            raise DataError(
                f"{path}: got {len(part)} of {len(tokens)} characters as the {name} part, expected {context + 1} or "
                f"more, a window of {context} and the character behind it; pass a smaller context= or a longer text, "
                "or other shares valid= and test="
            )
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = (
        _windows(part, context, stride) for part, stride in zip(parts, (1, context, context), strict=True)
    )
    return Split(train_x, train_y, valid_x, valid_y, test_x, test_y, classes=int(tokens.max()) + 1)


def vocabulary(path: Path) -> str:
    """The characters that the tokens of `text(path)` stand for: all that occur, sorted.

    Tokens are read by `"".join(characters[token] for token in tokens.tolist())`.

    Args:
        path: as in `text`.

    Returns:
        Each character once, the one of token 0 first.

    Raises:
        DataError: if there is no such file, or it is empty or not in UTF-8.
    """
    return "".join(sorted(set(_read(_file(Path(path))))))


def _windows(part: Tensor, context: int, stride: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, views (N, T) of the part, with `stride` characters from window to window."""
    return part[:-1].unfold(0, context, stride), part[1:].unfold(0, context, stride)


def _tokens(characters: str) -> Tensor:
    """Of each character its place among those that occur, int64 (characters,)."""
    codes = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4")
    return torch.from_numpy(np.unique(codes, return_inverse=True)[1]).long()


def _read(path: Path) -> str:
    """The characters as they are in the file; ends of lines, too."""
    data = path.read_bytes()
    if not data:
        raise DataError(f"{path}: got an empty file, expected text; check the path")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: got {data[error.start]:02x} at byte {error.start} ({error.reason}), expected text in UTF-8; save "
            "it in this encoding"
        ) from error


def _file(path: Path) -> Path:
    """The file, or the one text of the folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: got no such file, expected a text in UTF-8, or a folder with one; check the path")
    found = sorted(file for file in path.glob("*.txt") if file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path}: got {names}, expected one file *.txt; pass the path of the file itself")
    return found[0]


def _check(context: int, valid: float, test: float) -> None:
    if context < 1:
        raise DataError(f"text: context is {context}, expected 1 or more; 64 is the default")
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise DataError(
            f"text: valid is {valid} and test is {test}, expected shares above 0 that leave some to train on; 0.05 and "
            "0.1 are the defaults"
        )
