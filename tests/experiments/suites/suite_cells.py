"""Results as training would leave them, for tests that train nothing."""

from typing import Any

from synthgrad.experiments.recipes import recipe_of
from synthgrad.experiments.recurrent.results import RecurrentResult
from synthgrad.experiments.recurrent.spec import RecurrentTraining
from synthgrad.experiments.results import Result
from synthgrad.experiments.suites.suite import AnyResult, Cell, Where

HERE = Where()


def result_of(cell: Cell, where: Where = HERE, **more: Any) -> AnyResult:
    """What training the cell would leave, but for what was measured."""
    training = where.place(cell.entry.training)
    given: dict[str, Any] = {"recipe": recipe_of(cell.entry.method(cell.seed)), **more}
    if isinstance(training, RecurrentTraining):
        own: dict[str, Any] = {"task": training.task, "unroll": training.unroll, "settings": training.as_table()}
        return RecurrentResult(method=cell.entry.name, seed=cell.seed, steps=1, **own | given)
    return Result(cell.entry.name, cell.seed, 1, settings=training.as_table(), **given)
