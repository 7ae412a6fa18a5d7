"""A cell is known by what it trains: the same wherever it is trained, another one as soon as anything else differs."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from suite_cells import result_of

from synthgrad.experiments.methods import METHODS, Part
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.results import Result, decode_result, encode_result
from synthgrad.experiments.spec import Training
from synthgrad.experiments.suites.catalog import SUITES, suite_named
from synthgrad.experiments.suites.suite import BUDGETS, Cell, Entry, Suite, Table, Where, identity_of

ALL = [(name, budget) for name in SUITES for budget in BUDGETS]


@pytest.mark.parametrize(("name", "budget"), ALL)
def test_what_a_cell_leaves_is_known_as_that_cell_wherever_it_was_trained(
    name: str, budget: str, tmp_path: Path
) -> None:
    cells = suite_named(name, budget).cells(2)
    for cell in cells:
        here, there = Where(), Where(tmp_path, tmp_path, device="cuda:1", threads=4)
        assert identity_of(result_of(cell, here)) == identity_of(result_of(cell, there)) == cell.identity


@pytest.mark.parametrize(("name", "budget"), ALL)
def test_no_two_figures_of_a_table_are_the_same_cell_unless_nothing_differs(name: str, budget: str) -> None:
    entries = suite_named(name, budget).entries
    assert len({(entry.row, entry.column) for entry in entries}) == len(entries)
    twice = [
        one for one in entries if sum(one.training == two.training and one.name == two.name for two in entries) > 1
    ]
    # With p = 1, as many updates are as many batches.
    assert all(name == "sporadic" and entry.row == "p = 1" for entry in twice)


def test_whatever_else_is_set_makes_another_cell() -> None:
    settings = Training.suited_to("mnist")
    known = identity_of(Result("bp", 0, 1, settings=settings.as_table()))
    others = {"data": "digits", "model": "residual", "cuts": "1", "weight_decay": 0.5, "lr": 0.5, "synthesizer_lr": 0.5}
    places = {"data_dir", "download", "device", "threads"}
    for name in {one.name for one in fields(Training)} - places:
        now = getattr(settings, name)
        changed = others.get(name, not now if isinstance(now, bool) else now * 2 or 1)
        assert identity_of(Result("bp", 0, 1, settings=settings.as_table() | {name: changed})) != known, name
    assert identity_of(Result("dni", 0, 1, settings=settings.as_table())) != known
    assert identity_of(Result("bp", 1, 1, settings=settings.as_table())) != known


def test_a_result_from_before_a_setting_was_thought_of_has_its_default() -> None:
    settings = Training.suited_to("mnist").as_table()
    older = {name: value for name, value in settings.items() if name != "warm_up"}
    assert identity_of(Result("bp", 0, 1, settings=older)) == identity_of(Result("bp", 0, 1, settings=settings))


def test_what_it_was_compared_with_makes_no_other_cell() -> None:
    settings = Training.suited_to("mnist").as_table()
    compared = settings | {"methods": ["bp", "dni"], "seeds": 5}
    assert identity_of(Result("bp", 0, 1, settings=compared)) == identity_of(Result("bp", 0, 1, settings=settings))


def test_a_method_whose_options_have_changed_makes_another_cell() -> None:
    cell = suite_named("table2", "small").only("FCN 3").cells(1)[2]
    now = cell.entry.method(0)
    deeper = replace(now, synthesizer={**now.synthesizer, 1: Part("LinearSynthesizer", {"bias": False})})
    changed = replace(cell, entry=replace(cell.entry, method=lambda _seed: deeper))
    assert changed.identity != cell.identity == identity_of(result_of(cell))
    renamed = replace(cell, entry=replace(cell.entry, method=lambda _seed: replace(now, title="in other words")))
    assert renamed.identity == cell.identity
    older = result_of(cell, test_error=0.1)
    suite = replace(two_rows(), entries=(changed.entry,))
    assert Table.of(suite, [older]).figures == {}  # not shown, and so not taken for what is trained now


# ---- a table ---------------------------------------------------------------------------------------------------------


def two_rows() -> Suite:
    def entry(row: str, column: str, layers: int) -> Entry:
        return Entry(row, column, Training.suited_to("mnist", layers=layers), column, lambda _seed: METHODS[column])

    entries = (entry("A", "bp", 1), entry("A", "dni", 1), entry("B", "bp", 2))
    return Suite("table2", "t", "small", "s", entries, {}, lambda table: [])


def test_a_table_has_means_of_its_cells_alone_each_once() -> None:
    suite = two_rows()
    first, second = Cell(suite.entries[0], 0), Cell(suite.entries[0], 1)
    strange = Cell(replace(suite.entries[0], training=Training.suited_to("mnist", layers=9)), 0)
    errors = ((first, 0.01), (second, 0.03), (first, 0.5), (strange, 0.9))
    table = Table.of(suite, [result_of(cell, test_error=error, valid_error=2 * error) for cell, error in errors])
    assert table.mean("A", "bp") == pytest.approx(2.0) and table.mean("A", "dni") is None
    assert table.rows == ["A"] and table.columns == ["bp"] and len(table.results) == 2


def test_failed_cells_are_counted_and_enter_no_mean() -> None:
    suite = two_rows()
    cells = [Cell(suite.entries[0], seed) for seed in range(2)]
    results = [result_of(cells[0], test_error=0.25), result_of(cells[1], failed="NaN")]
    figure = Table.of(suite, results).figures["A", "bp"]
    assert figure.failed == 1 and figure.score is not None and figure.score.n == 1


def test_a_choice_is_made_on_the_held_out_part_and_not_on_the_test_part() -> None:
    suite = two_rows()
    bp, dni = (Cell(entry, 0) for entry in suite.entries[:2])
    table = Table.of(
        suite, [result_of(bp, test_error=0.1, valid_error=0.3), result_of(dni, test_error=0.2, valid_error=0.2)]
    )
    assert table.chosen("A", ("bp", "dni")) == "dni"
    assert table.chosen("B", ("bp", "dni")) is None


def test_of_a_cell_that_was_read_back_nothing_is_lost() -> None:
    cell = suite_named("table2", "small").cells(1)[0]
    result = result_of(cell, test_error=0.1)
    assert isinstance(result, Result)
    assert identity_of(decode_result(encode_result(result))) == cell.identity


def test_all_entries_have_the_first_seed_before_any_has_the_second() -> None:
    suite = two_rows()
    assert suite.cells(2) == [Cell(entry, seed) for seed in (0, 1) for entry in suite.entries]


def test_some_rows_alone_are_those_that_begin_so() -> None:
    suite = suite_named("table2", "small")
    assert {entry.row for entry in suite.only("FCN").entries} == {f"FCN {layers}" for layers in (3, 4, 5, 6)}
    with pytest.raises(SettingsError, match="'fcn': begins no row of table2; expected one of FCN 3; FCN 4"):
        suite.only("fcn")


def test_cifar_10_is_trained_only_where_its_folder_is_named(tmp_path: Path) -> None:
    entries = suite_named("table2", "small").entries
    there = [entry.row for entry in entries if Where().has(entry.training)]
    assert there and not any(row.startswith("CIFAR") for row in there)
    assert all(Where(cifar_dir=tmp_path).has(entry.training) for entry in entries)
    cifar = next(entry for entry in entries if entry.row.startswith("CIFAR"))
    assert Where(data_dir=Path("elsewhere"), cifar_dir=tmp_path).place(cifar.training).data_dir == tmp_path
