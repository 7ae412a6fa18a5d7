"""Law 9: a batch split into accumulated parts gives the same targets, and so the same learning, within rounding.

(Where no layer mixes examples. Over ranks of unequal size: with the distributed engine.)
"""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from problems import CLASSES, SGD, batches, decoupled, furthest, perceptron
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.core.batch import Context

EPSILON = torch.finfo(torch.float32).eps


class Listener(sg.Synthesizer):
    """Answers with a fixed linear map, and writes down the targets it is taught."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(shape[-1], shape[-1])
        self.targets: list[Tensor] = []

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        return self.linear(activation)

    def learn(self, activation: Tensor, answer: sg.Answer, context: Context, feedback: sg.Feedback) -> Tensor | None:
        assert feedback.target_grad is not None
        self.targets.append(feedback.target_grad)
        return super().learn(activation, answer, context, feedback)


def one_step(
    rows: int, parts: int, loss: sg.Loss, seed: int, batch: tuple[Tensor, Tensor] | None = None
) -> tuple[sg.Decoupled, list[Tensor]]:
    torch.manual_seed(seed)
    model = perceptron(3)
    net = decoupled(model, sg.update_unlocked(microbatches=parts), Listener, SGD, rows=rows, loss=loss)
    x, y = batch or next(batches(1, rows, seed=seed))
    net.step(x, target=y)
    net.flush()
    listeners = [stage.synthesizer.module for stage in net.stages if stage.synthesizer]
    return net, [torch.cat(listener.targets) for listener in listeners]


def masked(output: Tensor, target: Tensor) -> Tensor:
    """A mean over the rows that are not class 0, as with `ignore_index`."""
    return F.cross_entropy(output, target, ignore_index=0)


LOSSES = {
    "mean": sg.Loss(F.cross_entropy),
    "terms": sg.Loss(partial(F.cross_entropy, reduction="none")),
}


@given(rows=st.integers(2, 20), parts=st.integers(2, 6), seed=st.integers(0, 100), name=st.sampled_from(sorted(LOSSES)))
def test_parts_of_any_size_learn_as_the_whole(rows: int, parts: int, seed: int, name: str) -> None:
    """Tolerance: sums over at most 20 rows in another order."""
    parts = min(parts, rows)
    loss = LOSSES[name]
    whole, targets = one_step(rows, 1, copy.copy(loss), seed)
    split, split_targets = one_step(rows, parts, copy.copy(loss), seed)
    for ours, theirs in zip(split_targets, targets, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=32 * EPSILON, atol=32 * EPSILON)
    assert furthest(whole, split) <= 64 * EPSILON  # weights of the model and of the synthesizers


def test_a_masked_mean_learns_as_the_whole_when_its_terms_are_counted() -> None:
    loss = sg.Loss(masked, terms=lambda target: int((target != 0).sum()))
    whole, targets = one_step(24, 1, loss, seed=3)
    split, split_targets = one_step(24, 4, loss, seed=3)
    for ours, theirs in zip(split_targets, targets, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=32 * EPSILON, atol=32 * EPSILON)
    assert furthest(whole, split) <= 64 * EPSILON


def test_the_target_of_a_row_does_not_depend_on_the_batch_it_is_in() -> None:
    x, y = next(batches(1, 16))
    _, (_, alone) = one_step(1, 1, sg.Loss(F.cross_entropy), 0, (x[:1], y[:1]))
    _, (_, among) = one_step(16, 1, sg.Loss(F.cross_entropy), 0, (x, y))
    torch.testing.assert_close(alone[0], among[0], rtol=32 * EPSILON, atol=32 * EPSILON)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_reported_is_the_mean_of_the_whole_batch(parts: int) -> None:
    model = perceptron(3)
    x, y = next(batches(1, 10))
    expected = F.cross_entropy(model(x), y)
    net = decoupled(model, sg.update_unlocked(microbatches=parts), partial(sg.LinearSynthesizer, classes=CLASSES), SGD)
    loss = net.step(x, target=y).loss
    torch.testing.assert_close(loss, expected)
