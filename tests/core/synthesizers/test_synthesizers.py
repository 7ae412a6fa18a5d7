"""What holds for every synthesizer. Legend: B batch, T time, D features, C channels, H height, W width, V classes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from synthgrad import (
    Answer,
    Context,
    ContextError,
    ConvSynthesizer,
    Feedback,
    LinearSynthesizer,
    MLPInputSynthesizer,
    MLPSynthesizer,
    OracleSynthesizer,
    ShapeError,
    Synthesizer,
    ZeroSynthesizer,
)
from synthgrad.core.agreement import agree

Factory = Callable[[tuple[int, ...]], Synthesizer]
FLAT, TIME, MAP = (6,), (5, 6), (3, 4, 4)
CLASSES = 4


def oracle(shape: tuple[int, ...]) -> Synthesizer:
    return OracleSynthesizer(lambda activation, context: 2 * activation, needs=frozenset())


@dataclass(frozen=True)
class Kind:
    factory: Factory
    shapes: tuple[tuple[int, ...], ...]
    learns: bool = True
    labels: bool = False
    rows_apart: bool = True  # no BatchNorm: a row's answer does not depend on the other rows


KINDS = {
    "zero": Kind(ZeroSynthesizer, (FLAT, TIME, MAP), learns=False),
    "oracle": Kind(oracle, (FLAT, TIME, MAP), learns=False),
    "linear": Kind(LinearSynthesizer, (FLAT, TIME, MAP)),
    "linear, labels": Kind(partial(LinearSynthesizer, classes=CLASSES), (FLAT, TIME, MAP), labels=True),
    "linear, rank": Kind(partial(LinearSynthesizer, rank=2, classes=CLASSES), (FLAT, TIME, MAP), labels=True),
    "mlp": Kind(partial(MLPSynthesizer, hidden=9), (FLAT, TIME, MAP)),
    "mlp, labels": Kind(partial(MLPSynthesizer, hidden=9, layers=2, classes=CLASSES), (FLAT, TIME, MAP), labels=True),
    "mlp, batch norm": Kind(
        partial(MLPSynthesizer, hidden=9, layers=2, batch_norm=True), (FLAT, TIME, MAP), rows_apart=False
    ),
    "conv": Kind(ConvSynthesizer, (MAP,)),
    "conv, labels": Kind(
        partial(ConvSynthesizer, channels=7, layers=2, kernel=3, classes=CLASSES), (MAP,), labels=True
    ),
    "conv, batch norm": Kind(partial(ConvSynthesizer, layers=2, batch_norm=True), (MAP,), rows_apart=False),
}
CASES = [(name, shape) for name, kind in KINDS.items() for shape in kind.shapes]
every = pytest.mark.parametrize(("name", "shape"), CASES)
learning = pytest.mark.parametrize(("name", "shape"), [case for case in CASES if KINDS[case[0]].learns])


def sample(shape: tuple[int, ...], rows: int = 8) -> tuple[Tensor, Context]:
    return torch.randn(rows, *shape), Context(torch.randint(0, CLASSES, (rows,)))


def stirred(synthesizer: Synthesizer) -> Synthesizer:
    """Away from its zero start, so that its answers say something."""
    with torch.no_grad():
        for parameter in synthesizer.parameters():
            parameter.normal_(0, 0.3)
    return synthesizer


def lesson(synthesizer: Synthesizer, activation: Tensor, context: Context, feedback: Feedback) -> Tensor:
    """The loss of a synthesizer that has something to learn."""
    loss = synthesizer.learn(activation, synthesizer.answer(activation, context), context, feedback)
    assert loss is not None
    return loss


def train(synthesizer: Synthesizer, activation: Tensor, context: Context, target: Tensor, steps: int = 400) -> Tensor:
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        (lesson(synthesizer, activation, context, Feedback(target)) / len(activation)).backward()
        optimizer.step()
    return synthesizer(activation, context).detach()


# ---- every one -------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("rows", [2, 5])
def test_the_answer_has_the_shape_and_type_of_the_activation(name: str, shape: tuple[int, ...], rows: int) -> None:
    activation, context = sample(shape, rows)
    answer = stirred(KINDS[name].factory(shape))(activation, context)
    assert answer.shape == activation.shape and answer.dtype == activation.dtype


@learning
def test_the_first_answer_is_exactly_zero(name: str, shape: tuple[int, ...]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        answer = KINDS[name].factory(shape)(*sample(shape))
        assert torch.equal(answer, torch.zeros_like(answer))


@learning
def test_learning_leaves_the_zero_start(name: str, shape: tuple[int, ...]) -> None:
    """Zero answers must not mean zero gradients for good."""
    activation, context = sample(shape)
    synthesizer = KINDS[name].factory(shape)
    target = torch.randn_like(activation)
    start = lesson(synthesizer, activation, context, Feedback(target)).detach()
    train(synthesizer, activation, context, target, steps=60)
    assert lesson(synthesizer, activation, context, Feedback(target)) < 0.9 * start
    untouched = [key for key, p in synthesizer.named_parameters() if p.grad is None]
    assert not untouched


@every
def test_the_loss_is_the_summed_squared_distance_whatever_the_layout(name: str, shape: tuple[int, ...]) -> None:
    activation, context = sample(shape)
    synthesizer = KINDS[name].factory(shape)
    answer, target = torch.randn_like(activation), torch.randn_like(activation)

    def loss_of(answer: Tensor, target: Tensor) -> Tensor:
        loss = synthesizer.learn(activation, Answer(answer), context, Feedback(target))
        assert loss is not None
        return loss

    loss = loss_of(answer, target)
    assert loss.dim() == 0
    assert float(loss) == pytest.approx(float(((answer.double() - target.double()) ** 2).sum()), rel=1e-5)
    for first, second in ((0, 1), (1, -1), (0, -1)):  # no axis is special: the batch is no divisor
        other = loss_of(answer.transpose(first, second), target.transpose(first, second))
        torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)


@every
def test_answers_and_losses_do_not_depend_on_the_split_of_the_batch(name: str, shape: tuple[int, ...]) -> None:
    synthesizer = stirred(KINDS[name].factory(shape)).eval()  # where BatchNorm is, by its running statistics
    activation, context = sample(shape)
    assert context.labels is not None
    target = torch.randn_like(activation)
    whole = synthesizer(activation, context)
    losses = []
    for rows in (slice(0, 3), slice(3, 8)):
        part = synthesizer(activation[rows], Context(context.labels[rows]))
        # Kernels may block sums by size: the last bits only.
        torch.testing.assert_close(part, whole[rows], rtol=1e-5, atol=1e-5)
        losses.append(lesson(synthesizer, activation[rows], Context(context.labels[rows]), Feedback(target[rows])))
    torch.testing.assert_close(
        sum(losses), lesson(synthesizer, activation, context, Feedback(target)), rtol=1e-5, atol=1e-4
    )


@every
def test_needs_are_honest(name: str, shape: tuple[int, ...]) -> None:
    """Without what it does not declare it answers the same; without what it declares, it is refused beforehand."""
    synthesizer = stirred(KINDS[name].factory(shape))
    activation, context = sample(shape)
    assert synthesizer.needs == (frozenset({"labels"}) if KINDS[name].labels else frozenset())
    if KINDS[name].labels:
        with pytest.raises(ContextError, match=type(synthesizer).__name__):
            synthesizer.check(Context())
        assert context.labels is not None
        other = Context((context.labels + 1) % CLASSES)
        assert not torch.equal(synthesizer(activation, other), synthesizer(activation, context))
    else:
        synthesizer.check(Context())
        assert torch.equal(synthesizer(activation, Context()), synthesizer(activation, context))


@every
def test_feedback_is_honest(name: str, shape: tuple[int, ...]) -> None:
    synthesizer = KINDS[name].factory(shape)
    assert bool(synthesizer.feedback) == KINDS[name].learns == bool(list(synthesizer.parameters()))


@every
def test_the_type_of_the_weights_can_be_changed(name: str, shape: tuple[int, ...]) -> None:
    activation, context = sample(shape)
    synthesizer = stirred(KINDS[name].factory(shape)).double()
    answer = synthesizer(activation.double(), context)
    assert answer.dtype == torch.float64
    loss = lesson(synthesizer, activation.double(), context, Feedback(torch.zeros_like(answer)))
    assert loss.dtype == torch.float64


@every
def test_a_state_dict_carries_everything(name: str, shape: tuple[int, ...]) -> None:
    activation, context = sample(shape)
    synthesizer = stirred(KINDS[name].factory(shape))
    synthesizer(activation, context)  # moves BatchNorm's statistics, where there is one
    other = KINDS[name].factory(shape)
    assert list(other.state_dict()) == list(synthesizer.state_dict())
    other.load_state_dict(synthesizer.state_dict(), strict=True)
    assert torch.equal(other.eval()(activation, context), synthesizer.eval()(activation, context))


@every
def test_activations_may_lie_anyhow_in_memory(name: str, shape: tuple[int, ...]) -> None:
    synthesizer = stirred(KINDS[name].factory(shape))
    activation, context = sample(shape)
    other = activation.transpose(0, -1).contiguous().transpose(0, -1)
    if len(shape) == 3:
        other = activation.to(memory_format=torch.channels_last)
    assert not other.is_contiguous() or activation.dim() == 1
    torch.testing.assert_close(synthesizer(other, context), synthesizer(activation, context), rtol=1e-5, atol=1e-5)


# ---- single ones -----------------------------------------------------------------------------------------------------


def quadratic(shape: tuple[int, ...], rows: int) -> tuple[Tensor, Context, Tensor]:
    """g = A h + V[y] for each row: a token of (T, D), else the whole example."""
    activation, context = sample(shape, rows)
    assert context.labels is not None
    features = shape[-1] if len(shape) <= 2 else activation[0].numel()
    matrix = torch.randn(features, features) / features**0.5
    by_class = torch.randn(CLASSES, features)[context.labels]  # (B, D)
    rows_of = activation if activation.dim() <= 3 else activation.flatten(1)
    target = rows_of @ matrix.T + (by_class.unsqueeze(1) if rows_of.dim() == 3 else by_class)
    return activation, context, target.view_as(activation)


@pytest.mark.parametrize("shape", [FLAT, TIME])
def test_a_linear_synthesizer_with_labels_learns_a_quadratic_loss(shape: tuple[int, ...]) -> None:
    activation, context, target = quadratic(shape, 64)
    with_labels = train(LinearSynthesizer(shape, classes=CLASSES), activation, context, target)
    assert agree(with_labels, target).as_dict()["cosine"] > 0.99
    without = train(LinearSynthesizer(shape), activation, context, target)
    assert agree(without, target).as_dict()["cosine"] < 0.95  # the labels are what is missing


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_low_rank_has_that_rank(rank: int) -> None:
    synthesizer = stirred(LinearSynthesizer((6,), rank=rank))
    bias = synthesizer(torch.zeros(1, 6), Context())
    matrix = synthesizer(torch.eye(6), Context()) - bias
    assert int(torch.linalg.matrix_rank(matrix.detach(), rtol=1e-4)) == rank
    full = sum(p.numel() for p in LinearSynthesizer((600,)).parameters())
    assert sum(p.numel() for p in LinearSynthesizer((600,), rank=rank).parameters()) < full / 50


def test_an_mlp_learns_what_a_linear_one_cannot() -> None:
    activation = torch.randn(64, 6)
    target = activation * (activation.sum(1, keepdim=True) > 0)
    mlp = train(MLPSynthesizer((6,), hidden=64), activation, Context(), target)
    linear = train(LinearSynthesizer((6,)), activation, Context(), target)
    assert agree(mlp, target).as_dict()["norm_ratio"] > 0.9
    assert (mlp - target).square().sum() < 0.1 * (linear - target).square().sum()


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 4), ()])
def test_a_convolutional_synthesizer_refuses_what_is_no_map(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"ConvSynthesizer: .*expected \(B, C, H, W\); use LinearSynthesizer"):
        ConvSynthesizer(shape)


@pytest.mark.parametrize("factory", [LinearSynthesizer, partial(MLPSynthesizer, hidden=9)])
def test_labels_for_each_token_reach_their_own_token(factory: Callable[..., Synthesizer]) -> None:
    synthesizer = stirred(factory((5, 6), classes=CLASSES))
    activation, labels = torch.randn(3, 5, 6), torch.randint(0, CLASSES, (3, 5))
    answer = synthesizer(activation, Context(labels))
    labels[1, 2] = (labels[1, 2] + 1) % CLASSES
    changed = (synthesizer(activation, Context(labels)) != answer).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("factory", [LinearSynthesizer, partial(MLPSynthesizer, hidden=9)])
@pytest.mark.parametrize("shape", [FLAT, TIME])
def test_a_label_for_each_example_reaches_all_of_its_rows(
    factory: Callable[..., Synthesizer], shape: tuple[int, ...]
) -> None:
    synthesizer = stirred(factory(shape, classes=CLASSES))
    activation, labels = torch.randn(5, *shape), torch.tensor([0, 1, 2, 3, 0])  # B = T = 5: must not be mistaken
    answer = synthesizer(activation, Context(labels))
    labels = labels.clone()
    labels[1] = 0
    changed = (synthesizer(activation, Context(labels)) != answer).flatten(1).any(1)
    assert changed.tolist() == [False, True, False, False, False]
    for row in range(5):  # the same as alone
        alone = synthesizer(activation[row : row + 1], Context(labels[row : row + 1]))
        torch.testing.assert_close(synthesizer(activation, Context(labels))[row], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "shape"), [(LinearSynthesizer, FLAT), (MLPSynthesizer, FLAT), (ConvSynthesizer, MAP)]
)
@pytest.mark.parametrize("rows", [3, 6])
def test_labels_for_each_token_where_there_are_no_tokens_are_refused(
    factory: Callable[..., Synthesizer], shape: tuple[int, ...], rows: int
) -> None:
    synthesizer = factory(shape, classes=CLASSES)
    context = Context(torch.zeros(rows, 3, dtype=torch.long))
    with pytest.raises((ContextError, ShapeError)):
        synthesizer.check(context)
        synthesizer(torch.randn(rows, *shape), context)


def test_batch_norm_over_tokens_is_over_all_rows() -> None:
    synthesizer = MLPSynthesizer((5, 6), hidden=9, batch_norm=True)
    synthesizer(torch.randn(4, 5, 6), Context())
    norm = next(module for module in synthesizer.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.num_features == 9 and int(norm.num_batches_tracked or 0) == 1


def test_the_zero_synthesizer_answers_zero_and_the_oracle_what_it_is_told() -> None:
    activation, context = sample(MAP)
    assert torch.equal(ZeroSynthesizer(MAP)(activation, context), torch.zeros_like(activation))
    assert torch.equal(oracle(MAP)(activation, context), 2 * activation)
    assert OracleSynthesizer(lambda a, _: a).needs == {"labels"}


@pytest.mark.parametrize("need", ["labels", "index"])
def test_a_declared_need_that_is_missing_is_refused_by_name(need: str) -> None:
    synthesizer = OracleSynthesizer(lambda activation, _: activation, needs=frozenset({need, "error"}))
    with pytest.raises(ContextError, match=f"OracleSynthesizer needs {need}, got none; pass {need}="):
        synthesizer.check(Context())
    synthesizer.check(Context(labels=torch.zeros(2), index=torch.zeros(2)))  # the error is made during the step


@pytest.mark.parametrize("shape", [FLAT, TIME, MAP])
@pytest.mark.parametrize("input_shape", [(7,), (2, 3, 3)])
def test_an_input_synthesizer_predicts_the_activations_shape(
    shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> None:
    predictor = MLPInputSynthesizer(input_shape, shape, hidden=8)
    inputs, real = torch.randn(4, *input_shape), torch.randn(4, *shape)
    predicted = predictor(inputs, torch.ones(4))
    assert predicted.shape == (4, *shape)
    torch.testing.assert_close(predictor.loss(predicted, real), (predicted - real).square().sum(), rtol=1e-5, atol=1e-5)
