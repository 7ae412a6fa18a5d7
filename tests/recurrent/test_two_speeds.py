"""TwoSpeeds: against autograd, what crosses the interface and when, and given nonsense. Its example shows it learn."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg

T, B, INPUTS, UNITS = 3, 4, 2, 3
sgd = partial(torch.optim.SGD, lr=1.0)
still = partial(torch.optim.SGD, lr=0.0)


def made(**changes: Any) -> Any:
    settings: dict[str, Any] = {
        "fast_head": nn.Linear(UNITS, 2),
        "slow_head": nn.Linear(UNITS, 2),
        "loss": functional.mse_loss,
        "optimizer": sgd,
        "synthesizer": sg.LinearSynthesizer,
        "sample": torch.zeros(T, B, INPUTS),
    }
    return sg.TwoSpeeds(nn.GRU(INPUTS, UNITS), nn.GRU(UNITS, UNITS), **settings | changes)


def period() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(T, B, INPUTS), torch.randn(B, 2), torch.randn(B, 2)


def moved(before: nn.Module, after: nn.Module) -> list[Tensor]:
    return [old.detach() - new.detach() for old, new in zip(before.parameters(), after.parameters(), strict=True)]


def assert_close(ours: list[Tensor], theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def stay(nets: Any, before: Any, *names: str) -> bool:
    return not any(part.any() for name in names for part in moved(before[name], nets.nets[name]))


# ---- against autograd ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_fast_net_is_updated_from_its_loss_and_what_the_synthesizer_says(scale: float) -> None:
    nets = made(scale=scale)
    nn.init.normal_(nets.synthesizer.up.weight)
    fast, head = copy.deepcopy(nets.nets["fast"]), copy.deepcopy(nets.nets["fast_head"])
    x, y, _ = period()
    message = fast(x)[0][-1]
    said = nets.synthesizer(message.detach(), sg.Context()).detach()
    loss = functional.mse_loss(head(message), y)
    expected = torch.autograd.grad(loss + scale * (said * message).sum() / B, list(fast.parameters()))
    report = nets.step(x, target=y)
    assert_close(moved(fast, nets.nets["fast"]), expected)
    torch.testing.assert_close(report.loss, loss.detach())
    assert torch.equal(report.fast, head(message).detach())
    assert report.slow_loss is None and report.agreement is None


def test_the_slow_net_is_back_propagated_through_all_its_ticks_and_teaches_what_arrives_at_the_messages() -> None:
    """Of three periods with one report: by hand, with the messages that the fast net sent before it was updated."""
    nets = made(optimizer=partial(torch.optim.SGD, lr=0.1))
    lessons: list[tuple[Tensor, Tensor]] = []
    learn = nets.synthesizer.learn

    def listen(activation: Tensor, answer: Any, context: Any, feedback: Any) -> Any:
        lessons.append((activation, feedback.target_grad))
        return learn(activation, answer, context, feedback)

    nets.synthesizer.learn = listen
    slow, head = copy.deepcopy(nets.nets["slow"]), copy.deepcopy(nets.nets["slow_head"])
    state, messages = None, []
    for number in range(3):
        x, y, z = period()
        with torch.no_grad():
            outputs, state = nets.nets["fast"](x, state)
        messages.append(outputs[-1].requires_grad_())
        assert not lessons
        report = nets.step(x, target=y, slow_target=z if number == 2 else None)
    outputs = slow(torch.stack(messages))[0]
    loss = functional.mse_loss(head(outputs[-1]), z)
    weights = [*slow.parameters(), *head.parameters()]
    *ours, one, two, three = torch.autograd.grad(loss, [*weights, *messages])
    ((activation, target),) = lessons
    assert torch.equal(activation, torch.cat(messages))
    torch.testing.assert_close(target, torch.cat([one, two, three]) * B)
    torch.testing.assert_close(report.slow_loss, loss.detach())
    steps = [*moved(slow, nets.nets["slow"]), *moved(head, nets.nets["slow_head"])]
    assert_close(steps, [0.1 * grad for grad in ours])


def test_without_a_synthesizer_it_is_back_propagation_through_both() -> None:
    """Over two periods, in which nobody is updated until the slow net's report is judged."""
    nets = made(synthesizer=None)
    both = copy.deepcopy(nets.nets)
    stretch, losses, messages, state = [period() for _ in range(2)], [], [], None
    for x, y, _ in stretch:
        outputs, state = both["fast"](x, state)
        messages.append(outputs[-1])
        losses.append(functional.mse_loss(both["fast_head"](outputs[-1]), y))
    report = both["slow_head"](both["slow"](torch.stack(messages))[0][-1])
    losses.append(functional.mse_loss(report, stretch[-1][2]))
    expected = torch.autograd.grad(torch.stack(losses).sum(), list(both.parameters()))
    (x, y, _), (x2, y2, z2) = stretch
    nets.step(x, target=y)
    assert stay(nets, both, "fast", "slow", "fast_head", "slow_head")
    nets.step(x2, target=y2, slow_target=z2)
    assert_close(moved(both, nets.nets), expected)


@pytest.mark.parametrize("synthesizer", [None, sg.LinearSynthesizer])
def test_a_report_is_judged_by_the_periods_since_the_last_one_alone(synthesizer: Any) -> None:
    nets = made(synthesizer=synthesizer, optimizer=still)
    seen: list[Tensor] = []
    weight = nets.nets["slow"].weight_ih_l0
    weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad.clone()))
    sizes: list[int] = []
    if synthesizer is not None:
        learn = nets.synthesizer.learn
        nets.synthesizer.learn = lambda rows, *rest: (sizes.append(len(rows)), learn(rows, *rest))[1]
    for number in range(4):
        x, y, z = period()
        nets.step(x, target=y, slow_target=z if number % 2 else None)
    assert len(seen) == 2 and sizes == ([] if synthesizer is None else [2 * B, 2 * B])


def test_with_an_oracle_the_messages_gradient_is_that_of_back_propagation() -> None:
    """Of a stretch of one period: the slow net's true gradient, known beforehand, makes the nets those without cut."""
    x, y, z = period()
    torch.manual_seed(5)
    whole = made(synthesizer=None)

    def truth(rows: Tensor, _: Any) -> Tensor:
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            report = whole.nets["slow_head"](whole.nets["slow"](leaf.unsqueeze(0))[0][-1])
            return torch.autograd.grad(functional.mse_loss(report, z) * B, leaf)[0]

    torch.manual_seed(5)
    ours = made(synthesizer=lambda shape: sg.OracleSynthesizer(truth, needs=frozenset()))
    ours.step(x, target=y, slow_target=z)
    whole.step(x, target=y, slow_target=z)
    assert_close(list(ours.nets.parameters()), whole.nets.parameters())


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


def test_every_message_is_learned_with_its_own_context() -> None:
    nets = made(synthesizer=partial(sg.LinearSynthesizer, classes=3), optimizer=still)
    told: list[Tensor] = []
    learn = nets.synthesizer.learn

    def listen(activation: Tensor, answer: Any, context: Any, feedback: Any) -> Any:
        told.append(context.labels)
        return learn(activation, answer, context, feedback)

    nets.synthesizer.learn = listen
    buffer = torch.zeros(B, dtype=torch.int64)  # the caller's, who uses it again
    for labels in ([0, 1, 2, 0], [2, 2, 1, 1]):
        x, y, z = period()
        buffer.copy_(torch.tensor(labels))
        nets.step(x, target=y, slow_target=z if labels[0] else None, context=sg.Context(buffer))
    assert torch.equal(told[0], torch.tensor([0, 1, 2, 0, 2, 2, 1, 1])) and len(told) == 1


def test_a_critic_that_learns_from_labels_alone_waits_for_no_report() -> None:
    nets = made(
        synthesizer=partial(sg.CriticSynthesizer, classes=3, learns=("labels",)),
        optimizer=still,
        synthesizer_optimizer=partial(torch.optim.SGD, lr=0.1),
    )
    before = copy.deepcopy(nets.synthesizer)
    x, y, _ = period()
    nets.step(x, target=y, context=sg.Context(torch.tensor([0, 1, 2, 0])))
    assert any(part.any() for part in moved(before, nets.synthesizer))
    assert nets.step(x, target=y, slow_target=y, context=sg.Context(torch.tensor([0, 1, 2, 0]))).agreement is None


# ---- given nonsense --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_anything_is_updated() -> None:
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
    with pytest.raises(sg.ShapeError, match="got labels of shape .3,., expected 4 rows"):
        nets.step(x, target=y, context=sg.Context(torch.zeros(3)))
    assert not any(part.any() for part in moved(before, nets.nets))
    nets.reset()
    nets.step(x[:, :2], target=y[:2])


def test_a_need_that_is_not_met_is_refused_before_anything_is_updated() -> None:
    nets = made(synthesizer=partial(sg.LinearSynthesizer, classes=3))
    before = copy.deepcopy(nets.nets)
    x, y, _ = period()
    with pytest.raises(sg.ContextError, match="labels"):
        nets.step(x, target=y)
    assert not any(part.any() for part in moved(before, nets.nets))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"scale": -1.0}, sg.SynthgradError, "scale=-1.0"),
        ({"synthesizer": lambda shape: sg.LinearSynthesizer((2,))}, sg.ShapeError, r"LinearSynthesizer.*\(3,\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made(**changes)


def test_a_bad_number_is_refused_before_the_net_that_it_concerns_is_updated() -> None:
    nets = made()
    x, y, z = period()
    nets.step(x, target=y, slow_target=z)
    before = copy.deepcopy(nets.nets)
    with pytest.raises(sg.NumericalError, match="loss or gradient of the fast net"):
        nets.step(x, target=y * float("nan"))
    assert stay(nets, before, "fast", "slow", "fast_head", "slow_head")
    with pytest.raises(sg.NumericalError, match="loss or gradient of the slow net"):
        nets.step(x, target=y, slow_target=z * float("inf"))
    assert stay(nets, before, "slow", "slow_head")
    for _ in range(2):
        nets.step(x, target=y, slow_target=z)
    assert all(parameter.isfinite().all() for parameter in nets.parameters())
