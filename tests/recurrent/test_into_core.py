"""The synthesizer's lessons, let on into the net: by hand, and off as if they were never there."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg

INPUTS, UNITS, B, UNROLL = 3, 4, 5, 3
sgd = partial(torch.optim.SGD, lr=0.1)
NETS = {"gru": nn.GRU, "rnn of two layers": partial(nn.RNN, num_layers=2), "lstm": nn.LSTM}


def made(net: Any = nn.GRU, **settings: Any) -> Any:
    given: dict[str, Any] = {"synthesizer": partial(sg.MLPSynthesizer, hidden=6), "optimizer": sgd, "into_core": True}
    bptt: Any = sg.TruncatedBPTT(net(INPUTS, UNITS), unroll=UNROLL, loss=functional.mse_loss, **given | settings)
    for parameter in bptt.cut.synthesizer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return bptt


def twins() -> list[Any]:
    pair = []
    for _ in range(2):
        torch.manual_seed(2)
        pair.append(made())
    return pair


def stream() -> tuple[Tensor, Tensor]:
    return torch.randn(UNROLL, B, INPUTS), torch.randn(UNROLL, B, UNITS)


def rows_of(state: Any) -> Tensor:
    parts = state if isinstance(state, tuple) else (state,)
    return torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)


def weights(bptt: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in bptt.parameters()]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", list(NETS))
def test_the_net_learns_from_the_lesson_about_the_state_as_it_would_make_it_now(name: str) -> None:
    """The gradient of the second unroll by hand: its loss, its synthetic term, and the distance at the first cut."""
    bptt = made(NETS[name])
    (x, y), (x2, y2) = stream(), stream()
    state = bptt.plain(x)[1]
    bptt.step(x, target=y)
    net, synthesizer, parameters = bptt.plain, bptt.cut.synthesizer, list(bptt.plain.parameters())
    leaves: Any = tuple(part.detach().requires_grad_() for part in (state if isinstance(state, tuple) else (state,)))
    output, after = net(x2, leaves if isinstance(state, tuple) else leaves[0])
    answer, count = synthesizer(rows_of(after).detach(), sg.Context()).detach(), UNROLL * B
    total = functional.mse_loss(output, y2) + (rows_of(after) * answer).sum() / count
    grads = torch.autograd.grad(total, [*parameters, *leaves])
    target = rows_of(grads[len(parameters) :]) * count
    before = [parameter.detach().clone() for parameter in parameters]
    again = rows_of(net(x)[1])  # with weights that have been updated since
    lesson = (synthesizer(again, sg.Context()) - target).square().sum() / B
    more = torch.autograd.grad(lesson, parameters, allow_unused=True)
    bptt.step(x2, target=y2)
    for old, new, one, other in zip(before, parameters, grads[: len(parameters)], more, strict=True):
        expected = one if other is None else one + other
        torch.testing.assert_close(old - new.detach(), 0.1 * expected, rtol=1e-4, atol=1e-6)


def test_off_it_is_as_if_it_were_not_there_and_on_it_is_not() -> None:
    def trained(**settings: Any) -> list[Tensor]:
        torch.manual_seed(1)
        bptt = made(**settings)
        for _ in range(4):
            x, y = stream()
            bptt.step(x, target=y)
        return weights(bptt)

    off = trained(into_core=False)
    assert same(off, trained(into_core=False)) and not same(off, trained())


def test_sequences_that_all_ended_have_no_unroll_before() -> None:
    """What begins anew learns from its own unrolls alone: as a net that never saw the others."""
    bptt = made(optimizer=partial(torch.optim.SGD, lr=0.0))
    (x, y), everyone = stream(), torch.ones(B, dtype=torch.bool)
    bptt.step(x, target=y, ends=everyone)
    grads: list[Tensor] = []
    hook = bptt.plain.weight_hh_l0.register_post_accumulate_grad_hook(lambda p: grads.append(p.grad.clone()))
    x, y = stream()
    bptt.step(x, target=y)
    hook.remove()
    assert len(grads) == 1  # one backward pass reaches the net: no lesson of what ended
    bptt.reset()
    assert bptt._before is None


def test_what_was_read_is_the_callers_who_may_use_it_again() -> None:
    one, other = twins()
    buffer = torch.empty(UNROLL, B, INPUTS)
    for _ in range(3):
        x, y = stream()
        buffer.copy_(x)
        one.step(x, target=y)
        other.step(buffer, target=y)
    assert same(weights(one), weights(other))


def test_it_makes_states_of_which_the_synthetic_gradient_is_easier_to_tell() -> None:
    """The synthesizer stands still; what it says comes nearer to its target, as the net alone is taught."""

    def distance(into_core: bool) -> float:
        torch.manual_seed(4)
        bptt = made(into_core=into_core, scale=0.0, synthesizer_optimizer=partial(torch.optim.SGD, lr=0.0))
        cosines = []
        for _ in range(150):
            x, y = stream()
            agreement = bptt.step(x, target=y * 0).agreement
            cosines += [float(agreement.norm_ratio)] if agreement is not None else []
        return sum(cosines[-30:])

    assert distance(True) < 0.5 * distance(False)


def test_a_synthesizer_that_nothing_goes_through_is_refused() -> None:
    with pytest.raises(sg.SynthgradError, match="into_core: ZeroSynthesizer gives no gradient"):
        made(synthesizer=sg.ZeroSynthesizer)
