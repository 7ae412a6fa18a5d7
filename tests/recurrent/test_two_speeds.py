"""TwoSpeeds: against autograd, what crosses the interface and when; and given nonsense."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad.recurrent.two_speeds import TwoSpeeds

T, B, INPUTS, UNITS = 3, 4, 2, 3
sgd = partial(torch.optim.SGD, lr=1.0)


def made(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "fast_head": nn.Linear(UNITS, 2),
        "slow_head": nn.Linear(UNITS, 2),
        "loss": functional.mse_loss,
        "optimizer": sgd,
        "synthesizer": sg.LinearSynthesizer,
        "sample": torch.zeros(T, B, INPUTS),
    }
    return TwoSpeeds(nn.GRU(INPUTS, UNITS), nn.GRU(UNITS, UNITS), **settings | changes)


def period() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(T, B, INPUTS), torch.randn(B, 2), torch.randn(B, 2)


def moved(before: nn.Module, after: nn.Module) -> list[Tensor]:
    return [old.detach() - new.detach() for old, new in zip(before.parameters(), after.parameters(), strict=True)]


def assert_close(ours: list[Tensor], theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_fast_net_is_updated_from_its_loss_and_what_the_messages_synthesizer_says(scale: float) -> None:
    nets = made(scale=scale)
    nn.init.normal_(nets.messages.synthesizer.up.weight)
    fast, head = copy.deepcopy(nets.nets["fast"]), copy.deepcopy(nets.nets["fast_head"])
    x, y, _ = period()
    message = fast(x)[0][-1]
    said = nets.messages.synthesizer(message.detach(), sg.Context()).detach()
    loss = functional.mse_loss(head(message), y)
    expected = torch.autograd.grad(loss + scale * (said * message).sum() / B, list(fast.parameters()))
    report = nets.step(x, target=y)
    assert_close(moved(fast, nets.nets["fast"]), expected)
    torch.testing.assert_close(report.loss, loss.detach())
    assert torch.equal(report.fast, head(message).detach()) and report.slow_loss is None


def test_the_slow_net_teaches_what_its_summed_loss_says_of_the_message() -> None:
    """One period later; the lesson is the true gradient, as the slow net's own cut says zero at first."""
    nets = made(optimizer=partial(torch.optim.SGD, lr=0.0))
    lessons: list[tuple[Tensor, Tensor]] = []
    learn = nets.messages.synthesizer.learn

    def listen(activation: Tensor, answer: Any, context: Any, feedback: Any) -> Any:
        lessons.append((activation, feedback.target_grad))
        return learn(activation, answer, context, feedback)

    nets.messages.synthesizer.learn = listen
    x, y, z = period()
    report = nets.step(x, target=y, slow_target=z)
    assert not lessons
    message = nets.nets["fast"](x)[0][-1].detach().requires_grad_()
    slow = nets.nets["slow_head"](nets.nets["slow"](message.unsqueeze(0))[0][-1])
    loss = functional.mse_loss(slow, z)
    (expected,) = torch.autograd.grad(loss, message)
    nets.step(x, target=y)
    ((activation, target),) = lessons
    assert torch.equal(activation, message.detach()) and torch.equal(report.slow, slow.detach())
    torch.testing.assert_close(target, expected * B)
    torch.testing.assert_close(report.slow_loss, loss.detach())


def test_the_slow_net_learns_nothing_while_it_is_asked_nothing_and_its_synthesizer_says_zero() -> None:
    nets = made(optimizer=partial(torch.optim.SGD, lr=0.1))
    slow, fast = copy.deepcopy(nets.nets["slow"]), copy.deepcopy(nets.nets["fast"])
    x, y, z = period()
    nets.step(x, target=y)
    assert not any(part.any() for part in moved(slow, nets.nets["slow"]))
    assert any(part.any() for part in moved(fast, nets.nets["fast"]))  # updated already: it waits for nobody
    nets.step(x, target=y, slow_target=z)
    assert any(part.any() for part in moved(slow, nets.nets["slow"]))


def test_what_the_slow_net_is_asked_comes_to_the_fast_one_through_the_messages_alone() -> None:
    def run(scale: float, wanted: float) -> list[Tensor]:
        torch.manual_seed(3)
        nets = made(scale=scale, optimizer=partial(torch.optim.SGD, lr=0.1))
        for _ in range(4):
            x, y, z = period()
            nets.step(x, target=y, slow_target=z + wanted)
        return [parameter.detach() for parameter in nets.nets["fast"].parameters()]

    def same(scale: float) -> bool:
        return all(torch.equal(*pair) for pair in zip(run(scale, 0.0), run(scale, 5.0), strict=True))

    assert same(0.0) and not same(1.0)


def test_targets_of_other_rows_and_other_sequences_are_refused_before_anything_is_updated() -> None:
    nets = made()
    x, y, z = period()
    nets.step(x, target=y, slow_target=z)
    before = copy.deepcopy(nets.nets)
    with pytest.raises(sg.ShapeError, match="slow_target: got 2 rows, expected 4"):
        nets.step(x, target=y, slow_target=z[:2])
    with pytest.raises(sg.ShapeError, match="target: got 3 rows"):
        nets.step(x, target=y[:3])
    with pytest.raises(sg.StateError, match="got 2 sequences, expected 4"):
        nets.step(x[:, :2], target=y[:2])
    assert not any(part.any() for part in moved(before, nets.nets))
    nets.reset()
    nets.step(x[:, :2], target=y[:2])


def test_a_bad_number_is_refused_before_the_net_that_it_concerns_is_updated() -> None:
    nets = made()
    x, y, z = period()
    nets.step(x, target=y, slow_target=z)
    before = copy.deepcopy(nets.nets)
    with pytest.raises(sg.NumericalError, match="loss or gradient of the fast net"):
        nets.step(x, target=y * float("nan"))
    assert not any(part.any() for part in moved(before, nets.nets))
    with pytest.raises(sg.NumericalError, match="loss or gradient of the slow net"):
        nets.step(x, target=y, slow_target=z * float("inf"))
    assert not any(part.any() for part in moved(before["slow"], nets.nets["slow"]))
    nets.step(x, target=y, slow_target=z)
    assert all(parameter.isfinite().all() for parameter in nets.parameters())
