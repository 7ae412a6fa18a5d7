import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from synthgrad.core.events import Evaluated, Event, Failed, Finished, Probed, Started, StepDone
from synthgrad.experiments.methods import METHODS, method_named
from synthgrad.experiments.results import Result
from synthgrad.experiments.runner import Cell, PlainLoop, run_comparison
from synthgrad.experiments.spec import Comparison
from synthgrad.experiments.turns import TURN

SMALL = Comparison(methods=("bp", "cdni"), seeds=1, epochs=2, hidden=8, layers=2, probes=3)


class Recorder:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, Mapping[str, Any]]] = []

    def __call__(self, event: Event, labels: Mapping[str, Any]) -> None:
        self.events.append((event, labels))

    def of(self, method: str) -> list[Event]:
        return [event for event, labels in self.events if labels["method"] == method]


def trained(method: str, comparison: Comparison = SMALL, seed: int = 0) -> Cell:
    cell = Cell(comparison, method_named(method), seed, Recorder())
    for _ in cell.turns():
        pass
    return cell


def numbers(result: Result) -> Result:
    """All that must be the same in a rerun."""
    return replace(result, ms_per_step=None)


def test_a_plain_loop_and_staged_back_propagation_end_with_the_same_weights() -> None:
    plain, staged = (trained(method).net.plain.state_dict() for method in ("bp", "staged"))
    assert plain.keys() == staged.keys()
    for name, value in plain.items():
        # The same operations in the same order: so exactly.
        torch.testing.assert_close(staged[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_from_the_same_weights(method: str) -> None:
    ours, its = (Cell(SMALL, method_named(name), 3, Recorder()).net.plain.state_dict() for name in (method, "bp"))
    for name, value in its.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


def test_a_rerun_gives_the_same_numbers() -> None:
    comparison = replace(SMALL, methods=tuple(METHODS))
    first, again = (list(map(numbers, run_comparison(comparison, Recorder()))) for _ in range(2))
    assert first == again


def test_what_runs_beside_a_method_changes_nothing() -> None:
    alone = numbers(trained("cdni").result())
    beside = run_comparison(replace(SMALL, methods=("dni", "cdni", "zero")), Recorder())[1]
    assert replace(numbers(beside), settings=alone.settings) == alone


def test_methods_take_turns_within_an_epoch() -> None:
    recorder = Recorder()
    run_comparison(replace(SMALL, batch_size=16), recorder)
    steps = [labels["method"] for event, labels in recorder.events if isinstance(event, StepDone)]
    assert steps[: 3 * TURN] == ["bp"] * TURN + ["cdni"] * TURN + ["bp"] * TURN


UNTAUGHT = {
    "bp",
    "staged",
    "zero",
    "local",
    "local-zero",
    "local-block",
    "predsim",
    "dfa",
}  # nothing comes back to learn from
ROWS_ALONE = {"cdni-exact", "cdni-belief"}  # what is solved for grows with the square of a row's features


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ROWS_ALONE])
@pytest.mark.parametrize("model", ["convolutional", "residual"])
def test_networks_of_maps_are_trained_by_every_method(method: str, model: str) -> None:
    comparison = replace(SMALL, model=model, channels=2, epochs=1, steps=12, cuts="layer2")
    result = trained(method, comparison).result()
    assert result.failed is None and result.test_error is not None
    assert set(result.agreement) == (set() if method in UNTAUGHT else {"layer2"})


@pytest.mark.parametrize("method", [name for name in METHODS if name != "unlock"])
def test_a_transformer_is_trained_on_text_by_every_method(method: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("the quick brown fox jumps over the lazy dog, and again. " * 30, encoding="utf-8")
    sizes = {"layers": 2, "hidden": 8, "heads": 2, "context": 8, "batch_size": 4, "steps": 30, "probes": 2}
    cell = trained(method, Comparison.suited_to("text", data_dir=file, **sizes))
    result = cell.result()
    assert result.failed is None and result.steps == 30
    assert result.test_loss is not None and result.test_loss < math.log(cell.split.classes)  # better than no idea
    assert set(result.agreement) == (set() if method in UNTAUGHT else {"layer1"})


def test_so_many_steps_are_evaluated_ten_times_wherever_epochs_end() -> None:
    recorder = Recorder()
    cell = Cell(replace(SMALL, steps=25), method_named("bp"), 0, recorder)
    for _ in cell.turns():
        pass
    valid = [event.step for event in recorder.of("bp") if isinstance(event, Evaluated) and event.split == "valid"]
    assert cell.total == 25 and valid == list(range(3, 25, 3))


@pytest.mark.parametrize("warm_up", [0, 4])
def test_the_learning_rate_rises_along_a_line_and_falls_along_a_cosine(warm_up: int) -> None:
    cell = Cell(replace(SMALL, steps=10, warm_up=warm_up), method_named("bp"), 0, Recorder())
    assert isinstance(cell.net, PlainLoop)
    rates = []
    for _ in range(10):
        rates.append(cell.net.optimizer.param_groups[0]["lr"] / SMALL.lr)
        images, labels, _ = cell._next_batch()
        cell.net.step(images, target=labels)
    fall = [(1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    rise = [min(1.0, (step + 1) / (warm_up + 1)) for step in range(10)]
    assert rates == pytest.approx([up * down for up, down in zip(rise, fall, strict=True)])


def test_a_rank_and_fewer_cuts_give_other_numbers() -> None:
    full, low = (trained("cdni", replace(SMALL, rank=rank)).result() for rank in (0, 2))
    assert full.test_loss != low.test_loss
    assert set(trained("cdni", replace(SMALL, cuts="1")).result().agreement) == {"layer1"}


def test_seeds_differ() -> None:
    assert trained("bp", seed=0).result().test_loss != trained("bp", seed=1).result().test_loss


def test_the_events_of_a_cell() -> None:
    recorder = Recorder()
    (result,) = run_comparison(replace(SMALL, methods=("cdni",)), recorder)
    events = recorder.of("cdni")
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert events[0].locks == result.locks == ("forward",)
    counts = Counter(type(event) for event in events)
    assert counts[StepDone] == result.steps == events[0].settings["steps"] == 2 * 20
    assert counts[Probed] == SMALL.probes
    assert [event.split for event in events if isinstance(event, Evaluated)] == ["valid", "valid", "test"]
    assert set(result.agreement) == set(result.alignment) == {"layer1", "layer2"}


def test_the_random_state_and_the_threads_are_left_as_they_were() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run_comparison(replace(SMALL, methods=("bp",), threads=threads + 1, epochs=1), Recorder())
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_locks_are_those_of_the_plan() -> None:
    found = {name: Cell(SMALL, method, 0, Recorder()).lock_names for name, method in METHODS.items()}
    assert found == {
        "bp": ("forward", "update", "backward"),
        "staged": ("forward", "update", "backward"),
        "zero": ("forward",),
        "dni": ("forward",),
        "cdni": ("forward",),
        "unlock": (),
        "logistic": ("forward",),
        "sobolev": ("forward",),
        "sobolev-zero": ("forward",),
        "sobolev-fourth": ("forward",),
        "critic": ("forward",),
        "critic-zero": ("forward",),
        "local": ("forward",),
        "local-zero": ("forward",),
        "local-block": ("forward",),
        "critic-block": ("forward",),
        "predsim": ("forward",),
        "dfa": ("forward", "update"),
        "stale": ("forward",),
        "cdni-exact": ("forward",),
        "cdni-belief": ("forward",),
        "cdni-replay": ("forward",),
        "cdni-average": ("forward",),
        "cdni-normal": ("forward",),
        "cdni-clip": ("forward",),
        "cdni-warm": ("forward", "update", "backward"),
        "cdni-true": ("forward", "update", "backward"),
    }


def test_a_cell_that_fails_is_recorded_and_the_others_go_on() -> None:
    recorder = Recorder()
    # Only synthesizers use this learning rate.
    bp, cdni = run_comparison(replace(SMALL, synthesizer_lr=1e30), recorder)
    assert bp.failed is None and bp.test_error is not None
    assert cdni.failed is not None and "not finite" in cdni.failed
    assert cdni.test_error is None and cdni.steps < bp.steps
    assert isinstance(recorder.of("cdni")[-1], Failed)


def test_a_plain_loop_that_diverges_has_failed() -> None:
    result = trained("bp", replace(SMALL, lr=1e30)).result()
    assert result.failed is not None and result.test_error is None


def test_each_result_is_handed_over_with_its_provenance() -> None:
    kept: list[Result] = []
    results = run_comparison(SMALL, Recorder(), keep=kept.append, provenance={"command": "x"})
    assert kept == results
    assert {result.command for result in kept} == {"x"}
