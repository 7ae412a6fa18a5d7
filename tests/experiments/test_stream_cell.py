"""A cell at two speeds: its figures come again, its judge counts what it was shown, and a bad end is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from synthgrad.core.events import Evaluated, Event, Failed, Finished, Started
from synthgrad.data import DigitStream
from synthgrad.experiments.material import load
from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import SettingsError, StreamTraining, Training
from synthgrad.experiments.two_speeds import StreamCell, _counted


@pytest.fixture(scope="module")
def training(tiny_mnist: Path) -> StreamTraining:
    sizes: dict[str, Any] = {"hidden": 16, "batch_size": 8, "lr": 5e-3}
    return StreamTraining.suited_to("mnist", data_dir=tiny_mnist, period=2, steps=6, **sizes)


def trained(training: StreamTraining, method: str, seed: int = 0) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    cell = StreamCell(training, METHODS[method], seed, lambda event, _: events.append(event), load(training, 0))
    for _ in cell.turns():
        torch.rand(3)  # others draw in the pauses
    return cell.result(), events


@pytest.mark.parametrize("method", ["bp", "zero", "dni", "logistic", "sobolev"])
def test_a_cell_comes_out_again_and_another_seed_does_not(training: StreamTraining, method: str) -> None:
    (first, events), (again, _), (other, _) = (trained(training, method, seed) for seed in (0, 0, 1))
    assert (first.test_loss, first.valid_loss) == (again.test_loss, again.valid_loss)
    assert first.test_loss != other.test_loss and first.failed is None and first.steps == 6
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert [event.split for event in events if isinstance(event, Evaluated)] == ["valid"] * 4 + ["test"]
    assert ("message" in first.agreement) == (method not in ("bp", "zero"))


def test_all_methods_begin_with_the_same_nets(training: StreamTraining) -> None:
    data = load(training, 0)
    cells = [StreamCell(training, METHODS[name], 0, lambda *_: None, data) for name in ("bp", "sobolev")]
    one, other = (torch.cat([weight.flatten() for weight in cell.nets.nets.parameters()]) for cell in cells)
    assert torch.equal(one, other)


class _Shown(nn.Module):
    """A net that adds up what it sees: a digit that shows whether it is a three, or a message."""

    def forward(self, chunk: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        sums = chunk.cumsum(0) + (0 if state is None else state)
        return sums, sums[-1]


def test_the_judge_asks_at_the_end_of_each_stretch_and_carries_the_states_on(training: StreamTraining) -> None:
    labels = torch.arange(10)
    stream = DigitStream((labels == 3).float().unsqueeze(1), labels, period=3, lanes=40, seed=0)
    windows = [next(stream) for _ in range(6)]
    nets = StreamCell(training, METHODS["zero"], 0, lambda *_: None, load(training, 0)).nets
    nets.nets["fast"], nets.nets["slow"], nets.nets["slow_head"] = _Shown(), _Shown(), nn.Identity()
    scores, threes = _counted(nets, windows)
    shown = torch.stack([window.images.sum(0) for window in windows]).cumsum(0).cumsum(0)  # (6, 40, 1)
    assert torch.equal(scores, torch.cat([shown[2], shown[5]]))
    assert torch.equal(threes, torch.cat([window.threes for window in windows if window.threes is not None]))


def test_a_rate_that_is_too_high_is_a_failed_cell_without_figures(training: StreamTraining) -> None:
    result, events = trained(replace(training, lr=3e38, steps=50), "bp")
    assert result.failed is not None and result.steps < 50
    assert isinstance(events[-1], Failed) and (result.test_error, result.valid_error) == (None, None)


def test_a_stream_is_no_training_on_images_and_wants_a_length() -> None:
    stream = StreamTraining.suited_to("digits", steps=5)
    assert stream != Training.suited_to("digits", steps=5)
    assert StreamTraining.from_table(stream.as_table(), "here") == stream
    with pytest.raises(SettingsError, match="steps is 0"):
        StreamTraining.suited_to("digits")
    with pytest.raises(SettingsError, match="period is 0"):
        StreamTraining.suited_to("digits", steps=5, period=0)
