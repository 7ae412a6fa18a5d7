"""A file of results loses no finished cell, whatever became of its lines."""

from pathlib import Path

import pytest
from suite_cells import result_of

from synthgrad.experiments.results import ResultsError, encode_result
from synthgrad.experiments.suites.catalog import suite_named
from synthgrad.experiments.suites.store import Store
from synthgrad.experiments.suites.suite import AnyResult, Cell

CELLS = suite_named("table2", "small").cells(1)[:4] + suite_named("table1", "small").cells(1)[:2]


def results(count: int) -> list[AnyResult]:
    return [result_of(cell) for cell in CELLS[:count]]


def left(store: Store) -> list[Cell]:
    return store.missing(CELLS)


def test_what_is_kept_is_not_missing_now_nor_when_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "s.jsonl")
    assert left(store) == CELLS
    for number, result in enumerate(results(6), start=1):
        store.keep(result)
        assert left(store) == left(Store(store.path)) == CELLS[number:]
    assert Store(store.path).results == results(6)


def test_a_cell_asked_for_twice_is_missing_once(tmp_path: Path) -> None:
    assert Store(tmp_path / "s.jsonl").missing(CELLS + CELLS) == CELLS


@pytest.mark.parametrize("broken", ["{", "[]", '{"method": "bp"}', "\xff", '{"task": "copy"}'])
def test_a_broken_line_is_told_with_its_number_and_the_others_are_used(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "s.jsonl"
    lines = [encode_result(result).encode() for result in results(3)]
    path.write_bytes(b"\n".join([lines[0], b"", broken.encode("latin-1"), *lines[1:], b""]))
    store = Store(path)
    assert len(store.broken) == 1 and f"{path}, line 3: " in store.broken[0]
    assert store.results == results(3)


def test_a_line_from_before_recipes_were_written_is_told_and_its_cell_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    older = [encode_result(result_of(cell, recipe={})) for cell in CELLS[:1]]
    path.write_text("\n".join([*older, *map(encode_result, results(3)[1:])]) + "\n", encoding="utf-8")
    store = Store(path)
    assert "line 1: does not say what its method is made of" in store.broken[0] and len(store.broken) == 1
    assert left(store) == [CELLS[0], *CELLS[3:]]


def test_settings_that_are_none_are_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    line = '{"method": "bp", "seed": 0, "steps": 1, "settings": {"color": "red"}, "recipe": {"plain": true}}\n'
    path.write_text(line, encoding="utf-8")
    assert "line 1: settings: setting 'color' is unknown" in Store(path).broken[0]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_cut_short_does_not_spoil_the_next_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "s.jsonl"
    first, second = (encode_result(result) for result in results(2))
    path.write_text(f"{first}\n{second[:cut]}", encoding="utf-8")
    store = Store(path)
    assert store.results == results(1) and "line 2" in store.broken[0]
    for result in results(3)[1:]:
        store.keep(result)
    again = Store(path)
    assert again.results == results(3) and len(again.broken) == 1


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(encode_result(results(1)[0]), encoding="utf-8")
    store = Store(path)
    store.keep(results(2)[1])
    assert Store(path).results == results(2)


def test_a_place_that_cannot_be_written_to_is_told_before_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResultsError, match="name another folder with --results"):
        Store(tmp_path / "file" / "s.jsonl").check_writable()
    store = Store(tmp_path / "folder" / "s.jsonl")
    store.check_writable()
    assert not store.path.exists()
