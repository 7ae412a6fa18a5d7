"""What is said of a table turns with its figures."""

from collections.abc import Mapping

import pytest
from suite_cells import result_of

from synthgrad.experiments.suites.catalog import suite_named
from synthgrad.experiments.suites.suite import Cell, Table


def said(suite_name: str, figures: Mapping[tuple[str, str], float], *, seeds: int = 2) -> str:
    """The claims of a table with these figures, the same for each seed: errors in percent, or lengths."""
    suite = suite_named(suite_name, "small")
    results = []
    for entry in suite.entries:
        value = figures.get((entry.row, entry.column))
        if value is not None and suite_name == "table1":
            results += [result_of(Cell(entry, seed), solved=round(value)) for seed in range(seeds)]
        elif value is not None:
            errors = {"test_error": value / 100, "valid_error": value / 100}
            results += [result_of(Cell(entry, seed), **errors) for seed in range(seeds)]
    return "\n".join(suite.claims(Table.of(suite, results)))


@pytest.mark.parametrize("name", ["table1", "table2", "single", "sporadic", "unlock", "two-speeds"])
def test_of_an_empty_table_nothing_is_said(name: str) -> None:
    assert said(name, {}) == ""


PAPER = {
    (f"FCN {layers}", column): error
    for layers, errors in {3: (2.0, 9.3, 1.9, 2.2), 4: (1.8, 12.6, 2.2, 1.9), 6: (1.8, 21.4, 4.3, 1.6)}.items()
    for column, error in zip(("bp", "zero", "dni", "cdni"), errors, strict=True)
}


def test_of_the_papers_own_figures_the_ordering_holds() -> None:
    claims = said("table2", PAPER)
    assert "FCN: the paper's ordering holds; the worst of its four: FCN 3 zero, FCN 4 zero, FCN 6 zero." in claims
    assert "FCN: the paper's ordering by depth holds" in claims
    assert "FCN 3: cdni is +0.20 points from back-propagation (to be within 0.2): reached." in claims
    assert "FCN 6: cdni, the best decoupled signal on the held-out part, is -0.20 points" in claims


def test_another_worst_one_is_told_with_its_row() -> None:
    claims = said("table2", PAPER | {("FCN 4", "dni"): 30.0})
    assert (
        "the paper's ordering does not hold; the worst of its four: FCN 3 zero, FCN 4 dni (in the paper zero)" in claims
    )
    assert "FCN: the paper's ordering by depth does not hold" in claims


def test_of_rows_that_are_not_whole_no_order_is_told() -> None:
    claims = said("table2", {place: error for place, error in PAPER.items() if place != ("FCN 6", "dni")})
    assert "the worst of its four: FCN 3 zero, FCN 4 zero." in claims


def test_the_paper_itself_has_another_worst_one_in_a_convolutional_net() -> None:
    figures = {
        ("CNN 3", column): error for column, error in zip(("bp", "zero", "dni", "cdni"), (1, 9, 3, 2), strict=True)
    }
    assert "CNN: the paper's ordering does not hold; the worst of its four: CNN 3 zero (in the paper cdni)." in said(
        "table2", figures
    )


def test_a_bar_is_missed_by_little() -> None:
    assert "FCN 4: cdni is +0.21 points from back-propagation (to be within 0.2): not reached." in said(
        "table2", {("FCN 4", "bp"): 1.5, ("FCN 4", "cdni"): 1.71}
    )


def test_of_the_forms_of_cdni_each_has_a_verdict_of_its_own() -> None:
    figures = {
        ("FCN 3", "bp"): 1.5,
        ("FCN 3", "cdni"): 2.0,
        ("FCN 3", "cdni-exact"): 1.71,
        ("FCN 3", "cdni-belief"): 1.6,
    }
    said_of = said("table2", figures).splitlines()
    verdicts = [line.rpartition(": ")[2] for line in said_of if line.startswith("FCN 3: cdni")]
    assert verdicts == ["not reached.", "not reached.", "reached."]
    claims = said("table2", {("FCN 6", "bp"): 1.6, ("FCN 6", "cdni"): 2.8, ("FCN 6", "cdni-belief"): 1.7})
    assert "FCN 6: cdni-belief, the best decoupled signal on the held-out part, is +0.10 points" in claims


@pytest.mark.parametrize(("few", "verdict"), [(2.4, "reached"), (2.6, "not reached")])
def test_sporadic_updates_are_judged_at_equal_updates(few: float, verdict: str) -> None:
    figures = {("p = 1", "cdni, equal updates"): 2.0, ("p = 0.2", "cdni, equal updates"): few}
    worse = {("p = 0.2", "cdni, equal batches"): 50.0}
    (claim,) = said("sporadic", figures | worse).splitlines()
    assert claim.endswith(f": {verdict}.") and f"{few - 2.0:+.2f} points" in claim


@pytest.mark.parametrize(("error", "verdict"), [(3.0, "reached"), (3.01, "not reached")])
def test_the_complete_unlock_is_to_be_at_most_3_percent(error: float, verdict: str) -> None:
    figures = {("inputs and gradients predicted", "cdni"): error, ("back-propagation", "bp"): 9.0}
    assert said("unlock", figures) == f"cdni: {error:.2f} % (to be at most 3 %): {verdict}."


def test_a_verdict_by_one_seed_says_so() -> None:
    figures = {("inputs and gradients predicted", "cdni"): 2.0}
    assert said("unlock", figures, seeds=1).endswith(": reached, by one seed alone.")


def test_one_cut_alone() -> None:
    figures = {(f"cut after layer {layer}", "zero"): 2.0 + layer for layer in (1, 5)}
    figures |= {(f"cut after layer {layer}", "dni"): 1.0 + layer for layer in (1, 5)}
    claims = said("single", figures)
    assert "dni is better than no gradient at every cut." in claims and "of dni that holds: 2.00 %" in claims
    claims = said("single", figures | {("cut after layer 1", "dni"): 8.0})
    assert "dni is not better than no gradient at: cut after layer 1." in claims
    assert "of dni that does not hold" in claims


def test_longer_is_better_in_time() -> None:
    figures = {("Copy, T = 2", "bptt"): 7, ("Copy, T = 2", "dni"): 16, ("Copy, T = 4", "bptt"): 10}
    figures |= {("Copy, T = 4", "dni"): 10}
    assert "dni is better than truncated back-propagation with the same window in 1 of 2 rows" in said(
        "table1", figures
    )


def test_at_two_speeds_a_signal_is_compared_with_nothing_and_with_waiting() -> None:
    row = "T = 3, 500 stretches"
    figures = {(row, "bp"): 20.0, (row, "zero"): 50.0, (row, "sobolev"): 15.5}
    assert said("two-speeds", figures) == (
        f"{row}: sobolev is -34.50 points from nothing that comes back and -4.50 points from back-propagation through "
        f"both nets."
    )
    assert said("two-speeds", figures, seeds=1).endswith("both nets, by one seed alone.")
    assert said("two-speeds", {place: error for place, error in figures.items() if place[1] != "zero"}) == ""
