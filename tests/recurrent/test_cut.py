"""TimeCut: what it injects, what it learns from, and what it refuses."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import synthgrad as sg

B, UNITS = 3, 2
sgd = partial(torch.optim.SGD, lr=0.1)


def cut_of(synthesizer: Any = sg.LinearSynthesizer, **settings: Any) -> Any:
    return sg.TimeCut(synthesizer, torch.zeros(B, UNITS), optimizer=sgd, **settings)


class Listening(sg.Synthesizer):
    """Answers 1, 2, 3, ... times the activation, and remembers its lessons."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.asked, self.lessons = 0, []

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        self.asked += 1
        return activation * self.asked

    def learn(self, activation: Tensor, answer: Any, context: Any, feedback: Any) -> None:
        self.lessons.append((activation, feedback.target_grad))


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("count", [1, 6])
def test_what_is_injected_is_the_answer_scaled_and_divided_by_the_count(scale: float, count: int) -> None:
    cut = cut_of(lambda shape: sg.OracleSynthesizer(lambda rows, _: 3 * rows, needs=frozenset()), scale=scale)
    state = torch.randn(B, UNITS, requires_grad=True)
    term = cut.close(state, count=count)
    (grad,) = torch.autograd.grad(term, state)
    torch.testing.assert_close(grad, 3 * state.detach() * scale / count)
    assert torch.equal(cut.synthetic_grad, 3 * state.detach())


def test_the_target_is_the_summed_loss_of_the_next_unroll_with_its_synthetic_term() -> None:
    cut = cut_of(Listening, scale=0.5)
    listener = cut.synthesizer
    first = torch.randn(B, UNITS)
    cut.close(first, count=4)
    state = cut.open(first)
    assert state.is_leaf and state.requires_grad and torch.equal(state, first)
    after = state * 2
    (state.square().sum() / 5 + cut.close(after, count=5)).backward()
    assert cut.learn() is not None and cut.learn() is None  # once
    ((activation, target),) = listener.lessons
    synthetic_grad = cut.synthetic_grad
    assert torch.equal(activation, first)
    torch.testing.assert_close(target, 2 * first + 0.5 * 2 * synthetic_grad)


def test_at_a_sequences_end_the_target_is_zero_and_the_row_begins_anew() -> None:
    cut = cut_of(Listening)
    first, ends = torch.randn(B, UNITS), torch.tensor([True, False, False])
    assert not cut.close(first, count=1, ends=ends).requires_grad
    ends[1] = True  # the mask is the caller's, who may use it again
    state = cut.open(first)
    assert torch.equal(state[1:], first[1:]) and not state[0].any()
    (state.sum() + cut.close(state * 1, count=1)).backward()
    cut.learn()
    ((_, target),) = cut.synthesizer.lessons
    assert not target[0].any() and target[1:].all() and not cut.synthetic_grad[0].any()


def test_where_all_that_follows_is_new_only_the_ended_ones_are_learned_from() -> None:
    cut = cut_of(Listening)
    first = torch.randn(B, UNITS)
    cut.close(first, count=1, ends=torch.tensor([True, False, True]))
    assert cut.open(None) is None
    cut.learn()
    ((activation, target),) = cut.synthesizer.lessons
    assert torch.equal(activation, first[[0, 2]]) and not target.any()


def test_without_a_backward_pass_there_is_no_lesson() -> None:
    cut = cut_of(Listening)
    state = torch.randn(B, UNITS)
    cut.close(state, count=1)
    cut.open(state)
    assert cut.learn() is None and not cut.synthesizer.lessons


def test_a_part_of_the_state_that_nothing_depends_on_has_a_zero_gradient() -> None:
    state = (torch.randn(B, UNITS), torch.randn(B, UNITS))
    cut: Any = sg.TimeCut(Listening, state, optimizer=sgd, scale=0.0)
    cut.close(state, count=1)
    one, _ = cut.open(state)
    (one.sum() + cut.close((one * 1, torch.zeros(B, UNITS)), count=1)).backward()
    cut.learn()
    ((_, target),) = cut.synthesizer.lessons
    assert torch.equal(target, torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(B, 4))


def test_it_learns_by_its_own_optimizer_from_the_mean_over_sequences() -> None:
    cut = cut_of()
    state = torch.randn(B, UNITS)
    cut.close(state, count=1)
    (cut.open(state).sum() + cut.close(torch.zeros(B, UNITS), count=1)).backward()
    cut.learn()
    bias = 0.1 * 2 * torch.ones(UNITS)  # one step of SGD from zero towards a target of ones
    torch.testing.assert_close(cut.synthesizer.up.bias.detach(), bias)


def test_in_eval_mode_no_synthesizer_runs() -> None:
    cut = cut_of(Listening).eval()
    asked, state = cut.synthesizer.asked, torch.randn(B, UNITS, requires_grad=True)
    term = cut.close(state, count=1, ends=torch.tensor([True, False, False]))
    again = cut.open(state)
    assert term.item() == 0 and not again.requires_grad and not again[0].any() and cut.synthesizer.asked == asked


def test_what_does_not_fit_is_refused() -> None:
    cut = cut_of()
    state = torch.randn(B, UNITS)
    with pytest.raises(sg.ShapeError, match="count=0"):
        cut.close(state, count=0)
    with pytest.raises(sg.ShapeError, match=r"ends: got .*\(3,\)"):
        cut.close(state, count=1, ends=torch.zeros(2, dtype=torch.bool))
    with pytest.raises(sg.StateError, match="as before"):
        cut.close(state.double(), count=1)
    cut.close(state, count=1)
    with pytest.raises(sg.StateError, match=r"got 2 sequences, expected 3.*open\(None\)"):
        cut.open(state[:2])
    with pytest.raises(sg.StateError, match="as before"):
        cut.open((state, state))
    cut.open(state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_target_is_refused_before_the_synthesizer_is_updated(value: float) -> None:
    cut = cut_of()
    state = torch.randn(B, UNITS)
    cut.close(state, count=1)
    opened = cut.open(state)
    ((opened * value).sum() + cut.close(torch.zeros(B, UNITS), count=1)).backward()
    with pytest.raises(sg.NumericalError, match="target of the synthesizer"):
        cut.open(state)
    assert not any(parameter.any() for parameter in cut.synthesizer.parameters())
    assert cut.open(state) is not None and cut.learn() is None
