"""Cells are trained one after the other, each is kept as it ends, and a committed figure comes out again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synthgrad.core.events import Event, Finished, Started
from synthgrad.data import DataError
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.results import Result
from synthgrad.experiments.suites.catalog import suite_named
from synthgrad.experiments.suites.runner import run_cells
from synthgrad.experiments.suites.store import Store
from synthgrad.experiments.suites.suite import AnyResult, Cell, Where, identity_of


def trained(cells: list[Cell], where: Where, **provenance: Any) -> list[AnyResult]:
    kept: list[AnyResult] = []
    run_cells(cells, where, lambda event, labels: None, keep=kept.append, provenance=provenance)
    return kept


def test_each_cell_is_kept_before_the_next_one_begins(tiny_mnist: Path) -> None:
    cells = suite_named("table2", "small").only("FCN 3").cells(1)[:3]
    seen: list[str] = []

    def tell(event: Event, labels: Any) -> None:
        if isinstance(event, Started | Finished):
            seen.append(f"{type(event).__name__} {labels['method']}, seed {labels['seed']}")

    where = Where(tiny_mnist)
    run_cells(cells, where, tell, keep=lambda result: seen.append(f"kept {result.method}"), provenance={})
    assert seen == [
        what
        for name in ("bp", "zero", "dni")
        for what in (f"Started FCN 3, {name}, seed 0", f"Finished FCN 3, {name}, seed 0", f"kept {name}")
    ]


def test_what_is_kept_is_the_cell_that_was_asked_for_and_says_where_it_comes_from(
    tmp_path: Path, tiny_mnist: Path
) -> None:
    suite = suite_named("table2", "small")
    cells = [Cell(entry, 1) for entry in suite.entries if entry.row in ("FCN 3", "CNN 3") and entry.column == "cdni"]
    store = Store(tmp_path / "s.jsonl")
    run_cells(cells, Where(tiny_mnist), lambda *_: None, keep=store.keep, provenance={"command": "synthgrad x"})
    assert store.missing(cells) == [] and Store(store.path).missing(cells) == []
    assert [result.command for result in store.results] == ["synthgrad x"] * 2
    assert all(isinstance(one, Result) and one.test_error is not None for one in store.results)


def test_a_cell_comes_out_the_same_alone_or_behind_others(tiny_mnist: Path) -> None:
    where, cells = Where(tiny_mnist), suite_named("table2", "small").only("FCN 3").cells(1)
    behind, alone = trained(cells[:4], where)[-1], trained(cells[3:4], where)[-1]
    assert isinstance(behind, Result) and isinstance(alone, Result)
    assert (behind.test_loss, behind.valid_loss) == (alone.test_loss, alone.valid_loss)


def test_every_method_of_every_suite_trains(tiny_mnist: Path) -> None:
    where, seen = Where(tiny_mnist), set()
    for name in ("table2", "single", "sporadic", "unlock"):
        for cell in suite_named(name, "small").cells(1):
            if where.has(cell.entry.training) and cell.entry.name not in seen:
                seen.add(cell.entry.name)
                short = replace(cell.entry, training=replace(cell.entry.training, epochs=1, steps=0))  # pyrefly: ignore
                (result,) = trained([replace(cell, entry=short)], where)
                assert result.failed is None and result.method == cell.entry.name
    assert {"unlock-cdni", "cdni-sporadic-0.2"} <= seen


@pytest.mark.parametrize("column", ["dni", "cdni"])
@pytest.mark.parametrize("row", ["FCN 3", "CNN 3"])
def test_the_papers_own_synthesizers_train(tiny_mnist: Path, row: str, column: str) -> None:
    entry = next(one for one in suite_named("table2", "full").entries if (one.row, one.column) == (row, column))
    short = replace(entry, training=replace(entry.training, steps=2, channels=4))  # pyrefly: ignore
    (result,) = trained([Cell(short, 0)], Where(tiny_mnist))
    assert result.failed is None and result.steps == 2


def test_a_sequence_trains(tmp_path: Path) -> None:
    entry = next(one for one in suite_named("table1", "small").entries if one.column == "logistic")
    short = replace(entry, training=replace(entry.training, steps=3))
    (result,) = trained([Cell(short, 0)], Where())
    assert result.failed is None and result.steps == 3


def test_a_stream_trains_and_is_known_again(tiny_mnist: Path) -> None:
    entry = next(one for one in suite_named("two-speeds", "small").entries if one.column == "sobolev")
    short = Cell(replace(entry, training=replace(entry.training, steps=2)), 1)
    (result,) = trained([short], Where(tiny_mnist))
    assert result.failed is None and result.steps == 2 and identity_of(result) == short.identity
    longer = replace(entry, training=replace(entry.training, period=2, steps=2))  # pyrefly: ignore
    assert Cell(longer, 1).identity != short.identity


def test_what_is_not_there_is_told_before_anything_is_trained(tmp_path: Path, tiny_mnist: Path) -> None:
    suite = suite_named("table2", "small")
    cells = [Cell(entry, 0) for entry in suite.entries if entry.column == "bp"]
    where = Where(tiny_mnist, cifar_dir=tmp_path)
    kept: list[AnyResult] = []
    with pytest.raises(DataError, match="cifar10: got no folder with all six files"):
        run_cells(cells, where, lambda *_: None, keep=kept.append, provenance={})
    with pytest.raises(SettingsError, match="device 'cuda:99'"):
        run_cells(cells[:1], replace(where, device="cuda:99"), lambda *_: None, keep=kept.append, provenance={})
    assert kept == []
