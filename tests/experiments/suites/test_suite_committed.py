"""The committed results are those of the suites as they are, and come out again."""

import os
import re
from pathlib import Path

import pytest

from synthgrad.experiments.results import Result
from synthgrad.experiments.suites.catalog import suite_named, suite_of
from synthgrad.experiments.suites.runner import run_cells
from synthgrad.experiments.suites.store import Store
from synthgrad.experiments.suites.suite import AnyResult, Table, Where, identity_of

COMMITTED = Path(__file__).parents[3] / "results" / "reproduce"
FILES = sorted(COMMITTED.glob("*.jsonl"))
TOLERANCE = 0.002  # a fifth of a point: other processors add in another order, and the runs drift apart


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_is_a_cell_of_its_suite_and_says_how_it_was_made(path: Path) -> None:
    store = Store(path)
    assert store.broken == []
    assert len(Table.of(suite_of(path.stem), store.results).results) == len(store.results)
    for result in store.results:
        assert result.command.startswith("synthgrad ") and result.versions["torch"] and result.hardware["cpu"]
        assert result.settings and "/" not in re.sub(r"results/\S+", "", result.command)  # nobody's folders


@pytest.mark.skipif("SYNTHGRAD_DATA" not in os.environ, reason="SYNTHGRAD_DATA names no folder with real data")
def test_a_committed_cell_comes_out_again() -> None:
    if not Path(os.environ["SYNTHGRAD_DATA"], "mnist").is_dir():
        pytest.skip("no MNIST in SYNTHGRAD_DATA")
    cell = next(one for one in suite_named("table2", "small").cells(1) if one.entry.label == "FCN 4, bp")
    committed = {identity_of(one): one for one in Store(COMMITTED / "table2-small.jsonl").results}
    kept: list[AnyResult] = []
    run_cells([cell], Where(), lambda event, labels: None, keep=kept.append, provenance={})
    before, (again,) = committed[cell.identity], kept
    assert isinstance(before, Result) and isinstance(again, Result)
    assert before.test_error is not None and again.test_error is not None
    assert abs(again.test_error - before.test_error) <= TOLERANCE
