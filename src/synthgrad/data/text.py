"""Language modeling on any text: from the characters so far, tell the next one.

`text` gives windows, each for itself; `characters` gives each part in one piece, and `lanes` parts it for a recurrent
net, which reads it from the beginning to the end.

Shapes: `N` number of windows, `T` characters of a window, `M` characters of a part, `B` lanes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synthgrad.data.split import DataError, Split

__all__ = ["Characters", "characters", "encode", "lanes", "text", "vocabulary"]

PARTS = ("training", "validation", "test")


@dataclass(frozen=True, eq=False)
class Characters:
    """A text in three parts, each in one piece.

    Attributes:
        train: tokens to learn from, int64 (M,).
        valid: tokens to choose settings with.
        test: tokens to report on.
        vocabulary: the characters that the tokens stand for, the one of token 0 first.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: str


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
    if context < 1:
        raise DataError(f"text: context is {context}, expected 1 or more; 64 is the default")
    path = _file(Path(path))
    whole = characters(path, valid=valid, test=test)
    parts = (whole.train, whole.valid, whole.test)
    for name, part in zip(PARTS, parts, strict=True):
        if len(part) <= context:
            raise DataError(
                f"{path}: got {len(part)} of {sum(map(len, parts))} characters as the {name} part, expected "
                f"{context + 1} or more, a window of {context} and the character behind it; pass a smaller context= or "
                "a longer text, or other shares valid= and test="
            )
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = (
        _windows(part, context, stride) for part, stride in zip(parts, (1, context, context), strict=True)
    )
    return Split(train_x, train_y, valid_x, valid_y, test_x, test_y, classes=len(whole.vocabulary))


def characters(path: Path, *, valid: float = 0.05, test: float = 0.1) -> Characters:
    """Read a text in UTF-8 as characters, parted as it stands: training, validation, test. No window is cut out.

    Args:
        path: the file; or a folder with one file whose name ends in `.txt`.
        valid: share of the characters to choose settings with.
        test: share of the characters to report on.

    Returns:
        The three parts; the vocabulary is that of the whole file.

    Raises:
        DataError: if there is no such file, or in the folder not one alone; if it is empty or not in UTF-8; if a share
            is none or leaves nothing to train on.
    """
    if not (valid > 0 and test > 0 and valid + test < 1):
        raise DataError(
            f"text: valid is {valid} and test is {test}, expected shares above 0 that leave some to train on; 0.05 and "
            "0.1 are the defaults"
        )
    content = _read(_file(Path(path)))
    tokens = _tokens(content)  # (characters,)
    edges = [int(len(tokens) * share) for share in (1 - test - valid, 1 - test)]
    return Characters(*tokens.tensor_split(edges), vocabulary="".join(sorted(set(content))))


def encode(content: str, vocabulary: str, where: str = "the text") -> Tensor:
    """The tokens of a text whose vocabulary is another one's, say that of what was trained on.

    Args:
        content: the text.
        vocabulary: the characters that are known, the one of token 0 first.
        where: the text comes from, for the message.

    Returns:
        Tokens, int64 (M,).

    Raises:
        DataError: the text is empty, or has a character that the vocabulary has not.

    >>> encode("abba", "ab").tolist()
    [0, 1, 1, 0]
    """
    if not content:
        raise DataError(f"{where}: got no characters, expected text; check the path")
    known = {character: token for token, character in enumerate(vocabulary)}
    unseen = sorted(set(content) - known.keys())
    if unseen:
        raise DataError(
            f"{where}: got {unseen[0]!r} at character {content.index(unseen[0])}, expected only the {len(known)} "
            f"characters of the training part ({len(unseen)} are unknown); replace them, or train on a text that has "
            "them"
        )
    return torch.tensor([known[character] for character in content], dtype=torch.int64)


def lanes(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Part a text into lanes that are read side by side, each a stretch of the text, the first its beginning.

    A net that is given steps `t .. t + T` of all lanes, and next those behind, with the state that it had, has read
    each lane as a whole. What is left when the text is parted is left out at its end.

    Args:
        tokens: int64 (M,).
        count: B.

    Returns:
        Inputs and targets, int64 (B, (M - 1) // B) both; of each token the one behind it is the target.

    Raises:
        DataError: fewer lanes than one, or more than there are pairs of characters.
    """
    if not 1 <= count < len(tokens):
        raise DataError(
            f"lanes: got {count} lanes for {len(tokens)} characters, expected 1 to {len(tokens) - 1}; take fewer, or a "
            "longer text"
        )
    steps = (len(tokens) - 1) // count
    inputs, targets = tokens[: steps * count], tokens[1 : steps * count + 1]
    return inputs.view(count, steps), targets.reshape(count, steps)


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
