"""What holds for every synthesizer. Legend: B batch, T time, D features, C channels, H height, W width, V classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthgrad import (
    Answer,
    Context,
    ContextError,
    ConvSynthesizer,
    CriticSynthesizer,
    Feedback,
    FeedbackAlignmentSynthesizer,
    KickbackSynthesizer,
    LeastSquaresSynthesizer,
    LinearSynthesizer,
    MLPInputSynthesizer,
    MLPSynthesizer,
    OracleSynthesizer,
    ShapeError,
    SimilaritySynthesizer,
    StaleSynthesizer,
    Synthesizer,
    ZeroSynthesizer,
    block_head,
    linear_head,
    zero_head,
)
from synthgrad.core.agreement import agree
from synthgrad.testing import PROPERTIES, Sample, Subject

Factory = Callable[[tuple[int, ...]], Synthesizer]
FLAT, TIME, MAP = (6,), (5, 6), (3, 4, 4)
CLASSES = 4  # and so many outputs the model has
EXAMPLES = 20  # in the data set
NOTHING: frozenset[str] = frozenset()
GRADIENT, OUTPUT, LABELS = frozenset({"gradient"}), frozenset({"output"}), frozenset({"labels"})


def oracle(shape: tuple[int, ...]) -> Synthesizer:
    return OracleSynthesizer(lambda activation, context: 2 * activation, needs=frozenset())


def own_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A perceptron whose last layer starts at zero."""
    flat = nn.Flatten() if len(shape) == 3 else nn.Identity()
    features = torch.Size(shape).numel() if len(shape) == 3 else shape[-1]
    return nn.Sequential(flat, nn.Linear(features, 9), nn.Tanh(), zero_head((9,), outputs))


def pooling_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One output for all tokens of an example: (B, T, D) to (B, O)."""
    return nn.Sequential(nn.Flatten(), linear_head((torch.Size(shape).numel(),), outputs))


@dataclass(frozen=True)
class Kind:
    factory: Factory
    shapes: tuple[tuple[int, ...], ...] = (FLAT, TIME, MAP)
    needs: frozenset[str] = NOTHING
    feedback: frozenset[str] = GRADIENT
    learns: bool = True  # it has weights for an optimizer
    from_zero: bool = True  # what learns starts with the answer zero
    regresses: bool = True  # its loss is the distance of answer and target
    rows_apart: bool = True  # a row's answer does not depend on the other rows
    for_tokens: bool = False  # of tokens, it wants a label for each
    outputs: int = CLASSES  # how many the model must have
    leaves_graph: bool = False  # of itself it leaves the activation's graph alone; else the stage sees to it


def critic(learns: tuple[str, ...], feedback: frozenset[str], head: Any, **given: Any) -> Kind:
    factory = partial(CriticSynthesizer, classes=CLASSES, learns=learns, head=head)
    options: dict[str, Any] = {
        "for_tokens": True,
        "from_zero": head is zero_head,
        "regresses": False,
        "leaves_graph": True,
    }
    return Kind(factory, needs=LABELS, feedback=feedback, **(options | given))


FORMS: dict[tuple[str, ...], frozenset[str]] = {
    ("labels",): NOTHING,
    ("output",): OUTPUT,
    ("gradient",): GRADIENT,
    ("labels", "gradient"): GRADIENT,
    ("labels", "output", "gradient"): GRADIENT | OUTPUT,
}
HEADS = {"linear": linear_head, "zero": zero_head, "own": own_head}
CRITICS = {
    f"critic, {head} head, {' and '.join(learns)}": critic(learns, feedback, HEADS[head])
    for head in HEADS
    for learns, feedback in FORMS.items()
}
FIXED: dict[str, Any] = {"feedback": NOTHING, "learns": False, "regresses": False, "leaves_graph": True}

KINDS = {
    "zero": Kind(ZeroSynthesizer, feedback=NOTHING, learns=False, leaves_graph=True),
    "oracle": Kind(oracle, feedback=NOTHING, learns=False),
    "linear": Kind(LinearSynthesizer),
    "linear, labels": Kind(partial(LinearSynthesizer, classes=CLASSES), needs=LABELS),
    "linear, rank": Kind(partial(LinearSynthesizer, rank=2, classes=CLASSES), needs=LABELS),
    "mlp": Kind(partial(MLPSynthesizer, hidden=9)),
    "mlp, labels": Kind(partial(MLPSynthesizer, hidden=9, layers=2, classes=CLASSES), needs=LABELS),
    "mlp, batch norm": Kind(partial(MLPSynthesizer, hidden=9, layers=2, batch_norm=True)),
    "conv": Kind(ConvSynthesizer, (MAP,)),
    "conv, labels": Kind(partial(ConvSynthesizer, channels=7, layers=2, kernel=3, classes=CLASSES), (MAP,), LABELS),
    "conv, batch norm": Kind(partial(ConvSynthesizer, layers=2, batch_norm=True), (MAP,)),
    "least squares": Kind(partial(LeastSquaresSynthesizer), (FLAT, TIME), **(FIXED | {"feedback": GRADIENT})),
    "least squares, labels": Kind(
        partial(LeastSquaresSynthesizer, classes=CLASSES, belief=False),
        (FLAT, TIME),
        LABELS,
        **(FIXED | {"feedback": GRADIENT}),
    ),
    "least squares, belief": Kind(
        partial(LeastSquaresSynthesizer, classes=CLASSES), (FLAT, TIME), LABELS, regresses=False, leaves_graph=True
    ),
    **CRITICS,
    "critic, pooling head": critic(("labels", "gradient"), GRADIENT, pooling_head, shapes=(TIME,), for_tokens=False),
    "critic, block head": critic(("labels", "gradient"), GRADIENT, block_head),
    "similarity": Kind(
        partial(SimilaritySynthesizer, classes=CLASSES),
        needs=LABELS,
        feedback=NOTHING,
        from_zero=False,
        regresses=False,
        rows_apart=False,
        for_tokens=True,
        leaves_graph=True,
    ),
    "feedback alignment": Kind(
        partial(FeedbackAlignmentSynthesizer, outputs=CLASSES), needs=frozenset({"error"}), **FIXED
    ),
    "feedback alignment, tokens": Kind(
        partial(FeedbackAlignmentSynthesizer, outputs=CLASSES),
        (TIME,),
        needs=frozenset({"error"}),
        for_tokens=True,
        **FIXED,
    ),
    "kickback": Kind(KickbackSynthesizer, needs=frozenset({"error"}), outputs=1, **FIXED),
    "stale": Kind(
        partial(StaleSynthesizer, examples=EXAMPLES), needs=frozenset({"index"}), **(FIXED | {"feedback": GRADIENT})
    ),
    "stale, average": Kind(
        partial(StaleSynthesizer, examples=EXAMPLES, decay=0.5),
        needs=frozenset({"index"}),
        **(FIXED | {"feedback": GRADIENT}),
    ),
}


UNTAUGHT = ("zero", "oracle", "feedback alignment", "feedback alignment, tokens", "kickback")  # they learn nothing


def having(**wanted: Any) -> pytest.MarkDecorator:
    """The cases of those kinds whose attributes are as wanted."""
    cases = [
        (name, shape)
        for name, kind in KINDS.items()
        if all(getattr(kind, attribute) == value for attribute, value in wanted.items())
        for shape in kind.shapes
    ]
    return pytest.mark.parametrize(("name", "shape"), cases, ids=[f"{name}, {shape}" for name, shape in cases])


every, learning = having(), having(learns=True)


def subject(name: str, shape: tuple[int, ...]) -> Subject:
    kind = KINDS[name]
    return Subject(
        kind.factory,
        shape,
        CLASSES,
        tokens=kind.for_tokens and len(shape) == 2,
        outputs=kind.outputs,
        examples=EXAMPLES,
        starts_at_zero=kind.from_zero,
        rows_apart=kind.rows_apart,
    )


def sample(name: str, shape: tuple[int, ...], rows: int = 8) -> Sample:
    return subject(name, shape).sample(rows)


def stirred(synthesizer: Synthesizer) -> Any:
    """Away from its zero start, so that its answers say something."""
    with torch.no_grad():
        for parameter in synthesizer.parameters():
            parameter.normal_(0, 0.3)
        if isinstance(synthesizer, StaleSynthesizer):
            synthesizer.table.normal_()
            synthesizer.seen.fill_(True)
    return synthesizer


def taught(name: str, shape: tuple[int, ...]) -> tuple[Sample, Tensor]:
    """What can be learned: the labels, output and gradient of another synthesizer of the kind; and its own loss."""
    given, teacher = sample(name, shape), stirred(KINDS[name].factory(shape))
    output = teacher.answer(given.activation, given.context).output
    context = given.context if output is None else replace(given.context, labels=output.argmax(-1))
    answer = teacher.answer(given.activation, context)
    detached = Feedback(*(None if value is None else value.detach() for value in (answer.grad, answer.output)))
    given = Sample(given.activation, context, detached)
    return given, lesson(teacher, given).detach()


def lesson(synthesizer: Synthesizer, given: Sample) -> Tensor:
    """The loss of a synthesizer that has something to learn."""
    answer = synthesizer.answer(given.activation, given.context)
    loss = synthesizer.learn(given.activation, answer, given.context, given.feedback)
    assert loss is not None
    return loss


def train(synthesizer: Synthesizer, given: Sample, steps: int = 400) -> Tensor:
    optimizer = torch.optim.Adam(synthesizer.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        (lesson(synthesizer, given) / len(given.activation)).backward()
        optimizer.step()
    return synthesizer(given.activation, given.context).detach()


# ---- every one -------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("property", list(PROPERTIES))
def test_it_keeps_the_contract(name: str, shape: tuple[int, ...], property: str) -> None:
    """The properties that anybody can try on a synthesizer of their own; see `synthgrad.testing`."""
    PROPERTIES[property](subject(name, shape))


@every
def test_it_declares_what_is_expected_of_it(name: str, shape: tuple[int, ...]) -> None:
    kind, synthesizer = KINDS[name], KINDS[name].factory(shape)
    assert (synthesizer.needs, synthesizer.feedback) == (kind.needs, kind.feedback)
    assert bool(list(synthesizer.parameters())) == kind.learns
    assert (type(synthesizer).learn is Synthesizer.learn) == (kind.regresses or name in UNTAUGHT)


@learning
def test_learning_leaves_the_zero_start(name: str, shape: tuple[int, ...]) -> None:
    """Zero answers must not mean zero gradients for good."""
    (given, best), synthesizer = taught(name, shape), KINDS[name].factory(shape)
    start = lesson(synthesizer, given).detach()
    train(synthesizer, given, steps=60)
    assert lesson(synthesizer, given) - best < 0.5 * (start - best)
    untouched = [key for key, p in synthesizer.named_parameters() if p.grad is None]
    assert not untouched


@having(regresses=True)
def test_the_loss_is_the_summed_squared_distance_whatever_the_layout(name: str, shape: tuple[int, ...]) -> None:
    given, synthesizer = sample(name, shape), KINDS[name].factory(shape)
    answer, target = torch.randn_like(given.activation), torch.randn_like(given.activation)

    def loss_of(answer: Tensor, target: Tensor) -> Tensor:
        loss = synthesizer.learn(given.activation, Answer(answer), given.context, Feedback(target))
        assert loss is not None
        return loss

    loss = loss_of(answer, target)
    assert loss.dim() == 0
    assert float(loss) == pytest.approx(float(((answer.double() - target.double()) ** 2).sum()), rel=1e-5)
    for first, second in ((0, 1), (1, -1), (0, -1)):  # no axis is special: the batch is no divisor
        other = loss_of(answer.transpose(first, second), target.transpose(first, second))
        torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)


# ---- what belongs to the stage ---------------------------------------------------------------------------------------


@having(leaves_graph=True)
def test_neither_answer_nor_lesson_reaches_below_the_activation(name: str, shape: tuple[int, ...]) -> None:
    given, synthesizer = sample(name, shape), stirred(KINDS[name].factory(shape))
    below = nn.Linear(shape[-1], shape[-1])
    activation = below(given.activation)
    activation.retain_grad()
    answer = synthesizer.answer(activation, given.context)
    loss = synthesizer.learn(activation, answer, given.context, given.feedback)
    assert (loss is not None and loss.requires_grad) == KINDS[name].learns
    if loss is not None and loss.requires_grad:
        loss.backward()
        assert any(parameter.grad is not None for parameter in synthesizer.parameters())
    assert activation.grad is None and all(parameter.grad is None for parameter in below.parameters())


# ---- single ones -----------------------------------------------------------------------------------------------------


def quadratic(shape: tuple[int, ...], rows: int) -> tuple[Sample, Tensor]:
    """g = A h + V[y] for each row: a token of (T, D), else the whole example."""
    given = sample("linear, labels", shape, rows)
    activation, context = given.activation, given.context
    assert context.labels is not None
    features = shape[-1] if len(shape) <= 2 else activation[0].numel()
    matrix = torch.randn(features, features) / features**0.5
    by_class = torch.randn(CLASSES, features)[context.labels]  # (B, D)
    rows_of = activation if activation.dim() <= 3 else activation.flatten(1)
    target = rows_of @ matrix.T + (by_class.unsqueeze(1) if rows_of.dim() == 3 else by_class)
    target = target.view_as(activation)
    return replace(given, feedback=Feedback(target)), target


@pytest.mark.parametrize("shape", [FLAT, TIME])
def test_a_linear_synthesizer_with_labels_learns_a_quadratic_loss(shape: tuple[int, ...]) -> None:
    given, target = quadratic(shape, 64)
    with_labels = train(LinearSynthesizer(shape, classes=CLASSES), given)
    assert agree(with_labels, target).as_dict()["cosine"] > 0.99
    without = train(LinearSynthesizer(shape), given)
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
    given = Sample(activation, Context(), Feedback(target))
    mlp, linear = train(MLPSynthesizer((6,), hidden=64), given), train(LinearSynthesizer((6,)), given)
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
    given = sample("zero", MAP)
    activation, context = given.activation, given.context
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
