"""The auxiliary task: what it costs, whom it teaches, and what a net with it can do."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad.recurrent.auxiliary import Auxiliary

INPUTS, UNITS, B, UNROLL = 3, 4, 5, 4
sgd = partial(torch.optim.SGD, lr=0.1)


def made(**settings: Any) -> Any:
    given: dict[str, Any] = {"auxiliary": True, "synthesizer": sg.LinearSynthesizer, "optimizer": sgd} | settings
    bptt: Any = sg.TruncatedBPTT(nn.GRU(INPUTS, UNITS), unroll=UNROLL, loss=functional.mse_loss, **given)
    nn.init.normal_(bptt.cut.synthesizer.up.weight)
    return bptt


def stream() -> tuple[Tensor, Tensor]:
    return torch.randn(UNROLL, B, INPUTS), torch.randn(UNROLL, B, UNITS)


def test_its_loss_is_summed_over_features_and_averaged_over_sequences() -> None:
    task = Auxiliary(sg.LinearSynthesizer, UNITS, weight=0.5)
    target = torch.randn(B, UNITS)
    loss = task(torch.randn(B, UNITS), target)  # it begins with zero
    torch.testing.assert_close(loss, 0.5 * target.square().sum(1).mean())


def test_the_net_learns_from_it_behind_the_first_step_alone() -> None:
    """Its gradient by hand: through one step of the net, from the head's error at the synthetic gradient of the end."""
    bptt = made(optimizer=partial(torch.optim.SGD, lr=1.0), synthesizer_optimizer=sgd)
    head = bptt.synthgrad["auxiliary"].head
    nn.init.normal_(head.up.weight)
    (x, y), net = stream(), bptt.plain
    parameters = list(net.parameters())
    output, state = net(x)
    rows = state[0]
    synthetic_grad = bptt.cut.synthesizer(rows.detach(), sg.Context())
    early = net(x[:1])[1][0]
    loss = functional.mse_loss(output, y) + (rows * synthetic_grad.detach()).sum() / (UNROLL * B)
    loss = loss + (head(early, sg.Context()) - synthetic_grad.detach()).square().sum() / B
    expected = torch.autograd.grad(loss, parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    bptt.step(x, target=y)
    for parameter, old, grad in zip(parameters, before, expected, strict=True):
        torch.testing.assert_close(old - parameter.detach(), grad, rtol=1e-4, atol=1e-6)


def test_the_head_learns_to_tell_the_synthetic_gradient_ahead() -> None:
    bptt = made(optimizer=partial(torch.optim.SGD, lr=0.0), synthesizer_optimizer=partial(torch.optim.SGD, lr=0.02))
    bptt.cut.synthesizer.requires_grad_(False)
    errors = []
    for _ in range(200):
        x = torch.randn(1, B, INPUTS).expand(UNROLL, B, INPUTS)  # what comes first comes again
        bptt.step(x, target=stream()[1])
        rows = bptt.plain(x[:1])[1][0].detach()
        told, meant = bptt.synthgrad["auxiliary"].head(rows, sg.Context()).detach(), bptt.cut.synthetic_grad
        errors.append(float((told - meant).square().sum() / meant.square().sum()))
        bptt.reset()
    assert sum(errors[-20:]) < 0.6 * sum(errors[:20])


def test_a_last_unroll_of_one_step_leaves_it_out() -> None:
    bptt = made()
    x, y = stream()
    bptt.step(x, target=y)
    assert bptt.step(x[:1], target=y[:1], ends=torch.ones(B, dtype=torch.bool)).loss.isfinite()
