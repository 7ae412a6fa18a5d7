import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.data import DataError, Split, characters, encode, lanes, text, vocabulary

some_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
some_shares = st.tuples(st.floats(0.1, 0.4), st.floats(0.1, 0.4))


def written(folder: Path, content: str, name: str = "some.txt") -> Path:
    """A file of exactly these characters: nothing is made of the ends of lines."""
    (folder / name).write_bytes(content.encode("utf-8"))
    return folder / name


def parts_of(split: Split) -> list[tuple[Tensor, Tensor]]:
    return [(split.train_x, split.train_y), (split.valid_x, split.valid_y), (split.test_x, split.test_y)]


def cut_up(content: str, valid: float, test: float) -> list[str]:
    """The three parts, by the rule in words: what is left of the beginning is rounded down."""
    first, second = int(len(content) * (1 - test - valid)), int(len(content) * (1 - test))
    return [content[:first], content[first:second], content[second:]]


def expected_windows(part: str, context: int, stride: int) -> list[tuple[str, str]]:
    starts = range(0, len(part) - context, stride)
    return [(part[k : k + context], part[k + 1 : k + 1 + context]) for k in starts]


@given(content=some_text, context=st.integers(1, 9), shares=some_shares)
def test_windows_are_those_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, content: str, context: int, shares: tuple[float, float]
) -> None:
    path = written(tmp_path_factory.mktemp("text"), content)
    parts = cut_up(content, *shares)
    if min(map(len, parts)) <= context:
        with pytest.raises(DataError, match=f"expected {context + 1} or more, a window of {context}"):
            text(path, context=context, valid=shares[0], test=shares[1])
        return
    split = text(path, context=context, valid=shares[0], test=shares[1])
    characters = vocabulary(path)
    for (x, y), part, stride in zip(parts_of(split), parts, (1, context, context), strict=True):
        assert x.dtype == y.dtype == torch.int64
        read = [["".join(characters[token] for token in row) for row in tokens.tolist()] for tokens in (x, y)]
        assert list(zip(*read, strict=True)) == expected_windows(part, context, stride)
        assert x.shape == y.shape == (len(read[0]), context)


@given(content=some_text)
def test_the_vocabulary_is_every_character_once_and_sorted(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    characters = vocabulary(written(tmp_path_factory.mktemp("text"), content))
    assert set(characters) == set(content) and list(characters) == sorted(set(content))


def test_classes_are_counted_over_the_whole_text(tmp_path: Path) -> None:
    # Characters of the last part alone have their places before and behind those of the others.
    path = written(tmp_path, "abd" * 90 + "abz" + "abc" * 9)
    split = text(path, context=3)
    assert vocabulary(path) == "abcdz" and split.classes == 5
    assert split.train_x.unique().tolist() == [0, 1, 3]
    assert split.test_y.unique().tolist() == [0, 1, 2, 4]


def test_the_default_parts(tmp_path: Path) -> None:
    split = text(written(tmp_path, "".join(chr(65 + k % 50) for k in range(2000))))
    assert [tuple(x.shape) for x, _ in parts_of(split)] == [(1700 - 64, 64), (1, 64), (3, 64)]


def test_training_windows_cost_no_memory(tmp_path: Path) -> None:
    split = text(written(tmp_path, "to be or not " * 1000), context=64)
    storages = {tensor.untyped_storage().data_ptr() for pair in parts_of(split) for tensor in pair}
    assert len(storages) == 1
    assert split.train_x.untyped_storage().nbytes() == 13_000 * 8


def test_windows_that_are_picked_are_copies(tmp_path: Path) -> None:
    split = text(written(tmp_path, "to be or not " * 100), context=8)
    before = split.train_x.clone()
    split.train_x[torch.tensor([0, 1])].zero_()
    assert torch.equal(split.train_x, before)


def test_ends_of_lines_are_left_as_they_are(tmp_path: Path) -> None:
    assert vocabulary(written(tmp_path, "a\r\nb\rc\n")) == "\n\rabc"


def test_a_folder_with_one_text(tmp_path: Path) -> None:
    path = written(tmp_path, "to be or not " * 100)
    (tmp_path / "README.md").write_text("about it")
    (tmp_path / "folder.txt").mkdir()
    assert torch.equal(text(tmp_path).test_x, text(path).test_x)
    assert vocabulary(tmp_path) == vocabulary(path)


@pytest.mark.parametrize("read", [text, vocabulary])
def test_a_folder_with_several_texts_or_none(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: got none, expected one file"):
        read(tmp_path)
    written(tmp_path, "to be", "one.txt")
    written(tmp_path, "or not", "another.txt")
    with pytest.raises(DataError, match=r"got another.txt, one.txt, expected one file \*.txt; pass the path of the"):
        read(tmp_path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: got no such file, expected a text in UTF-8"):
        text(tmp_path / "absent")


def test_an_empty_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="some.txt: got an empty file, expected text"):
        text(written(tmp_path, ""))


@pytest.mark.parametrize(
    ("content", "byte", "place"),
    [
        ("è un".encode("latin-1"), "e8", 0),
        ("né".encode("latin-1"), "e9", 1),
        (b"caf\xc3", "c3", 3),
        (b"a\xff", "ff", 1),
    ],
)
def test_another_encoding(tmp_path: Path, content: bytes, byte: str, place: int) -> None:
    (tmp_path / "some.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"some.txt: got {byte} at byte {place} \(.*\), expected text in UTF-8; save"):
        vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("length", "valid", "test", "part", "got"),
    [(40, 0.3, 0.6, "training", 4), (199, 0.05, 0.1, "validation", 10), (101, 0.5, 0.099, "test", 10)],
)
def test_too_short(tmp_path: Path, length: int, valid: float, test: float, part: str, got: int) -> None:
    expected = f"got {got} of {length} characters as the {part} part, expected 11 or more, a window of 10"
    with pytest.raises(DataError, match=f"some.txt: {expected}"):
        text(written(tmp_path, "x" * length), context=10, valid=valid, test=test)


def test_one_window_in_each_part_is_enough(tmp_path: Path) -> None:
    split = text(written(tmp_path, "x" * 33), context=10, valid=1 / 3, test=1 / 3)
    assert [tuple(x.shape) for x, _ in parts_of(split)] == [(1, 10)] * 3


@pytest.mark.parametrize("context", [-1, 0])
def test_windows_of_nothing(tmp_path: Path, context: int) -> None:
    with pytest.raises(DataError, match=f"text: context is {context}, expected 1 or more"):
        text(written(tmp_path, "x" * 100), context=context)


@pytest.mark.parametrize(
    ("valid", "test"), [(0, 0.1), (0.1, 0), (-0.1, 0.1), (0.5, 0.5), (1.5, 0.1), (float("nan"), 0.1)]
)
def test_shares_that_leave_a_part_without_anything(tmp_path: Path, valid: float, test: float) -> None:
    with pytest.raises(DataError, match=f"text: valid is {valid} and test is {test}, expected shares above 0"):
        text(written(tmp_path, "x" * 100), context=1, valid=valid, test=test)


@pytest.mark.skipif("SYNTHGRAD_DATA" not in os.environ, reason="SYNTHGRAD_DATA names no folder with real data")
def test_the_real_tiny_shakespeare() -> None:
    folder = Path(os.environ["SYNTHGRAD_DATA"], "tinyshakespeare")
    if not folder.is_dir():
        pytest.skip(f"no tinyshakespeare in {folder.parent}")
    split = text(folder)
    assert split.classes == 65 and split.train_x.untyped_storage().nbytes() == 8 * 1_115_394
    # What most others train on or choose settings with: the first nine tenths.
    assert len(split.train_x) + 64 == 948_084 and split.test_x.storage_offset() == 1_003_854
    characters = vocabulary(folder)
    assert "".join(characters[token] for token in split.train_x[0, :14].tolist()) == "First Citizen:"


# ---- in one piece, and in lanes --------------------------------------------------------------------------------------


@given(content=some_text, shares=some_shares)
def test_characters_are_the_text_in_three_parts(
    tmp_path_factory: pytest.TempPathFactory, content: str, shares: tuple[float, float]
) -> None:
    whole = characters(written(tmp_path_factory.mktemp("text"), content), valid=shares[0], test=shares[1])
    read = [
        "".join(whole.vocabulary[token] for token in part.tolist()) for part in (whole.train, whole.valid, whole.test)
    ]
    assert read == cut_up(content, *shares)
    assert (
        encode("".join(read), whole.vocabulary).tolist() == torch.cat([whole.train, whole.valid, whole.test]).tolist()
    )


@given(length=st.integers(2, 60), count=st.integers(1, 60))
def test_lanes_are_stretches_of_the_text_each_followed_by_the_next(length: int, count: int) -> None:
    tokens = torch.arange(length)
    if count >= length:
        with pytest.raises(DataError, match=f"got {count} lanes for {length} characters, expected 1 to {length - 1}"):
            lanes(tokens, count)
        return
    inputs, targets = lanes(tokens, count)
    assert inputs.shape == targets.shape == (count, (length - 1) // count)
    assert torch.equal(inputs.flatten(), tokens[: inputs.numel()]) and torch.equal(targets, inputs + 1)


def test_no_lanes() -> None:
    with pytest.raises(DataError, match="got 0 lanes"):
        lanes(torch.arange(9), 0)


def test_a_character_that_was_not_trained_on() -> None:
    with pytest.raises(DataError, match="novel: got 'x' at character 2, expected only the 2 characters of the"):
        encode("abxy", "ab", "novel")
    with pytest.raises(DataError, match="novel: got no characters, expected text"):
        encode("", "ab", "novel")
