"""A context at a cut in time: what of the future is known in training; critics, which derive the gradient from it."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad.core.synthesizers import Feedback

B, UNITS, UNROLL, AHEAD, OUTPUTS = 4, 5, 3, 2, 2
sgd = partial(torch.optim.SGD, lr=0.1)
adam = partial(torch.optim.Adam, lr=1e-2)
LEARNS = [("gradient",), ("labels",), ("gradient", "labels")]


def labels_of(context: sg.Context) -> Tensor:
    assert context.labels is not None
    return context.labels


def coming_loss(scores: Tensor, coming: Tensor) -> Tensor:
    """Binary cross-entropy of the digits to come, (B, AHEAD, OUTPUTS); -1 where nothing does. Summed."""
    each = functional.binary_cross_entropy_with_logits(scores.view_as(coming), coming.clamp_min(0), reduction="none")
    return (each * (coming >= 0)).sum()


def critic(shape: tuple[int, ...], learns: tuple[str, ...] = ("gradient",), **given: Any) -> sg.CriticSynthesizer:
    settings: dict[str, Any] = {"classes": AHEAD * OUTPUTS, "head": sg.mlp_head, "loss": coming_loss} | given
    torch.manual_seed(3)
    made = sg.CriticSynthesizer(shape, learns=learns, **settings)
    with torch.no_grad():
        for parameter in made.parameters():  # it starts at zero, and would say nothing
            parameter.normal_(std=0.3)
    return made


def told(rows: int = B) -> sg.Context:
    coming = torch.randint(2, (rows, AHEAD, OUTPUTS)).float()
    coming[0, 1:] = -1.0
    return sg.Context(labels=coming)


def cut_of(synthesizer: Any, **settings: Any) -> Any:
    return sg.TimeCut(synthesizer, torch.zeros(B, UNITS), optimizer=sgd, **settings)


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def assert_equal(ours: Any, theirs: Any) -> None:
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Listening(sg.Synthesizer):
    """Answers zero, and remembers its lessons."""

    needs = frozenset({"labels"})

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.lessons: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return torch.zeros_like(activation)

    def learn(self, activation: Tensor, answer: Any, context: Any, feedback: Feedback) -> None:
        assert feedback.target_grad is not None
        self.lessons.append((activation, labels_of(context), feedback.target_grad))


# ---- the cut ---------------------------------------------------------------------------------------------------------


def test_a_critics_answer_is_the_gradient_of_the_loss_at_what_is_to_come() -> None:
    cut, context = cut_of(critic), told()
    state = torch.randn(B, UNITS, requires_grad=True)
    head: Any = cut.synthesizer.head
    hidden = (state @ head.first.weight.T + head.first.bias).clamp_min(0)
    scores = hidden @ head.up.weight.T + head.up.bias + state @ head.past.weight.T
    (expected,) = torch.autograd.grad(coming_loss(scores, labels_of(context)), state)
    (grad,) = torch.autograd.grad(cut.close(state, count=6, context=context), state)
    torch.testing.assert_close(grad, expected / 6)
    torch.testing.assert_close(cut.synthetic_grad, expected)


def test_a_lesson_has_the_context_of_its_question() -> None:
    cut, first, then = cut_of(Listening), told(), told()
    assert first.labels is not None
    asked, state = first.labels.clone(), torch.randn(B, UNITS)
    cut.close(state, count=1, context=first)
    first.labels.fill_(7.0)  # the tensor is the caller's, who may use it again
    (cut.open(state).sum() + cut.close(state, count=1, context=then)).backward()
    cut.learn()
    ((activation, labels, target),) = cut.synthesizer.lessons
    assert torch.equal(activation, state) and torch.equal(labels, asked) and bool((target == 1).all())


def test_where_only_ended_sequences_are_left_their_part_of_the_context_goes_with_them() -> None:
    cut, context = cut_of(Listening), told()
    cut.close(torch.randn(B, UNITS), count=1, ends=torch.tensor([True, False, True, False]), context=context)
    cut.open(None)
    cut.learn()
    ((_, labels, target),) = cut.synthesizer.lessons
    assert torch.equal(labels, labels_of(context)[[0, 2]]) and not target.any()


def test_a_critic_without_feedback_learns_at_once_from_what_it_was_told() -> None:
    cut, context, state = cut_of(partial(critic, learns=("labels",))), told(), torch.randn(B, UNITS)
    other = copy.deepcopy(cut.synthesizer)
    cut.close(state, count=6, context=context)
    assert not cut.open(state).requires_grad  # which has it taught; and nobody waits for a gradient
    optimizer = sgd(list(other.parameters()))
    (coming_loss(other.head(state), labels_of(context)) / B).backward()
    optimizer.step()
    for ours, theirs in zip(cut.synthesizer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    before = weights(cut.synthesizer)
    assert cut.learn() is None
    cut.open(None)
    assert_equal(weights(cut.synthesizer), before)  # once


def test_what_is_forgotten_or_seen_in_eval_mode_is_not_learned() -> None:
    cut, state = cut_of(partial(critic, learns=("labels",))), torch.randn(B, UNITS)
    before = weights(cut.synthesizer)
    cut.close(state, count=1, context=told())
    cut.forget()
    cut.open(state)
    cut.eval()
    cut.close(state, count=1)  # and no context is asked for
    cut.open(state)
    assert_equal(weights(cut.synthesizer), before)
    assert not any(parameter.grad is not None for parameter in cut.synthesizer.parameters())


@pytest.mark.parametrize("learns", LEARNS)
def test_what_it_holds_is_counted(learns: tuple[str, ...]) -> None:
    cut, context = cut_of(partial(critic, learns=learns)), told()
    cut.close(torch.randn(B, UNITS), count=1, context=context)
    assert sum(tensor.numel() for tensor in cut.held) == B * UNITS + B * AHEAD * OUTPUTS


def test_what_does_not_fit_is_refused_before_anything_is_asked() -> None:
    state = torch.randn(B, UNITS)
    with pytest.raises(sg.ContextError, match="learns from the output, and a cut in time sends back none"):
        cut_of(partial(critic, learns=("output", "labels")))
    with pytest.raises(sg.ContextError, match="needs the error of the output"):
        cut_of(lambda shape: sg.OracleSynthesizer(lambda rows, _: rows, needs=frozenset({"error"})))
    cut = cut_of(critic)
    with pytest.raises(sg.ContextError, match="CriticSynthesizer needs labels, got none"):
        cut.close(state, count=1)
    with pytest.raises(sg.ShapeError, match=r"got labels of shape \(3, 2, 2\), expected 4 rows"):
        cut.close(state, count=1, context=told(3))
    with pytest.raises(sg.ContextError, match="does not fit the loss"):
        cut.close(state, count=1, context=sg.Context(labels=torch.zeros(B, 7)))
    assert cut.held == []
    wrong = cut_of(lambda shape: critic((UNITS + 1,)))
    with pytest.raises(sg.ShapeError, match=r"CriticSynthesizer: cannot take the rows.*\(5,\)"):
        wrong.close(state, count=1, context=told())
    with pytest.raises(sg.ContextError, match="expected class indices"):
        cut_of(partial(sg.LinearSynthesizer, classes=3)).close(state, count=1, context=told())


# ---- the whole -------------------------------------------------------------------------------------------------------


def made(synthesizer: Any, **settings: Any) -> Any:
    torch.manual_seed(5)
    given: dict[str, Any] = {"unroll": UNROLL, "loss": functional.mse_loss, "optimizer": adam} | settings
    return sg.TruncatedBPTT(nn.LSTM(3, UNITS), head=nn.Linear(UNITS, OUTPUTS), synthesizer=synthesizer, **given)


def stream(steps: int = UNROLL) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, B, 3), torch.randn(steps, B, OUTPUTS)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("learns", LEARNS)
def test_a_loop_of_ones_own_is_the_same_bit_for_bit(learns: tuple[str, ...], wrapped: bool) -> None:
    def synthesizer(shape: tuple[int, ...]) -> sg.Synthesizer:
        inner = critic(shape, learns)
        return sg.Replay(sg.Averaged(inner)) if wrapped else inner

    ours = made(synthesizer)
    module, head = copy.deepcopy(ours.plain), copy.deepcopy(ours.head)
    cut = sg.TimeCut(synthesizer, tuple(torch.zeros(1, B, UNITS) for _ in range(2)), optimizer=adam)
    optimizer = adam([*module.parameters(), *head.parameters()])
    state: Any = None
    for step in range(6):
        (x, y), context = stream(), told()
        ends = torch.tensor([step == 2, step == 4, False, step == 4])
        state = cut.open(state)
        output, state = module(x, state)
        loss = functional.mse_loss(head(output), y)
        optimizer.zero_grad()
        (loss + cut.close(state, count=B * UNROLL, ends=ends, context=context)).backward()
        optimizer.step()
        agreement = ours.step(x, target=y, ends=ends, context=context).agreement
        assert (agreement is None) is (step == 0 or learns == ("labels",))
    cut.open(state)  # the last lesson
    assert_equal(ours.core.parameters, [*module.parameters(), *head.parameters()])
    assert_equal(ours.cut.synthesizer.parameters(), cut.synthesizer.parameters())
    assert not torch.equal(weights(cut.synthesizer)[0], weights(synthesizer((2 * UNITS,)))[0])


@pytest.mark.parametrize("learns", LEARNS)
def test_a_long_chunk_has_a_context_for_each_of_its_unrolls(learns: tuple[str, ...]) -> None:
    one, other = (made(partial(critic, learns=learns)) for _ in range(2))
    (x, y), contexts = stream(8), [told() for _ in range(3)]
    one.step(x, target=y, context=contexts)
    for low, context in zip((0, 3, 6), contexts, strict=True):
        other.step(x[low : low + 3], target=y[low : low + 3], context=context)
    assert_equal(one.state_dict().values(), other.state_dict().values())


@pytest.mark.parametrize(
    ("context", "words"),
    [
        (sg.Context(), "got 1 for a chunk of 3 unrolls, expected one for each"),
        ([sg.Context()] * 2, "got 2 for a chunk of 3 unrolls"),
        ([sg.Context()] * 3, "needs labels, got none"),
    ],
)
def test_a_missing_context_is_refused_before_anything_has_changed(context: Any, words: str) -> None:
    bptt = made(critic)
    (x, y), before = stream(8), weights(bptt)
    with pytest.raises(sg.ContextError, match=words):
        bptt.step(x, target=y, context=context)
    assert_equal(weights(bptt), before)
    assert bptt.state is None


def test_who_needs_no_context_is_given_any() -> None:
    bptt, (x, y) = made(sg.LinearSynthesizer), stream(8)
    bptt.step(x, target=y, context=told())
    with pytest.raises(sg.ShapeError, match="expected 4 rows"):
        bptt.step(x, target=y, context=told(3))


# ---- that it learns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", LEARNS)
def test_a_critic_comes_to_the_gradient_of_what_follows(learns: tuple[str, ...]) -> None:
    """The state is read out behind the cut by a fixed linear map, so that the critic's head can be exactly that map."""
    read = torch.randn(UNITS, AHEAD * OUTPUTS)
    cut = sg.TimeCut(
        partial(critic, learns=learns, head=sg.zero_head),
        torch.zeros(B, UNITS),
        optimizer=partial(torch.optim.Adam, lr=0.03),
    )
    for _ in range(400):
        context, state = told(), torch.randn(B, UNITS)
        scores = state @ read  # so the targets to come can be told from the state
        labels = torch.bernoulli(scores.sigmoid()).view(B, AHEAD, OUTPUTS)
        context = sg.Context(labels=torch.where(labels_of(context) < 0, labels_of(context), labels))
        cut.close(state, count=1, context=context)
        opened = cut.open(state)
        cut.close(opened, count=1, ends=torch.ones(B, dtype=torch.bool), context=context)
        if opened.requires_grad:
            coming_loss(opened @ read, labels_of(context)).backward()
        cut.learn()
    leaf = state.requires_grad_()
    (expected,) = torch.autograd.grad(coming_loss(leaf @ read, labels_of(context)), leaf)
    answer = cut.synthesizer(state.detach(), context).detach()
    assert float(functional.cosine_similarity(answer, expected).mean()) > 0.9
