"""A pupil: when it is asked and taught, whom a lesson reaches, and what it refuses."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import synthgrad as sg
from synthgrad.core.synthesizers import Feedback
from synthgrad.recurrent.pupil import NOTHING, Pupil

B, S = 4, 3
sgd = partial(torch.optim.SGD, lr=0.1)
critic = partial(sg.CriticSynthesizer, classes=2)


def made(synthesizer: Any = sg.LinearSynthesizer, **settings: Any) -> Pupil:
    pupil = Pupil(synthesizer, torch.zeros(B, S), sgd, **settings)
    for parameter in pupil.synthesizer.parameters():
        torch.nn.init.normal_(parameter)
    return pupil


def loss_by_hand(pupil: Pupil, rows: Tensor, target: Tensor) -> Tensor:
    return (pupil.synthesizer(rows, NOTHING) - target).square().sum() / B


def test_a_lesson_is_a_step_down_the_mean_squared_distance() -> None:
    pupil = made()
    rows, target = torch.randn(B, S), torch.randn(B, S)
    parameters = list(pupil.synthesizer.parameters())
    expected = torch.autograd.grad(loss_by_hand(pupil, rows, target), parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    said = pupil.ask(rows, NOTHING).grad
    answer = pupil.teach(rows, NOTHING, Feedback(target))
    assert torch.equal(answer.grad.detach(), said) and not said.requires_grad
    for old, new, grad in zip(before, parameters, expected, strict=True):
        torch.testing.assert_close(old - new.detach(), 0.1 * grad)


@pytest.mark.parametrize("through", [False, True])
def test_a_lesson_goes_on_into_what_made_the_rows_only_where_that_is_wanted(through: bool) -> None:
    pupil = made(through=through)
    core, target = torch.randn(B, S, requires_grad=True), torch.randn(B, S)
    (expected,) = torch.autograd.grad(loss_by_hand(pupil, core * 2, target), core)
    pupil.teach(core * 2, NOTHING, Feedback(target))
    if through:
        assert core.grad is not None
        torch.testing.assert_close(core.grad, expected)
    else:
        assert core.grad is None


def test_only_one_without_feedback_learns_at_once_and_answers_with_a_graph() -> None:
    labels = sg.Context(torch.tensor([0, 1, 1, 0]))
    for learns, at_once in ((("labels",), True), (("labels", "gradient"), False)):
        pupil = made(partial(critic, learns=learns, head=partial(sg.mlp_head, hidden=5)))
        answer = pupil.ask(torch.randn(B, S), labels)
        assert pupil.learns_at_once is at_once
        assert answer.loss is not None and answer.loss.requires_grad is at_once
    assert not Pupil(sg.ZeroSynthesizer, torch.zeros(B, S), sgd).learns_at_once  # it learns nothing


@pytest.mark.parametrize(
    "synthesizer",
    [sg.ZeroSynthesizer, lambda shape: sg.OracleSynthesizer(lambda rows, _: rows.detach(), needs=frozenset())],
)
def test_through_is_refused_where_nothing_goes_through(synthesizer: Any) -> None:
    with pytest.raises(sg.SynthgradError, match="into_core: .* gives no gradient to the state.*leave into_core out"):
        Pupil(synthesizer, torch.zeros(B, S), sgd, through=True)


def test_through_a_critic_is_refused_with_its_first_context() -> None:
    pupil = made(critic, through=True)
    with pytest.raises(sg.SynthgradError, match="into_core: CriticSynthesizer gives no gradient"):
        pupil.try_out(torch.zeros(B, S), sg.Context(torch.tensor([0, 1, 1, 0])))
    made(critic).try_out(torch.zeros(B, S), sg.Context(torch.tensor([0, 1, 1, 0])))


def test_trying_out_leaves_it_as_it_is() -> None:
    pupil = made(through=True)
    assert all(parameter.grad is None for parameter in pupil.synthesizer.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_target_is_refused_before_it_is_learned(value: float) -> None:
    pupil = made()
    before = [parameter.detach().clone() for parameter in pupil.synthesizer.parameters()]
    with pytest.raises(sg.NumericalError, match="target of the synthesizer, or its answer, is not finite"):
        pupil.teach(torch.randn(B, S), NOTHING, Feedback(torch.full((B, S), value)))
    assert all(torch.equal(*pair) for pair in zip(before, pupil.synthesizer.parameters(), strict=True))


def test_what_can_never_do_in_time_is_refused() -> None:
    with pytest.raises(sg.ContextError, match="learns from the output, and a cut in time sends back none"):
        made(partial(critic, learns=("output",)))
    with pytest.raises(sg.ShapeError, match=r"got labels of shape \(2,\), expected 4 rows"):
        made().check(sg.Context(torch.zeros(2)), B)
    with pytest.raises(sg.ContextError, match="expected labels as context, got none"):
        made(critic).check(NOTHING, B)
    made(critic).check(NOTHING, B, asked=False)
