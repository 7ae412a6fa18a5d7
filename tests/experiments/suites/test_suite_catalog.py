"""Suites are found by name, and hold what the paper's tables hold."""

import pytest

from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.names import UnknownNameError
from synthgrad.experiments.spec import Training
from synthgrad.experiments.suites import paper
from synthgrad.experiments.suites.catalog import SUITES, suite_named, suite_of
from synthgrad.experiments.suites.suite import BUDGETS


def test_a_name_or_a_budget_that_there_is_not_is_told_with_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="suite 'tabel2': unknown; did you mean 'table2'"):
        suite_named("tabel2", "small")
    with pytest.raises(UnknownNameError, match="budget 'smal': unknown; did you mean 'small'"):
        suite_named("table2", "smal")
    with pytest.raises(UnknownNameError, match="suite ''"):
        suite_of("nonsense")


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_file_of_results_tells_its_suite(name: str, budget: str) -> None:
    suite = suite_named(name, budget)
    assert suite.file == f"{name}-{budget}.jsonl"
    assert suite_of(f"{name}-{budget}").entries == suite.entries


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_figure_of_the_paper_stands_beside_one_of_ours(name: str, budget: str) -> None:
    suite = suite_named(name, budget)
    ours = {(entry.row, entry.column) for entry in suite.entries}
    theirs = {(row, column) for row, said in suite.paper.items() for column in said.figures}
    assert theirs <= ours
    assert bool(theirs) == (name != "two-speeds")  # of which the paper has curves, and no table
    assert all(said.source in paper.SOURCES for said in suite.paper.values())


def test_a_row_is_read_as_it_stands_in_the_paper() -> None:
    assert paper.TABLE_1["Copy, T = 4"].figures == {"bptt": 10.0, "dni": 18.0, "dni-aux": 19.0}
    assert paper.TABLE_1["Repeat Copy, T = 5"].figures == {"bptt": 23.0, "dni": 59.0, "dni-aux": 59.0}
    assert paper.TABLE_1["Penn Treebank, T = 40"].figures == {"bptt": 1.34}
    assert paper.TABLE_2["FCN 4"].figures == {"zero": 12.6, "bp": 1.8, "dni": 2.2, "cdni": 1.9}


def test_the_full_budget_is_the_papers() -> None:
    full = {(entry.row, entry.column): entry for entry in suite_named("table2", "full").entries}
    fcn, cnn, cifar = (full[row, "dni"].training for row in ("FCN 3", "CNN 4", "CIFAR-10 CNN 4"))
    for training in (fcn, cnn, cifar):
        assert isinstance(training, Training)
        assert (training.steps, training.batch_size, training.lr, training.synthesizer_lr) == (500_000, 256, 3e-5, 3e-5)
    sizes = [vars(training) for training in (fcn, cnn, cifar, full["CIFAR-10 FCN 3", "bp"].training)]
    assert (sizes[0]["hidden"], sizes[1]["channels"], sizes[2]["channels"], sizes[3]["hidden"]) == (256, 64, 128, 1000)
    deep = full["FCN 3", "dni"].method(0).synthesizer[1]
    wide = full["CIFAR-10 FCN 3", "dni"].method(0).synthesizer[1]
    assert wide.options == {"hidden": 4000, "layers": 1, "batch_norm": True}
    assert (deep.kind, deep.options) == ("MLPSynthesizer", {"hidden": 1024, "layers": 2, "batch_norm": True})


def test_sporadic_updates_have_as_many_updates_as_they_say_and_draw_by_seed() -> None:
    entries = {(entry.row, entry.column): entry for entry in suite_named("sporadic", "small").entries}
    once, few = entries["p = 1", "cdni, equal updates"], entries["p = 0.2", "cdni, equal updates"]
    assert few.training.steps == 5 * once.training.steps
    assert entries["p = 0.2", "cdni, equal batches"].training.steps == once.training.steps
    programs = [few.method(seed).schedule().actions(5, 0) for seed in range(4)]
    assert len(set(programs)) > 1 and programs[0] == few.method(0).schedule().actions(5, 0)
    assert few.method(0).schedule().name.startswith("sporadic(0.2")
    assert once.method(0).synthesizer is METHODS["cdni"].synthesizer
