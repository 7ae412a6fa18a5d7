import os
from pathlib import Path

import pytest

from synthgrad.data import DataError, ptb

PARTS = {"train": " a b _ c \n c a b \n ", "valid": " c _ a \n", "test": " b \n"}


def written(folder: Path, **parts: str) -> Path:
    for name, content in (PARTS | parts).items():
        (folder / f"ptb.char.{name}.txt").write_text(content, encoding="utf-8")
    return folder


def test_characters_spaces_and_ends_of_lines(tmp_path: Path) -> None:
    whole = ptb(written(tmp_path))
    read = [
        "".join(whole.vocabulary[token] for token in part.tolist()) for part in (whole.train, whole.valid, whole.test)
    ]
    assert read == ["ab c\ncab\n", "c a\n", "b\n"]
    assert whole.vocabulary == "\n abc"


def test_it_is_found_where_data_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ptb").mkdir()
    written(tmp_path / "ptb")
    monkeypatch.setenv("SYNTHGRAD_DATA", str(tmp_path))
    assert len(ptb().train) == 9


def test_an_unseen_character_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test.txt: got 'z' at character 1, expected only the 5 characters"):
        ptb(written(tmp_path, test=" b z \n"))


def test_the_files_of_words_are_not_mistaken(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train.txt, line 2: got 'aer', expected single characters"):
        ptb(written(tmp_path, train=" a b \n aer banknote \n"))


@pytest.mark.parametrize("content", ["", " \n \n"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="valid.txt: got an empty file, expected sentences"):
        ptb(written(tmp_path, valid=content))


def test_missing_files(tmp_path: Path) -> None:
    (written(tmp_path) / "ptb.char.valid.txt").unlink()
    with pytest.raises(DataError, match="got no folder with ptb.char.train.txt, ptb.char.valid.txt"):
        ptb(tmp_path)


def test_another_encoding(tmp_path: Path) -> None:
    (written(tmp_path) / "ptb.char.test.txt").write_bytes(b"\xe8 a\n")
    with pytest.raises(DataError, match="test.txt: is not UTF-8"):
        ptb(tmp_path)


@pytest.mark.skipif("SYNTHGRAD_DATA" not in os.environ, reason="SYNTHGRAD_DATA names no folder with real data")
def test_the_real_treebank() -> None:
    if not Path(os.environ["SYNTHGRAD_DATA"], "ptb").is_dir():
        pytest.skip("no ptb there")
    whole = ptb()
    assert [len(part) for part in (whole.train, whole.valid, whole.test)] == [5_017_482, 393_042, 442_423]
    assert len(whole.vocabulary) == 50
    assert "".join(whole.vocabulary[token] for token in whole.train[:12].tolist()) == "aer banknote"
