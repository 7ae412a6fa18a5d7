"""The critic alone and in a network. Legend: B batch, T time, D features, O outputs, N rows (B, or B*T)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad import Context, ContextError, CriticSynthesizer, Feedback, Lock, ShapeError, SynthgradError, linear_head
from synthgrad.core.agreement import agree

FLAT, TIME = (6,), (5, 6)
CLASSES, WIDTH = 4, 6
SOURCES = ("labels", "output", "gradient")
SUBSETS = list(chain.from_iterable(combinations(SOURCES, size) for size in (1, 2, 3)))


def plain_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The same map as the linear head, of a type for which nothing is written down."""
    return nn.Linear(shape[-1], outputs)


def own_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[-1], 16), nn.Tanh(), linear_head((16,), outputs))


def stirred(critic: CriticSynthesizer) -> CriticSynthesizer:
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.normal_(0, 0.5)
    return critic


# ---- the written-down path -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", SUBSETS, ids="-".join)
@pytest.mark.parametrize("shape", [FLAT, TIME])
@pytest.mark.parametrize("rows", [1, 7])
def test_what_is_written_down_for_the_linear_head_is_what_autograd_finds(
    learns: tuple[str, ...], shape: tuple[int, ...], rows: int
) -> None:
    """In double precision, so that the tolerance tells rounding from a wrong term."""
    fast, slow = (
        CriticSynthesizer(shape, classes=CLASSES, learns=learns, head=head, value=0.7).double()
        for head in (linear_head, plain_head)
    )
    slow.load_state_dict(stirred(fast).state_dict())
    each = (rows, *shape[:-1])
    activation = torch.randn(rows, *shape, dtype=torch.float64)
    context = Context(torch.randint(0, CLASSES, each))
    feedback = Feedback(torch.randn_like(activation), torch.randn(*each, CLASSES, dtype=torch.float64))
    found = []
    for critic in (fast, slow):
        answer = critic.answer(activation, context)
        loss = critic.learn(activation, answer, context, feedback)
        assert loss is not None and answer.output is not None
        (loss / 3).backward()  # the stage divides too
        grads = [parameter.grad for parameter in critic.parameters()]
        found.append([answer.grad, answer.output.log_softmax(-1), answer.loss, loss, *grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", [linear_head, plain_head], ids=["linear", "plain"])
@pytest.mark.parametrize("learns", [("output",), ("gradient",), ("output", "gradient")], ids="-".join)
def test_without_any_feedback_there_is_no_lesson(learns: tuple[str, ...], head: Any) -> None:
    critic = CriticSynthesizer(FLAT, classes=CLASSES, learns=learns, head=head)
    activation, context = torch.randn(3, *FLAT), Context(torch.zeros(3, dtype=torch.long))
    assert critic.learn(activation, critic.answer(activation, context), context, Feedback()) is None


@pytest.mark.parametrize("head", [linear_head, plain_head], ids=["linear", "plain"])
def test_the_answer_is_the_gradient_of_the_loss_at_the_predicted_output(head: Any) -> None:
    critic = stirred(CriticSynthesizer(FLAT, classes=CLASSES, head=head))
    leaf, labels = torch.randn(5, *FLAT, requires_grad=True), torch.randint(0, CLASSES, (5,))
    loss = functional.cross_entropy(critic.head(leaf), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)
    answer = critic.answer(leaf, Context(labels))
    torch.testing.assert_close(answer.grad, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answer.loss, loss, rtol=1e-5, atol=1e-6)


def test_a_loss_of_ones_own_is_differentiated_too() -> None:
    def squared(output: Tensor, labels: Tensor) -> Tensor:
        return (output.squeeze(-1) - labels).square().sum()

    critic = stirred(CriticSynthesizer(FLAT, classes=1, learns=("output", "gradient"), loss=squared))
    activation, labels = torch.randn(5, *FLAT), torch.randn(5)
    critic.check(Context(labels))  # no class indices, and none expected
    answer = critic.answer(activation, Context(labels))
    (weight,) = (parameter for parameter in critic.parameters() if parameter.dim() == 2)  # (1, D)
    expected = 2 * (critic.head(activation) - labels.unsqueeze(1)) @ weight
    torch.testing.assert_close(answer.grad, expected, rtol=1e-5, atol=1e-5)
    real = torch.randn(5, 1)
    assert answer.output is not None
    loss = critic.learn(activation, answer, Context(labels), Feedback(torch.zeros(5, *FLAT), real))
    distance = (answer.output - real).square().sum() + answer.grad.square().sum()
    torch.testing.assert_close(loss, distance, rtol=1e-5, atol=1e-5)


# ---- a known problem -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [linear_head, own_head], ids=["linear", "own"])
@pytest.mark.parametrize("learns", [("labels",), ("output",), ("gradient",), ("labels", "gradient")], ids="-".join)
def test_every_form_learns_the_gradient_of_a_softmax_linear_teacher(learns: tuple[str, ...], head: Any) -> None:
    activation, teacher = torch.randn(4096, *FLAT), nn.Linear(WIDTH, CLASSES)
    nn.init.normal_(teacher.weight)
    output = teacher(activation).detach()
    labels = torch.distributions.Categorical(logits=output).sample()
    error = output.softmax(-1) - functional.one_hot(labels, CLASSES)
    target = error @ teacher.weight.detach()  # (B, D)
    critic, context = CriticSynthesizer(FLAT, classes=CLASSES, learns=learns, head=head), Context(labels)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        loss = critic.learn(activation, critic.answer(activation, context), context, Feedback(target, output))
        assert loss is not None
        (loss / len(activation)).backward()
        optimizer.step()
    assert agree(critic(activation, context), target).as_dict()["cosine"] > 0.9


# ---- in a network ----------------------------------------------------------------------------------------------------


def model_of(outputs: int = CLASSES) -> nn.Sequential:
    layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2))
    return nn.Sequential(*layers, nn.Linear(WIDTH, outputs))


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, WIDTH), torch.randint(0, CLASSES, (rows,))


def task() -> tuple[Tensor, Tensor]:
    """Classes that a network can tell."""
    x = torch.randn(64, WIDTH)
    return x, x[:, :CLASSES].argmax(1)


def net_of(synthesizer: Any, schedule: sg.Schedule | None = None, *, lr: float = 0.1, **given: Any) -> sg.Decoupled:
    options: dict[str, Any] = {
        "at": ["0", "1"],
        "sample": batch(),
        "loss": functional.cross_entropy,
        "optimizer": partial(torch.optim.SGD, lr=lr),
    }
    model = given.pop("model", None) or model_of()
    return sg.decouple(model, synthesizer=synthesizer, schedule=schedule, **(options | given))


def critics_of(net: sg.Decoupled) -> list[CriticSynthesizer]:
    return [stage.synthesizer.module for stage in net.stages if stage.synthesizer is not None]


@pytest.fixture
def outputs_taught(monkeypatch: pytest.MonkeyPatch) -> Callable[[CriticSynthesizer], list[Tensor | None]]:
    """What each critic was given as the real output."""
    seen: dict[int, list[Tensor | None]] = {}
    usual = CriticSynthesizer.learn

    def learn(self: CriticSynthesizer, *arguments: Any) -> Tensor | None:
        seen.setdefault(id(self), []).append(arguments[-1].output)
        return usual(self, *arguments)

    monkeypatch.setattr(CriticSynthesizer, "learn", learn)
    return lambda critic: seen[id(critic)]


LEARNS_OUTPUT = partial(CriticSynthesizer, classes=CLASSES, learns=("output",))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("head", [linear_head, plain_head], ids=["linear", "plain"])
def test_the_last_cut_is_taught_the_true_output_and_the_one_before_it_the_prediction_there(
    outputs_taught: Callable[[CriticSynthesizer], list[Tensor | None]], head: Any, parts: int
) -> None:
    net = net_of(partial(LEARNS_OUTPUT, head=head), sg.update_unlocked(microbatches=parts), lr=0.0)
    first, second = map(stirred, critics_of(net))
    x, y = batch()
    net.step(x, target=y)
    predicted = second.head(nn.Sequential(*net.plain.children())[:2](x))
    for critic, expected in ((second, net.plain(x)), (first, predicted)):
        taught = [output for output in outputs_taught(critic) if output is not None]
        assert len(taught) == parts
        got = torch.cat(taught)
        assert got.shape == expected.shape and not got.requires_grad
        torch.testing.assert_close(got.softmax(-1), expected.softmax(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_where_gradients_pass_every_cut_is_taught_the_true_output(
    outputs_taught: Callable[[CriticSynthesizer], list[Tensor | None]], mixing: float
) -> None:
    net = net_of(LEARNS_OUTPUT, sg.backprop(teach=True), lr=0.0, mixing=mixing)
    critics = [stirred(critic) for critic in critics_of(net)]
    x, y = batch()
    net.step(x, target=y)
    for critic in critics:
        (output,) = outputs_taught(critic)
        torch.testing.assert_close(output, net.plain(x), rtol=1e-5, atol=1e-6)


def test_a_stage_without_a_synthesizer_hands_the_true_output_on(
    outputs_taught: Callable[[CriticSynthesizer], list[Tensor | None]],
) -> None:
    schedule = sg.from_text("0F0 1F0 2F0 0S0 2B0 1B0 0T0 0U0 1U0 2U0")
    net = net_of({"0": LEARNS_OUTPUT, "1": None}, schedule, lr=0.0)
    x, y = batch()
    net.step(x, target=y)
    (output,) = outputs_taught(critics_of(net)[0])
    torch.testing.assert_close(output, net.plain(x), rtol=1e-5, atol=1e-6)


def test_the_output_travels_only_where_somebody_learns_from_it(
    outputs_taught: Callable[[CriticSynthesizer], list[Tensor | None]],
) -> None:
    net = net_of(partial(CriticSynthesizer, classes=CLASSES, learns=("gradient",)))
    x, y = batch()
    net.step(x, target=y)
    assert [outputs_taught(critic) for critic in critics_of(net)] == [[None], [None]]


LOCAL = {
    "critic": partial(CriticSynthesizer, classes=CLASSES, learns=("labels",)),
    "similarity": partial(sg.SimilaritySynthesizer, classes=CLASSES),
}


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_loss_at_every_cut_waits_for_no_later_stage(name: str) -> None:
    net = net_of(LOCAL[name])
    assert net.locks == {Lock.FORWARD}
    lessons = [action for action in net.plan.run_of(4) if action.kind is sg.Kind.T]
    assert lessons and all(sg.dependencies(lesson, net.plan) == () for lesson in lessons)
    # The lesson may stand before the next stage has done anything at all.
    alone = net_of(LOCAL[name], sg.from_text("0F0 0S0 0T0 0U0 1F0 1S0 1T0 1U0 2F0 2B0 2U0"), lr=0.3)
    x, y = task()
    outcomes = [alone.step(x, target=y) for _ in range(100)]
    assert float(outcomes[-1].loss) < 0.8 * float(outcomes[0].loss)
    assert not outcomes[-1].agreement  # with nothing to compare


@pytest.mark.parametrize("learns", SUBSETS, ids="-".join)
def test_every_form_trains_a_network(learns: tuple[str, ...]) -> None:
    net = net_of(partial(CriticSynthesizer, classes=CLASSES, learns=learns), lr=0.3)
    x, y = task()
    losses = [float(net.step(x, target=y).loss) for _ in range(80)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.any() for critic in critics_of(net) for parameter in critic.parameters())


# ---- rows without a label --------------------------------------------------------------------------------------------

IGNORED = -100


def masked_batch(shape: tuple[int, ...], rows: int = 7) -> tuple[Tensor, Context, Tensor]:
    """Activations and labels, of which some are none; and which are some, (N,)."""
    each = (rows, *shape[:-1])
    labels, given = torch.randint(0, CLASSES, each), torch.rand(each) < 0.6
    given.view(-1)[:2] = torch.tensor([True, False])
    activation = torch.randn(rows, *shape, dtype=torch.float64)
    return activation, Context(labels.where(given, torch.tensor(IGNORED))), given.flatten()


@pytest.mark.parametrize("head", [linear_head, plain_head, own_head], ids=["linear", "plain", "own"])
@pytest.mark.parametrize("shape", [FLAT, TIME])
def test_a_row_without_a_label_has_no_loss_and_no_gradient_as_in_cross_entropy(
    shape: tuple[int, ...], head: Any
) -> None:
    critic = stirred(CriticSynthesizer(shape, classes=CLASSES, learns=("labels",), head=head)).double()
    activation, context, given = masked_batch(shape)
    critic.check(context)
    leaf = activation.clone().requires_grad_()
    assert context.labels is not None
    output = critic.head(leaf).flatten(0, -2)
    loss = functional.cross_entropy(output, context.labels.flatten(), ignore_index=IGNORED, reduction="sum")
    parameters = list(critic.parameters())
    expected, *taught = torch.autograd.grad(loss, [leaf, *parameters])
    answer = critic.answer(activation, context)
    assert not answer.grad.flatten(0, -2)[~given].any() and answer.grad.flatten(0, -2)[given].all()
    torch.testing.assert_close(answer.grad, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answer.loss, loss, rtol=1e-12, atol=1e-12)
    lesson = critic.learn(activation, answer, context, Feedback())
    assert lesson is not None
    for got, want in zip(torch.autograd.grad(lesson, parameters), taught, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("learns", SUBSETS, ids="-".join)
@pytest.mark.parametrize("shape", [FLAT, TIME])
def test_what_is_written_down_is_what_autograd_finds_where_labels_are_missing_too(
    learns: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    activation, context, _ = masked_batch(shape)
    outputs = torch.randn(*activation.shape[:-1], CLASSES, dtype=torch.float64)
    feedback, found = Feedback(torch.randn_like(activation), outputs), []
    fast = stirred(CriticSynthesizer(shape, classes=CLASSES, learns=learns, value=0.7)).double()
    slow = CriticSynthesizer(shape, classes=CLASSES, learns=learns, value=0.7, head=plain_head).double()
    slow.load_state_dict(fast.state_dict())
    for critic in (fast, slow):
        loss = critic.learn(activation, critic.answer(activation, context), context, feedback)
        assert loss is not None
        loss.backward()
        found.append([loss, *(parameter.grad for parameter in critic.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", [linear_head, own_head], ids=["linear", "own"])
def test_a_batch_without_any_label_teaches_nothing(head: Any) -> None:
    critic = stirred(CriticSynthesizer(TIME, classes=CLASSES, head=head))
    activation, context = torch.randn(3, *TIME), Context(torch.full((3, TIME[0]), IGNORED))
    critic.check(context)
    answer = critic.answer(activation, context)
    assert not answer.grad.any() and answer.loss is not None and float(answer.loss.detach()) == 0.0
    lesson = critic.learn(activation, answer, context, Feedback(torch.zeros(3, *TIME)))
    assert lesson is not None and float(lesson.detach()) == 0.0
    lesson.backward()
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in critic.parameters())


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("head", [linear_head, own_head], ids=["linear", "own"])
def test_padding_changes_nothing_of_what_a_network_learns(head: Any, parts: int) -> None:
    """A batch with rows of padding is the batch without them: layers here do not mix rows."""
    loss = sg.Loss(functional.cross_entropy, terms=lambda target: int((target != IGNORED).sum()))
    x, y = batch(6)
    padded = torch.cat([x[:3], torch.randn(3, WIDTH), x[3:]]), torch.cat([y[:3], torch.full((3,), IGNORED), y[3:]])
    learned = []
    for inputs, target in ((x, y), padded):
        torch.manual_seed(3)
        net = net_of(
            partial(CriticSynthesizer, classes=CLASSES, learns=("labels",), head=head),
            sg.update_unlocked(microbatches=parts),
            loss=loss,
            # the synthesizer's own loss is a mean over examples, padding among them
            synthesizer_optimizer=partial(torch.optim.SGD, lr=0.1 * len(target) / len(y)),
        )
        for _ in range(3):
            net.step(inputs, target=target)
        learned.append(net.state_dict())
    for key, value in learned[0].items():
        torch.testing.assert_close(learned[1][key], value, rtol=1e-4, atol=1e-6)


# ---- bad input -------------------------------------------------------------------------------------------------------


@contextmanager
def refused(kind: type[SynthgradError], *words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value!s} does not say {missing}"


@pytest.mark.parametrize("learns", [(), ("error",), ("labels", "loss"), "labels"], ids=str)
def test_something_else_to_learn_from_is_refused(learns: Any) -> None:
    with refused(SynthgradError, "learns", "expected some of labels, output, gradient"):
        CriticSynthesizer(FLAT, classes=CLASSES, learns=learns)


@pytest.mark.parametrize("learns", [("output",), ("labels", "output"), ("output", "gradient")], ids="-".join)
@pytest.mark.parametrize(
    "schedule",
    [None, sg.update_unlocked(2), sg.sporadic(0.5, seed=1), sg.teach_every(4, sg.update_unlocked())],
    ids=["unlocked", "late", "sporadic", "rarely taught"],
)
def test_learning_from_an_output_that_nobody_predicts_is_refused(learns: Any, schedule: sg.Schedule | None) -> None:
    """Before, it would have learned nothing, and nobody would have been told."""
    model = model_of()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    asking = partial(CriticSynthesizer, classes=CLASSES, learns=learns)
    words = ("'0'", "learns from the model's output", "LinearSynthesizer at '1' predicts none", "take 'output' out")
    with refused(ContextError, *words):
        net_of({"0": asking, "1": partial(sg.LinearSynthesizer, classes=CLASSES)}, schedule, model=model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_one_that_answers_with_the_outputs_error_predicts_none_either() -> None:
    behind = partial(sg.FeedbackAlignmentSynthesizer, outputs=CLASSES)
    with refused(ContextError, "'0'", "FeedbackAlignmentSynthesizer at '1' predicts none"):
        net_of({"0": LEARNS_OUTPUT, "1": behind}, sg.error_broadcast())


@pytest.mark.parametrize(
    ("behind", "given"),
    [
        (LEARNS_OUTPUT, {}),
        (lambda shape: sg.Clipped(LEARNS_OUTPUT(shape), 1.0), {}),
        (sg.LinearSynthesizer, {"schedule": sg.backprop(teach=True)}),
        (sg.LinearSynthesizer, {"schedule": sg.true_every(4, sg.update_unlocked())}),
        (sg.LinearSynthesizer, {"schedule": sg.warm_up(100, sg.update_unlocked())}),
        (sg.LinearSynthesizer, {"schedule": sg.backprop(teach=True), "mixing": 0.5}),
        (None, {"schedule": sg.from_text("0F0 1F0 2F0 0S0 2B0 1B0 0T0 0U0 1U0 2U0")}),
    ],
    ids=["critic", "wrapped critic", "back-propagated", "at times", "at first", "mixed", "nobody"],
)
def test_learning_from_an_output_that_comes_at_least_at_times_is_not_refused(behind: Any, given: Any) -> None:
    x, y = batch()
    net_of({"0": LEARNS_OUTPUT, "1": behind}, **given).step(x, target=y)


def by_name(output: Tensor, target: Any) -> Tensor:
    return functional.cross_entropy(output, target if isinstance(target, Tensor) else target["y"])


BAD_STEPS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no labels": ({"target": {"y": batch()[1]}}, ("expected labels", "got none", "pass target= (or labels=)")),
    "labels of a column": (
        {"labels": torch.zeros(8, 1, dtype=torch.long)},
        ("(8, 4)", "labels of shape (8, 1)", "give a head="),
    ),
    "labels for tokens": (
        {"labels": torch.zeros(8, 5, dtype=torch.long)},
        ("(8, 4)", "labels of shape (8, 5)", "give a head="),
    ),
    "labels that are no indices": ({"labels": torch.zeros(8)}, ("class indices", "torch.float32", "pass target=")),
    "labels out of range": ({"labels": torch.full((8,), CLASSES)}, ("from 0 to 3", "got 4 to 4")),
}


@pytest.mark.parametrize("name", BAD_STEPS)
@pytest.mark.parametrize("head", [linear_head, plain_head], ids=["linear", "plain"])
def test_labels_that_do_not_fit_are_refused_before_any_weight_has_changed(name: str, head: Any) -> None:
    given, words = BAD_STEPS[name]
    net = net_of(partial(CriticSynthesizer, classes=CLASSES, head=head), loss=by_name)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    x, y = batch()
    with refused(ContextError, *words):
        net.step(x, **({"target": y} | given))
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def narrow_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Linear(shape[-1] - 1, outputs)


def tall_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Two rows for each example."""
    return nn.Sequential(nn.Linear(shape[-1], 2 * outputs), nn.Unflatten(1, (2, outputs)))


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        (narrow_head, ShapeError, ("synthesizer at '0'", "cannot take an activation of shape (8, 6)", "build it from")),
        (tall_head, ContextError, ("output of shape (8, 2, 4)", "labels of shape (8,)", "give a head=")),
    ],
    ids=["narrow", "tall"],
)
def test_a_head_that_does_not_fit_is_refused_when_the_model_is_decoupled(
    head: Any, error: type[SynthgradError], words: tuple[str, ...]
) -> None:
    model = model_of()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with refused(error, *words):
        net_of(partial(CriticSynthesizer, classes=CLASSES, head=head), model=model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("head", [linear_head, plain_head], ids=["linear", "plain"])
@pytest.mark.parametrize("real", [(8, 5), (8, 1), (8,)], ids=str)
def test_a_real_output_of_another_shape_is_not_broadcast(head: Any, real: tuple[int, ...]) -> None:
    critic = CriticSynthesizer(FLAT, classes=CLASSES, learns=("output",), head=head)
    activation, context = torch.randn(8, *FLAT), Context(torch.zeros(8, dtype=torch.long))
    answer = critic.answer(activation, context)
    with refused(ShapeError, str(real), "expected (8, 4)", "give classes= and head="):
        critic.learn(activation, answer, context, Feedback(output=torch.zeros(real)))
