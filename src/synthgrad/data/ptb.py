"""Penn Treebank by characters, in the public layout of three files.

    ptb.char.train.txt    a sentence on each line, its characters separated by blanks, `_` for the space between words
    ptb.char.valid.txt
    ptb.char.test.txt

The text is the LDC's (LDC99T42) and not shipped with the package; the preprocessing into 10,000 words is that of
T. Mikolov et al. 2012, "Subword language modeling with neural networks".
"""

from pathlib import Path

from torch import Tensor

from synthgrad.data.places import VARIABLE, places
from synthgrad.data.split import DataError
from synthgrad.data.text import Characters, encode

__all__ = ["ptb"]

FILES = tuple(f"ptb.char.{part}.txt" for part in ("train", "valid", "test"))


def ptb(folder: Path | None = None) -> Characters:
    r"""Read the three files. `_` becomes a space, the end of a line is a character of its own, `\n`.

    Args:
        folder: with the three files; if not given, it is looked for where data sets are kept (`ptb` in the folder that
            SYNTHGRAD_DATA names, or in the user's cache).

    Returns:
        The three parts, one file each; the vocabulary is that of the training part: 50 characters.

    Raises:
        DataError: there are no such files; one is empty or in another layout; the validation or test part has a
            character that the training part has not.
    """
    tried = places(folder, "ptb")
    found = next((place for place in tried if all((place / file).is_file() for file in FILES)), None)
    if found is None:
        raise DataError(
            f"ptb: got no folder with {', '.join(FILES)}, looked in {', '.join(map(str, tried))}; name the folder, or "
            f"the one around it in {VARIABLE}"
        )
    train, valid, test = (_read(found / file) for file in FILES)
    known = "".join(sorted(set(train)))

    def tokens(content: str, file: str) -> Tensor:
        return encode(content, known, str(found / file))

    return Characters(*map(tokens, (train, valid, test), FILES), vocabulary=known)


def _read(path: Path) -> str:
    """The sentences as one text."""
    try:
        lines = path.read_text(encoding="utf-8").strip().split("\n")  # a lone blank ends the public files
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason}); get the file anew") from None
    if not any(lines):
        raise DataError(f"{path}: got an empty file, expected sentences; get the file anew")
    for number, line in enumerate(lines, start=1):
        if long := next((one for one in line.split() if len(one) > 1), None):
            raise DataError(
                f"{path}, line {number}: got {long!r}, expected single characters separated by blanks; this looks like "
                f"the file of words: give {FILES[0]} and the two beside it, or read it with --task text"
            )
    return "".join(f"{''.join(line.split()).replace('_', ' ')}\n" for line in lines)
