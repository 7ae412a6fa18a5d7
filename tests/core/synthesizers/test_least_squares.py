"""Least squares with forgetting, against numpy's solver on all rows there ever were.

Legend: B batch, T time, D features, N rows, n features of x.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad.core.learner import Learner

WIDTH, CLASSES, TIME = 6, 4, 5
DECAY, RIDGE = 0.7, 0.01
EXACT = partial(sg.LeastSquaresSynthesizer, belief=False, decay=DECAY, ridge=RIDGE)
LABELED = partial(EXACT, classes=CLASSES)
SGD = partial(torch.optim.SGD, lr=0.1)

Rows = NDArray[np.float64]


def drawn(shape: tuple[int, ...], labels: tuple[int, ...], rows: int = 9) -> tuple[Tensor, sg.Context, Tensor]:
    """An activation, labels and targets, in float64, so that what is compared is no rounding."""
    context = sg.Context(torch.randint(0, CLASSES, (rows, *labels)))
    return torch.randn(rows, *shape).double(), context, torch.randn(rows, *shape).double()


def taught(synthesizer: sg.Synthesizer, activation: Tensor, context: sg.Context, target: Tensor) -> Tensor | None:
    answer = synthesizer.answer(activation, context)
    return synthesizer.learn(activation, answer, context, sg.Feedback(target))


def ended(synthesizer: sg.Synthesizer) -> None:
    """The step is over; there is no further lesson."""
    assert list(synthesizer.rehearse()) == []


def joined(activation: Tensor, context: sg.Context, *, seen: bool, belief: Tensor | None = None) -> Rows:
    """The rows of x, worked out once more: the order of its parts changes nothing of the answer."""
    rows = activation.reshape(-1, WIDTH).numpy()
    parts = [rows, np.ones((len(rows), 1))]
    if seen:
        assert context.labels is not None
        labels = context.labels.reshape(len(activation), -1)
        each = np.broadcast_to(labels.numpy(), (len(activation), len(rows) // len(activation))).reshape(-1)
        parts.append(np.array([np.eye(CLASSES)[label] if label >= 0 else np.zeros(CLASSES) for label in each]))
    if belief is not None:
        parts.append(belief.reshape(-1, CLASSES).numpy())
    return np.concatenate(parts, 1)


def solved(steps: list[tuple[Rows, Rows]], decay: float, ridge: float) -> Rows:
    """W of numpy's lstsq: each row weighs the root of its share, and the ridge is one more row for each feature."""
    shares = [decay ** (len(steps) - 1 - number) for number in range(len(steps))]
    x = np.concatenate([share**0.5 * rows for share, (rows, _) in zip(shares, steps, strict=True)])
    g = np.concatenate([share**0.5 * targets for share, (_, targets) in zip(shares, steps, strict=True)])
    count = x.shape[1]
    pull = (ridge * np.square(x).sum() / count) ** 0.5
    both = np.concatenate([x, pull * np.eye(count)]), np.concatenate([g, np.zeros((count, g.shape[1]))])
    return np.linalg.lstsq(*both, rcond=None)[0]


SHAPES = {
    "rows": ((WIDTH,), (), True),
    "rows, without labels": ((WIDTH,), (), False),
    "tokens, a label for each example": ((TIME, WIDTH), (), True),
    "tokens, a label for each": ((TIME, WIDTH), (TIME,), True),
}


@pytest.mark.parametrize("decay", [0.0, 0.7, 0.99])
@pytest.mark.parametrize("name", SHAPES)
def test_after_every_step_it_is_what_numpy_finds_on_all_rows_so_far(name: str, decay: float) -> None:
    shape, labels, seen = SHAPES[name]
    synthesizer = EXACT(shape, classes=CLASSES if seen else None, decay=decay).double()
    steps: list[tuple[Rows, Rows]] = []
    for _ in range(5):
        activation, context, target = drawn(shape, labels)
        taught(synthesizer, activation, context, target)
        ended(synthesizer)
        steps.append((joined(activation, context, seen=seen), target.reshape(-1, WIDTH).numpy()))
        other, context, _ = drawn(shape, labels)
        expected = joined(other, context, seen=seen) @ solved(steps, decay, RIDGE)
        got = synthesizer(other, context)
        np.testing.assert_allclose(got.reshape(-1, WIDTH).numpy(), expected, rtol=1e-8, atol=1e-9)


def test_with_a_head_it_sees_what_that_believes_and_the_head_learns_the_labels() -> None:
    synthesizer = sg.LeastSquaresSynthesizer((WIDTH,), classes=CLASSES, decay=DECAY, ridge=RIDGE).double()
    head = synthesizer.head
    assert isinstance(head, nn.Linear) and list(synthesizer.parameters()) == list(head.parameters())
    steps: list[tuple[Rows, Rows]] = []
    for _ in range(3):
        activation, context, target = drawn((WIDTH,), ())
        loss = taught(synthesizer, activation, context, target)
        assert loss is not None and context.labels is not None
        got = torch.autograd.grad(loss, list(head.parameters()))
        believed = functional.cross_entropy(head(activation), context.labels, reduction="sum")
        for ours, theirs in zip(got, torch.autograd.grad(believed, list(head.parameters())), strict=True):
            torch.testing.assert_close(ours, theirs)
        ended(synthesizer)
        belief = head(activation).detach().softmax(-1)
        steps.append((joined(activation, context, seen=True, belief=belief), target.numpy()))
    other, context, _ = drawn((WIDTH,), ())
    answer = synthesizer.answer(other, context)
    assert answer.output is not None
    belief = answer.output.detach().softmax(-1)
    expected = joined(other, context, seen=True, belief=belief) @ solved(steps, DECAY, RIDGE)
    np.testing.assert_allclose(answer.grad.numpy(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("belief", [False, True])
def test_a_row_without_a_label_has_none(belief: bool) -> None:
    """Its onehot(y) is zero, and the head learns nothing from it."""
    synthesizer = sg.LeastSquaresSynthesizer((WIDTH,), classes=CLASSES, belief=belief, ridge=RIDGE).double()
    activation, _, target = drawn((WIDTH,), ())
    none = sg.Context(torch.full((9,), -100))
    synthesizer.check(none)
    loss = taught(synthesizer, activation, none, target)
    ended(synthesizer)
    assert loss is not None
    if belief:
        loss.backward()
        assert not any(weight.grad is None or weight.grad.any() for weight in synthesizer.parameters())
    else:
        expected = joined(activation, none, seen=True)
        expected = expected @ solved([(expected, target.numpy())], 0.0, RIDGE)
        np.testing.assert_allclose(synthesizer(activation, none).numpy(), expected, rtol=1e-8, atol=1e-9)


# ---- when it learns --------------------------------------------------------------------------------------------------


def test_answers_change_when_the_step_ends_and_parts_of_a_batch_add_up() -> None:
    whole, split = LABELED((WIDTH,)).double(), LABELED((WIDTH,)).double()
    activation, context, target = drawn((WIDTH,), ())
    assert context.labels is not None
    taught(whole, activation, context, target)
    for part in (slice(0, 2), slice(2, 9)):
        taught(split, activation[part], sg.Context(context.labels[part]), target[part])
        assert not split(activation, context).any()
    for synthesizer in (whole, split):
        ended(synthesizer)
        assert synthesizer(activation, context).any()
    torch.testing.assert_close(split(activation, context), whole(activation, context), rtol=1e-12, atol=1e-12)


def test_it_finds_a_linear_map_in_one_step_and_follows_when_it_changes() -> None:
    """No learning rate: with more rows than unknowns the first step is enough, and what is old is forgotten."""
    synthesizer = LABELED((WIDTH,), decay=0.1, ridge=1e-12).double()
    for _ in range(2):
        matrix, by_class = torch.randn(WIDTH, WIDTH).double(), torch.randn(CLASSES, WIDTH).double()
        for _ in range(12):
            activation, context, _ = drawn((WIDTH,), (), rows=40)
            taught(synthesizer, activation, context, activation @ matrix + by_class[context.labels])
            ended(synthesizer)
        activation, context, _ = drawn((WIDTH,), ())
        torch.testing.assert_close(
            synthesizer(activation, context), activation @ matrix + by_class[context.labels], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("belief", [False, True])
def test_a_step_that_was_given_up_is_forgotten_and_those_before_are_not(belief: bool) -> None:
    """The loss shows that a target was not finite, so that whoever looks at it gives the step up."""
    synthesizer = LABELED((WIDTH,), belief=belief).double()
    activation, context, target = drawn((WIDTH,), ())
    taught(synthesizer, activation, context, target)
    ended(synthesizer)
    before = synthesizer.state_dict()["past"].clone()
    loss = taught(synthesizer, activation, context, target * torch.inf)
    assert loss is not None and not loss.isfinite() and loss.requires_grad == belief
    synthesizer.forget()
    assert torch.equal(synthesizer.past, before) and not synthesizer.lesson.any()


def test_where_nothing_can_be_solved_for_it_stays_as_it_is() -> None:
    synthesizer = LABELED((WIDTH,)).double()
    ended(synthesizer)
    assert not synthesizer.weight.any()
    taught(synthesizer, *drawn((WIDTH,), ()))
    ended(synthesizer)
    before = synthesizer.weight.clone()
    assert before.any() and before.isfinite().all()
    synthesizer.past.neg_()
    ended(synthesizer)
    assert torch.equal(synthesizer.weight, before)


def test_it_takes_the_memory_it_says_and_has_nothing_for_an_optimizer() -> None:
    synthesizer = LABELED((WIDTH,))
    count = WIDTH + CLASSES + 1
    numbers = 2 * count * (count + WIDTH) + count * WIDTH
    assert sum(tensor.numel() for tensor in synthesizer.state_dict().values()) == numbers
    assert Learner.of(synthesizer, SGD).optimizer is None
    assert [tuple(sums.shape) for sums in synthesizer.sums()] == [(count, count + WIDTH)]


# ---- in a network ----------------------------------------------------------------------------------------------------


def network(synthesizer: Any, parts: int = 1) -> sg.Decoupled:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), nn.Linear(WIDTH, CLASSES)).double()
    return sg.decouple(
        model,
        at=["0"],
        sample=batch(),
        loss=functional.cross_entropy,
        optimizer=SGD,
        synthesizer=synthesizer,
        schedule=sg.update_unlocked(microbatches=parts),
    )


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(12, WIDTH, generator=draw).double(), torch.randint(0, CLASSES, (12,), generator=draw)


@pytest.mark.parametrize("belief", [False, True])
@pytest.mark.parametrize("parts", [2, 5])
def test_microbatches_teach_what_the_batch_teaches(parts: int, belief: bool) -> None:
    synthesizer = partial(sg.LeastSquaresSynthesizer, classes=CLASSES, belief=belief)
    whole, split = network(synthesizer), network(synthesizer, parts)
    for seed in range(6):
        for net in (whole, split):
            x, y = batch(seed)
            net.step(x, target=y)
            net.flush()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[key], value, rtol=1e-9, atol=1e-9)
    assert whole.state_dict()["synthgrad.0/gradient.weight"].any()


@pytest.mark.parametrize("belief", [False, True])
def test_a_bad_batch_leaves_no_trace(belief: bool) -> None:
    """The step is refused; then all goes on as though it had not been."""
    synthesizer = partial(sg.LeastSquaresSynthesizer, classes=CLASSES, belief=belief)
    struck, spared = network(synthesizer), network(synthesizer)
    for seed in range(4):
        x, y = batch(seed)
        if seed == 2:
            with pytest.raises(sg.NumericalError):
                struck.step(x * torch.nan, target=y)
        for net in (struck, spared):
            net.step(x, target=y)
            net.flush()
    for key, value in spared.state_dict().items():
        assert torch.equal(struck.state_dict()[key], value), key


def test_under_autocast_the_sums_are_made_in_full() -> None:
    """Half precision would be off by parts in a hundred."""
    usual, cast = LABELED((WIDTH,)), LABELED((WIDTH,))
    activation, context, target = drawn((WIDTH,), ())
    activation, target = activation.float(), target.float()
    taught(usual, activation, context, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        taught(cast, activation, context, target)
        ended(cast)
    ended(usual)
    assert torch.equal(cast.past, usual.past) and torch.equal(cast.weight, usual.weight)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "given", "words"),
    [
        ((3, 4, 4), {}, r"shape \(3, 4, 4\) without batch, expected \(D,\) or \(T, D\).*take ConvSynthesizer"),
        ((), {}, r"expected \(D,\)"),
        ((WIDTH,), {"decay": 1.0}, "decay=1.0: expected 0"),
        ((WIDTH,), {"decay": -0.1}, "decay=-0.1"),
        ((WIDTH,), {"ridge": 0.0}, "ridge=0.0: expected a number above 0"),
        ((WIDTH,), {"ridge": float("nan")}, "ridge=nan"),
    ],
)
def test_settings_without_a_meaning_are_refused(shape: tuple[int, ...], given: dict[str, Any], words: str) -> None:
    with pytest.raises(sg.SynthgradError, match=f"LeastSquaresSynthesizer: .*{words}"):
        LABELED(shape, **given)


def test_half_precision_is_refused_before_anything_has_changed() -> None:
    synthesizer = LABELED((WIDTH,)).to(torch.bfloat16)
    with pytest.raises(sg.SynthgradError, match=r"got torch.bfloat16, expected float32 or float64.*autocast"):
        synthesizer.check(sg.Context(torch.zeros(3, dtype=torch.long)))
    with pytest.raises(sg.ContextError, match="LeastSquaresSynthesizer: expected labels"):
        LABELED((WIDTH,)).check(sg.Context())


def test_labels_for_other_rows_are_refused() -> None:
    synthesizer = LABELED((TIME, WIDTH))
    with pytest.raises(sg.ContextError, match=r"got labels of shape \(2, 3\) for an activation of \(2, 5\) rows"):
        synthesizer(torch.randn(2, TIME, WIDTH), sg.Context(torch.zeros(2, 3, dtype=torch.long)))


def test_what_remembers_is_not_replayed() -> None:
    with pytest.raises(sg.SynthgradError, match="Replay: got a LeastSquaresSynthesizer.*leave Replay out"):
        sg.Replay(LABELED((WIDTH,)))
    with pytest.raises(sg.SynthgradError, match="Replay: got a Clipped"):
        sg.Replay(sg.Clipped(LABELED((WIDTH,)), 1.0))


def test_around_it_the_other_wrappers_work() -> None:
    activation, context, target = drawn((WIDTH,), ())
    for wrap in (sg.Averaged, sg.Normalized, partial(sg.Clipped, norm=1e9)):
        plain, wrapped = LABELED((WIDTH,)).double(), wrap(LABELED((WIDTH,))).double()
        for synthesizer in (plain, wrapped):
            taught(synthesizer, activation, context, target)
            ended(synthesizer)
        torch.testing.assert_close(wrapped(activation, context), plain(activation, context))
