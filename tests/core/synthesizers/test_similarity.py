"""Similarity matching against the formula, written as loops. Legend: B batch, T time, D features, C channels."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad import Context, CriticSynthesizer, Feedback, SimilaritySynthesizer, SynthgradError, linear_head

CLASSES = 4
FLAT, TIME, MAP, COLORS, POINT = (6,), (3, 6), (5, 3, 4), (3, 4, 4), (5, 1, 1)
FEEDBACK = Feedback()


def pooling_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), linear_head((torch.Size(shape).numel(),), outputs))


def stirred(shape: tuple[int, ...], **given: Any) -> SimilaritySynthesizer:
    synthesizer = SimilaritySynthesizer(shape, classes=CLASSES, **given).double()
    with torch.no_grad():
        for parameter in synthesizer.parameters():
            parameter.normal_(0, 0.5)
    return synthesizer


def sample(shape: tuple[int, ...], rows: int = 5) -> tuple[Tensor, Context]:
    each = (rows, shape[0]) if len(shape) == 2 else (rows,)
    return torch.randn(rows, *shape, dtype=torch.float64), Context(torch.randint(0, CLASSES, each))


def alike(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of two vectors, each less its mean."""
    a, b = a - a.mean(), b - b.mean()
    return a @ b / (a.square().sum().sqrt() * b.square().sum().sqrt())


def mismatch(rows: Tensor, labels: Tensor) -> Tensor:
    """Of the rows (B, D) with their labels (B,): a loop over the pairs, and in place of S(onehot(y)) its two values."""
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows))]
    wanted = [1.0 if labels[i] == labels[j] else -1.0 / (CLASSES - 1) for i, j in pairs]
    found = [alike(rows[i], rows[j]) for i, j in pairs]
    return torch.stack([(f - w) ** 2 for f, w in zip(found, wanted, strict=True)]).sum() / len(rows)


def by_loops(synthesizer: SimilaritySynthesizer, activation: Tensor, labels: Tensor) -> Tensor:
    """The whole local loss."""
    output, features = synthesizer.critic.head(activation), synthesizer.projection(activation)
    prediction = functional.cross_entropy(output.flatten(0, -2), labels.flatten(), reduction="sum")
    if labels.dim() == 2:  # step by step
        matching = torch.stack([mismatch(features[:, t], labels[:, t]) for t in range(labels.shape[1])]).sum()
    elif features.dim() == 4 and features.shape[1] > 3 and features[0, 0].numel() > 1:
        spread = (features - features.mean((2, 3), keepdim=True)).square().sum((2, 3)) / (features[0, 0].numel() - 1)
        matching = mismatch(spread.sqrt(), labels)
    else:
        matching = mismatch(features.flatten(1), labels)
    return (1 - synthesizer.similarity) * prediction + synthesizer.similarity * matching


@pytest.mark.parametrize("shape", [FLAT, TIME, MAP, COLORS, POINT], ids=str)
@pytest.mark.parametrize("similarity", [0.0, 0.3, 0.99, 1.0])
def test_loss_and_gradients_are_those_of_the_formula(shape: tuple[int, ...], similarity: float) -> None:
    """In double precision, so that the tolerance tells rounding from a wrong term."""
    synthesizer, (activation, context) = stirred(shape, similarity=similarity), sample(shape)
    labels, leaf = context.labels, activation.clone().requires_grad_()
    assert labels is not None
    expected = by_loops(synthesizer, leaf, labels)
    weights = list(synthesizer.parameters())
    grad, *grads = torch.autograd.grad(expected, [leaf, *weights])
    answer = synthesizer.answer(activation, context)
    torch.testing.assert_close(answer.grad, grad, rtol=1e-9, atol=1e-10)
    loss = synthesizer.learn(activation, answer, context, FEEDBACK)
    assert loss is not None and loss is answer.loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    for weight, wanted in zip(weights, grads, strict=True):
        torch.testing.assert_close(weight.grad, wanted, rtol=1e-9, atol=1e-10)


def test_with_one_label_for_an_example_its_tokens_are_one_row() -> None:
    synthesizer = stirred(TIME, head=pooling_head)
    activation, labels = sample(TIME)[0], torch.tensor([0, 1, 2, 1, 0])
    leaf = activation.clone().requires_grad_()
    (expected,) = torch.autograd.grad(by_loops(synthesizer, leaf, labels), leaf)
    torch.testing.assert_close(synthesizer(activation, Context(labels)), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", [FLAT, TIME, MAP], ids=str)
def test_the_loss_grows_as_a_sum_over_examples_does(shape: tuple[int, ...]) -> None:
    """Each example twice: twice the loss, and every row's gradient as before."""
    synthesizer, (activation, context) = stirred(shape), sample(shape)
    assert context.labels is not None
    once = synthesizer.answer(activation, context)
    doubled = Context(torch.cat([context.labels, context.labels]))
    twice = synthesizer.answer(torch.cat([activation, activation]), doubled)
    assert once.loss is not None
    torch.testing.assert_close(twice.loss, 2 * once.loss, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(twice.grad, torch.cat([once.grad, once.grad]), rtol=1e-9, atol=1e-10)


def test_it_looks_at_the_other_examples_of_the_batch() -> None:
    synthesizer, (activation, context) = stirred(FLAT), sample(FLAT)
    assert context.labels is not None
    part = synthesizer(activation[:2], Context(context.labels[:2]))
    assert not torch.allclose(part, synthesizer(activation, context)[:2], rtol=1e-3, atol=1e-3)


def test_without_similarity_it_is_a_critic_that_learns_from_labels() -> None:
    synthesizer, (activation, context) = stirred(FLAT, similarity=0.0), sample(FLAT)
    critic = CriticSynthesizer(FLAT, classes=CLASSES, learns=("labels",)).double()
    critic.load_state_dict(synthesizer.critic.state_dict())
    torch.testing.assert_close(synthesizer(activation, context), critic(activation, context), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [FLAT, TIME, MAP, COLORS], ids=str)
def test_rows_without_a_direction_get_no_gradient_and_spoil_no_other(shape: tuple[int, ...]) -> None:
    """Dead units: an activation of zeros, of which neither length nor deviation can be differentiated."""
    synthesizer, (activation, context) = stirred(shape, similarity=1.0), sample(shape)
    activation[0] = 0.0
    answer = synthesizer.answer(activation, context)
    loss = synthesizer.learn(activation, answer, context, FEEDBACK)
    assert loss is not None
    loss.backward()
    assert answer.grad.isfinite().all() and not answer.grad[0].any() and answer.grad[1].any()
    gradient = next(synthesizer.projection.parameters()).grad
    assert gradient is not None and gradient.isfinite().all() and gradient.any()


def test_following_it_makes_classes_look_alike() -> None:
    synthesizer, (activation, context) = stirred(FLAT, similarity=1.0), sample(FLAT, rows=32)
    losses = []
    for _ in range(50):
        answer = synthesizer.answer(activation, context)
        assert answer.loss is not None
        losses.append(float(answer.loss.detach()))
        activation = activation - 0.2 * answer.grad
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("similarity", [-0.1, 1.1, float("nan")])
def test_a_weight_that_is_no_share_is_refused(similarity: float) -> None:
    with pytest.raises(SynthgradError, match="similarity=.*: expected a weight from 0"):
        SimilaritySynthesizer(FLAT, classes=CLASSES, similarity=similarity)


@pytest.mark.parametrize("shape", [FLAT, TIME, MAP])
def test_rows_without_a_label_are_not_compared(shape: tuple[int, ...]) -> None:
    """As though they were not in the batch: their gradient is zero, and the others' is what it is without them."""
    synthesizer = stirred(shape)
    activation, context = sample(shape)
    assert context.labels is not None
    padded = torch.cat([activation, torch.randn(2, *shape, dtype=torch.float64)])
    labels = torch.cat([context.labels, torch.full((2, *context.labels.shape[1:]), -100)])
    synthesizer.check(Context(labels))
    answer = synthesizer.answer(padded, Context(labels))
    assert not answer.grad[5:].any()
    matching = synthesizer.similarity * synthesizer._mismatch(activation, context)
    alone = synthesizer.answer(activation, context)
    assert alone.loss is not None and answer.loss is not None
    # The squared norm is shared among all rows of the batch, those without a label among them.
    torch.testing.assert_close(answer.loss, alone.loss - matching * 2 / 7, rtol=1e-9, atol=1e-12)
