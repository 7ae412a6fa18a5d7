from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import synthgrad as sg
from synthgrad.core.events import Event, Failed, Finished, Solved, StepDone
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.results import RecurrentResult, decode_recurrent
from synthgrad.experiments.recurrent.runner import RecurrentCell, run_recurrent_comparison
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.streams import Copies, load, stream_of
from synthgrad.experiments.results import encode_result
from synthgrad.models import Recurrent

TINY: dict[str, Any] = {"units": 6, "batch": 4, "steps": 30, "seeds": 1, "width": 2}
CPU = torch.device("cpu")


def run(comparison: RecurrentComparison) -> tuple[list[RecurrentResult], list[tuple[Event, Mapping[str, Any]]]]:
    events: list[tuple[Event, Mapping[str, Any]]] = []
    return run_recurrent_comparison(comparison, lambda event, labels: events.append((event, labels))), events


def timeless(results: list[RecurrentResult]) -> list[RecurrentResult]:
    return [replace(result, seconds=None, ms_per_step=None) for result in results]


def cell(method: str, comparison: RecurrentComparison, seed: int = 0) -> RecurrentCell:
    return RecurrentCell(comparison.method(method), seed, lambda event, labels: None, load(comparison), CPU)


def weights(one: RecurrentCell) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one.model.parameters()]


def train(one: RecurrentCell) -> RecurrentCell:
    for _ in one.turns():
        pass
    return one


def text_of(folder: Path, count: int = 40) -> Path:
    (folder / "some.txt").write_text("to be or not to be, " * count, encoding="utf-8")
    return folder


@pytest.mark.parametrize("core", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("task", ["copy", "repeat-copy", "text"])
def test_without_a_synthetic_gradient_it_is_the_plain_loop_bit_for_bit(tmp_path: Path, task: str, core: str) -> None:
    place = {"data_dir": text_of(tmp_path)} if task == "text" else {}
    # A scale of zero lets the synthesizer run, and nothing of what it says into the net.
    comparison = RecurrentComparison.suited_to(
        task, **TINY | place | {"scale": 0.0, "core": core, "steps": 60, "unroll": 3}
    )
    ours, plain = (train(cell(method, comparison)) for method in ("dni", "bptt"))
    before = weights(cell("bptt", comparison))
    assert all(torch.equal(one, other) for one, other in zip(weights(ours), weights(plain), strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(weights(ours), before, strict=True))
    assert ours.result().score == plain.result().score


def test_all_methods_begin_with_the_same_weights_and_the_seed_decides() -> None:
    comparison = RecurrentComparison(**TINY)
    first = [weights(cell(method, comparison)) for method in ("bptt", "dni", "dni-aux-8")]
    for other in first[1:]:
        assert all(torch.equal(one, two) for one, two in zip(first[0], other, strict=True))
    assert not torch.equal(first[0][0], weights(cell("bptt", comparison, seed=1))[0])


def test_a_comparison_is_the_same_again_and_its_methods_do_not_disturb_each_other() -> None:
    together = RecurrentComparison(**TINY, methods=("bptt", "dni", "dni-aux:lr=1e-2"))
    (results, _), (again, _) = run(together), run(together)
    assert timeless(results) == timeless(again)
    alone, _ = run(replace(together, methods=("dni",)))
    assert timeless(alone)[0] == timeless(results)[1]
    assert [result.settings["lr"] for result in results] == [1e-3, 1e-3, 1e-2]


def test_a_task_within_its_window_is_solved() -> None:
    comparison = RecurrentComparison(
        **TINY | {"units": 16, "batch": 16, "steps": 400, "width": 1}, lr=3e-2, unroll=8, limit=0.5, methods=("bptt",)
    )
    (result,), events = run(comparison)
    told = [event for event, _ in events if isinstance(event, Solved)]
    assert result.solved is not None and result.solved >= 1 and told[-1].longest == result.solved
    assert result.characters == 400 * 8 * 16
    assert [event for event, _ in events if isinstance(event, Finished)]


def test_text_is_judged_by_the_bits_of_the_whole_test_part(tmp_path: Path) -> None:
    comparison = RecurrentComparison.suited_to("text", **TINY, data_dir=text_of(tmp_path), methods=("dni",), unroll=3)
    one = train(cell("dni", comparison))
    text = load(comparison)
    assert text is not None and one.result().test_bits == one.result().score
    lanes = min(32, len(text.test) - 1)
    steps = (len(text.test) - 1) // lanes
    rows = torch.stack([text.test[lane * steps : lane * steps + steps + 1] for lane in range(lanes)])
    with torch.no_grad():
        scores = one.model(rows[:, :-1])[0]
    nats = functional.cross_entropy(scores.flatten(0, 1), rows[:, 1:].flatten())
    assert one.result().test_bits == pytest.approx(float(nats) / 0.6931471805599453, rel=1e-5)


def test_a_text_is_read_in_order_and_begun_anew(tmp_path: Path) -> None:
    comparison = RecurrentComparison.suited_to("text", **TINY, data_dir=text_of(tmp_path), unroll=50)
    text = load(comparison)
    assert text is not None
    stream = stream_of(comparison.method("bptt").training, 0, text, CPU)
    lane = (len(text.train) - 1) // 4
    windows = [stream.window() for _ in range(2 * (lane // 50))]
    read = torch.cat([window.inputs for window in windows[: lane // 50]], dim=1)
    assert torch.equal(read[0], text.train[: read.shape[1]]) and torch.equal(
        read[1], text.train[lane : lane + read.shape[1]]
    )
    assert torch.equal(windows[0].inputs, windows[lane // 50].inputs)
    assert [bool(window.ends.all()) for window in windows[: lane // 50]] == [False] * (lane // 50 - 1) + [True]


def test_bp_lambda_in_a_comparison_is_bp_lambda_in_a_loop_of_ones_own() -> None:
    comparison = RecurrentComparison(**TINY, scale=0.8)
    method = comparison.method("bp-lambda:reach=0.5:lr=1e-2")
    ours = train(cell("bp-lambda:reach=0.5:lr=1e-2", comparison))
    torch.manual_seed(0)
    stream = stream_of(method.training, 0, None, CPU)
    model = stream.model(method.training)
    adam = partial(torch.optim.Adam, fused=True)
    net = sg.bp_lambda(
        model.core,
        head=model.output,
        lambda_=0.5,
        gamma=0.8,
        loss=stream.loss,
        optimizer=partial(adam, lr=1e-2),
        synthesizer_optimizer=partial(adam, lr=3e-3),
    )
    for _ in range(30):
        window = stream.window()
        net.step(window.inputs, target=window.target, ends=window.ends)
        stream.cost()
        assert isinstance(stream, Copies)
        stream.learned()
    assert all(torch.equal(one, other) for one, other in zip(weights(ours), model.parameters(), strict=True))
    assert ours.result().agreement and ours.result().unroll == 1


def test_a_result_tells_the_way_to_it(tmp_path: Path) -> None:
    solving = RecurrentComparison(
        **TINY | {"units": 16, "batch": 16, "steps": 400, "width": 1}, lr=3e-2, unroll=8, limit=0.5, methods=("bptt",)
    )
    (copied,), events = run(solving)
    solved = [(event.step, float(event.longest)) for event, _ in events if isinstance(event, Solved)]
    assert list(copied.curve) == solved and solved[-1][1] == copied.solved
    place = {"data_dir": text_of(tmp_path), "methods": ("bptt",), "unroll": 3, "evaluations": 3}
    (read,), _ = run(RecurrentComparison.suited_to("text", **TINY | place))
    assert [step for step, _ in read.curve] == [10, 20, 30] and read.curve[-1][1] == read.valid_bits
    assert decode_recurrent(encode_result(read)) == read


def test_events_of_a_long_run_are_few() -> None:
    comparison = RecurrentComparison(**TINY | {"steps": 1100, "units": 2, "batch": 1}, methods=("bptt",))
    _, events = run(comparison)
    steps = [event.step for event, _ in events if isinstance(event, StepDone)]
    assert len(steps) == 550 and steps[-1] == 1100


def test_a_cell_that_fails_is_a_result_and_leaves_the_others_alone() -> None:
    comparison = RecurrentComparison(**TINY, methods=("bptt:lr=1e38", "bptt", "dni:lr=1e38"))
    results, events = run(comparison)
    assert [result.failed is None for result in results] == [False, True, False]
    assert results[0].score is None and results[0].solved is None
    assert len([event for event, _ in events if isinstance(event, Failed)]) == 2


def test_a_window_longer_than_the_text(tmp_path: Path) -> None:
    comparison = RecurrentComparison.suited_to(
        "text", **TINY, data_dir=text_of(tmp_path, 9), unroll=90, methods=("bptt",)
    )
    with pytest.raises(
        SettingsError, match="unroll is 90: the text has .* characters for each of 4 lanes; take a shorter"
    ):
        run(comparison)


def test_a_model_that_fits_its_task() -> None:
    comparison = RecurrentComparison(**TINY, task="repeat-copy", layers=2)
    model = stream_of(comparison.method("bptt").training, 0, None, CPU).model(comparison)
    assert isinstance(model, Recurrent) and model.core.num_layers == 2
    assert (model.core.input_size, model.output.out_features) == (4, 3)


def test_the_loss_of_a_window_is_the_sum_over_its_steps_by_lanes() -> None:
    stream = stream_of(RecurrentComparison(**TINY).method("bptt").training, 0, None, CPU)
    for _ in range(12):
        window = stream.window()
        digits, mask = (part.flatten(0, 1) for part in window.target)
        # All guessed: each step that counts costs a bit, wherever in the window it stands.
        loss = stream.loss.function(torch.zeros_like(digits), (digits, mask))
        assert float(loss) == pytest.approx(float(mask.sum()) * 0.6931472 / 4)
        assert stream.loss.count((digits, mask), 16) == 4
        assert stream.cost() == (pytest.approx(float(mask.sum()) * 0.6931472), int(mask.sum()))
