"""Law 10: an unroll that covers the sequence is full BPTT; with an oracle at the cuts, any unroll gives its gradients.

The oracle is written here, by plain autograd over the whole sequence: it shares no code with what it tests.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg

INPUTS, UNITS, OUTPUTS, B = 3, 4, 2, 3
NETS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
sgd = partial(torch.optim.SGD, lr=0.1)


class Recorder(torch.optim.Optimizer):
    """Adds up the gradients, times what the loss was divided by, and leaves the weights where they are."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.parameters = parameters
        self.sums = [torch.zeros_like(parameter) for parameter in parameters]

    def step(self, closure: Any = None) -> Any:
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            assert parameter.grad is not None
            total += parameter.grad


def problem(net: str, layers: int, steps: int, dtype: torch.dtype) -> tuple[nn.RNNBase, nn.Linear, Tensor, Tensor]:
    module, head = NETS[net](INPUTS, UNITS, layers).to(dtype), nn.Linear(UNITS, OUTPUTS).to(dtype)
    return module, head, torch.randn(steps, B, INPUTS, dtype=dtype), torch.randn(steps, B, OUTPUTS, dtype=dtype)


def summed_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(output, target, reduction="sum")


def tensors(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def full_gradients(module: nn.RNNBase, head: nn.Linear, x: Tensor, y: Tensor) -> list[Tensor]:
    loss = summed_loss(head(module(x)[0]), y)
    return list(torch.autograd.grad(loss, [*module.parameters(), *head.parameters()]))


def true_gradients(module: nn.RNNBase, head: nn.Linear, x: Tensor, y: Tensor, unroll: int) -> Iterator[Tensor]:
    """At the end of each unroll: of the summed loss of all that comes, with respect to the state, (B, S)."""
    for time in range(unroll, len(x) + unroll, unroll):
        state = module(x[:time])[1]
        leaves = tuple(part.detach().requires_grad_() for part in tensors(state))
        if time >= len(x):
            grads = tuple(torch.zeros_like(leaf) for leaf in leaves)
        else:
            output = head(module(x[time:], leaves if isinstance(state, tuple) else leaves[0])[0])
            grads = torch.autograd.grad(summed_loss(output, y[time:]), leaves)
        yield torch.cat([grad.transpose(0, 1).flatten(1) for grad in grads], dim=1)


@given(st.sampled_from(list(NETS)), st.integers(1, 2), st.integers(1, 9), st.data())
def test_with_an_oracle_at_the_cuts_any_unroll_accumulates_the_gradients_of_full_bptt(
    net: str, layers: int, steps: int, data: st.DataObject
) -> None:
    unroll = data.draw(st.integers(1, steps))
    module, head, x, y = problem(net, layers, steps, torch.float64)
    answers = iter([torch.zeros(()), *true_gradients(module, head, x, y, unroll)])  # the first, to be tried out with
    recorders: list[Recorder] = []

    def oracle(shape: tuple[int, ...]) -> sg.OracleSynthesizer:
        return sg.OracleSynthesizer(lambda rows, _: next(answers).expand_as(rows), needs=frozenset())

    def record(parameters: list[nn.Parameter]) -> Recorder:
        recorders.append(Recorder(parameters))
        return recorders[-1]

    bptt = sg.TruncatedBPTT(
        module,
        head=head,
        unroll=unroll,
        loss=sg.Loss(summed_loss, terms=lambda target: 1),
        optimizer=record,
        synthesizer=oracle,
    )
    bptt.step(x, target=y)
    assert next(answers, None) is None
    # The same products, added in another order: a few units in the last place of the largest.
    for got, expected in zip(recorders[0].sums, full_gradients(module, head, x, y), strict=True):
        ulp = torch.finfo(torch.float64).eps * expected.abs().max()
        assert (got - expected).abs().max() <= 64 * ulp


@pytest.mark.parametrize("net", list(NETS))
@pytest.mark.parametrize("synthesizer", [None, sg.ZeroSynthesizer, sg.LinearSynthesizer])
@given(steps=st.integers(1, 6), layers=st.integers(1, 2))
def test_an_unroll_that_covers_the_sequence_is_full_bptt_bit_for_bit(
    net: str, synthesizer: Any, steps: int, layers: int
) -> None:
    module, head, *_ = problem(net, layers, steps, torch.float32)
    plain, plain_head = NETS[net](INPUTS, UNITS, layers), nn.Linear(UNITS, OUTPUTS)
    plain.load_state_dict(module.state_dict())
    plain_head.load_state_dict(head.state_dict())
    optimizer = sgd([*plain.parameters(), *plain_head.parameters()])
    bptt = sg.TruncatedBPTT(
        module, head=head, unroll=steps, loss=functional.mse_loss, optimizer=sgd, synthesizer=synthesizer
    )
    ends = torch.ones(B, dtype=torch.bool)
    for _ in range(4):
        x, y = torch.randn(steps, B, INPUTS), torch.randn(steps, B, OUTPUTS)
        loss = functional.mse_loss(plain_head(plain(x)[0].flatten(0, 1)), y.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.equal(bptt.step(x, target=y, ends=ends).loss, loss.detach())
    for ours, theirs in zip(bptt.core.parameters, optimizer.param_groups[0]["params"], strict=True):
        assert torch.equal(ours, theirs)
