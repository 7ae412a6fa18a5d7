"""BP(lambda): its limits, its forward view, unit by unit, over resets; and given nonsense."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.experiments.bench.per_unit import PerUnit
from synthgrad.recurrent.jacobian import jacobian_of

INPUTS, B = 2, 3
NETS: dict[str, Callable[..., nn.Module]] = {
    "rnn": nn.RNN,
    "relu": partial(nn.RNN, nonlinearity="relu"),
    "lstm": nn.LSTM,
    "no bias": partial(nn.LSTM, bias=False),
    "rnn cell": nn.RNNCell,
    "lstm cell": nn.LSTMCell,
}
adam = partial(torch.optim.Adam, lr=1e-2)
frozen = partial(torch.optim.SGD, lr=0.0)
ends_all = torch.ones(B, dtype=torch.bool)


class Recorder(torch.optim.Optimizer):
    """Adds up the gradients, and leaves the weights where they are."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})
        self.parameters = parameters
        self.sums = [torch.zeros_like(parameter) for parameter in parameters]

    def step(self, closure: Any = None) -> Any:
        for total, parameter in zip(self.sums, self.parameters, strict=True):
            total += parameter.grad if parameter.grad is not None else 0.0


def summed(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def terms(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum(1)


one_sum = sg.Loss(summed, terms=lambda target: 1)


def stream(steps: int, units: int) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, B, INPUTS).double(), torch.randn(steps, B, units).double()


def tensors(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def one_step(net: nn.Module, x: Tensor, rows: Tensor | None) -> Tensor:
    """The state behind a step, as rows (B, S), by torch's own forward pass."""
    is_cell = isinstance(net, nn.RNNCellBase)
    state = None
    if rows is not None:
        parts = tuple(part if is_cell else part.unsqueeze(0) for part in rows.split(net.hidden_size, 1))
        state = parts if len(parts) > 1 else parts[0]
    state = net(x, state) if is_cell else net(x.unsqueeze(0), state)[1]
    return torch.cat([part.reshape(len(x), -1) for part in tensors(state)], 1)


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETS))
@settings(max_examples=15)
@given(units=st.integers(1, 4), rows=st.integers(1, 3))
def test_a_gradient_pulled_through_a_step_is_autograds(name: str, units: int, rows: int) -> None:
    net = NETS[name](INPUTS, units).double()
    x, features = torch.randn(rows, INPUTS).double(), units * (2 if "LSTM" in type(net).__name__ else 1)
    before = torch.randn(rows, features).double().requires_grad_()
    after, behind = one_step(net, x, before), torch.randn(rows, features).double()
    (expected,) = torch.autograd.grad(after, before, behind)

    def state(values: Tensor) -> Any:
        parts = values.detach().split(units, 1)
        return tuple(parts) if len(parts) > 1 else parts[0]

    jacobian = jacobian_of(net, x, state(before), state(after))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()  # the Jacobian is of the weights as they were
    torch.testing.assert_close(jacobian.pulled(behind.unsqueeze(1)).squeeze(1), expected)


# ---- what the synthesizer learns, at weights that stand still --------------------------------------------------------


def accumulated(net: nn.Module, x: Tensor, y: Tensor, ends: list[Tensor], **settings: Any) -> tuple[Any, Recorder]:
    recorders = []

    def record(parameters: list[nn.Parameter]) -> Recorder:
        recorders.append(Recorder(parameters))
        return recorders[-1]

    bptt: Any = sg.bp_lambda(net, loss=one_sum, optimizer=frozen, synthesizer_optimizer=record, **settings)
    for parameter in bptt.cut.synthesizer.parameters():
        nn.init.normal_(parameter)
    for taken, target, over in zip(x.split(1), y.split(1), ends, strict=True):
        bptt.step(taken, target=target, ends=over)
    bptt.cut.open(None)
    bptt.cut.learn()  # what the ends teach
    return bptt, recorders[0]


def forward_view(
    net: nn.Module, up: nn.Linear, x: Tensor, y: Tensor, ends: list[Tensor], lambda_: float, gamma: float
) -> list[Tensor]:
    """The synthesizer's gradient, from its targets by definition: each row by itself, from its end on back."""
    loss = torch.zeros(()).double()
    for row in range(B):
        begins = [0, *(step + 1 for step, over in enumerate(ends) if over[row])]
        for low, high in zip(begins, begins[1:], strict=False):
            state, leaves, states = None, [], []
            for step in range(low, high):
                leaves.append(None if state is None else state.detach().requires_grad_())
                state = one_step(net, x[step, row : row + 1], leaves[-1])
                states.append(state)
            target = torch.zeros_like(states[-1])  # nothing comes behind the end
            for step in range(high - 1, low - 1, -1):
                place = step - low
                loss = loss + (up(states[place].detach()) - target).square().sum()
                if place:
                    ahead = lambda_ * target + (1 - lambda_) * (up(states[place]).detach() if step < high - 1 else 0.0)
                    known = summed(states[place][:, : y.shape[2]], y[step, row : row + 1])
                    whole = known + (gamma * ahead * states[place]).sum()
                    (target,) = torch.autograd.grad(whole, leaves[place])
    return list(torch.autograd.grad(loss / B, [up.weight, up.bias]))


@pytest.mark.parametrize("name", list(NETS))
@settings(max_examples=15)
@given(units=st.integers(1, 3), steps=st.integers(1, 9), lambda_=st.sampled_from([0.0, 0.7, 1.0]), data=st.data())
def test_it_accumulates_the_gradient_of_its_targets_over_sequences_of_any_length(
    name: str, units: int, steps: int, lambda_: float, data: st.DataObject
) -> None:
    gamma, scale = data.draw(st.sampled_from([(1.0, None), (0.8, None), (0.8, 0.1), (1.0, 0.0)]))
    net = NETS[name](INPUTS, units).double()
    x, y = stream(steps, units)
    ends = [torch.tensor(data.draw(st.lists(st.booleans(), min_size=B, max_size=B))) for _ in range(steps - 1)]
    ends.append(ends_all)
    bptt, recorder = accumulated(net, x, y, ends, lambda_=lambda_, gamma=gamma, scale=scale)
    expected = forward_view(net, bptt.cut.synthesizer.inner.up, x, y, ends, lambda_, gamma)
    for got, right in zip(recorder.sums, expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(NETS))
@settings(max_examples=15)
@given(units=st.integers(1, 3), steps=st.integers(1, 9))
def test_at_lambda_one_the_targets_are_the_gradients_of_back_propagation_through_the_whole(
    name: str, units: int, steps: int
) -> None:
    net = NETS[name](INPUTS, units).double()
    x, y = stream(steps, units)
    none = torch.zeros(B, dtype=torch.bool)
    bptt, recorder = accumulated(net, x, y, [*[none] * (steps - 1), ends_all], lambda_=1.0)
    state, states = None, []
    for taken in x:
        state = one_step(net, taken, state)
        state.retain_grad()
        states.append(state)
    summed(torch.stack(states)[:, :, :units], y).backward()
    up = bptt.cut.synthesizer.inner.up
    loss = torch.zeros(()).double()
    for state, target in zip(states, y, strict=True):
        shown = state.detach()[:, :units]
        own = torch.cat([2 * (shown - target), torch.zeros_like(state[:, units:])], 1)  # of the step's own loss
        loss = loss + (up(state.detach()) - (state.grad - own)).square().sum() / B
    for got, right in zip(recorder.sums, torch.autograd.grad(loss, [up.weight, up.bias]), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-9, atol=1e-9)


# ---- while it learns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETS))
def test_at_lambda_zero_it_is_a_cut_behind_each_step(name: str) -> None:
    net = NETS[name](INPUTS, 3).double()
    settings: dict[str, Any] = {"loss": terms, "optimizer": adam}
    ours: Any = sg.bp_lambda(copy.deepcopy(net), lambda_=0.0, gamma=0.7, **settings)
    theirs = sg.TruncatedBPTT(net, unroll=1, synthesizer=sg.LinearSynthesizer, scale=0.7, **settings)
    for step in range(6):
        x, y = stream(2, 3)
        ends = torch.tensor([step == 1, step in (2, 3), False])
        ours.step(x, target=y, ends=ends)
        theirs.step(x, target=y, ends=ends)
    assert all(value.abs().sum() > 0 for value in ours.cut.synthesizer.parameters())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell])
@pytest.mark.parametrize("lambda_", [0.5, 1.0])
def test_it_is_what_loops_over_units_give(cell: Any, lambda_: float) -> None:
    """With all that moves: net and synthesizer learn, for longer than the trace keeps steps apart."""
    net = cell(INPUTS, 3).double()
    other, features = copy.deepcopy(net), 6 if cell is nn.LSTMCell else 3
    linear = nn.Linear(features, features).double()
    rule = {"lambda_": lambda_, "gamma": 0.9, "scale": 0.4}
    ours: Any = sg.bp_lambda(net, loss=terms, optimizer=adam, **rule)
    for parameter, same in zip(linear.parameters(), ours.cut.synthesizer.parameters(), strict=True):
        nn.init.normal_(parameter, std=0.1)
        same.detach().copy_(parameter)
    mean = lambda output, target: terms(output, target).mean()  # noqa: E731
    loops = PerUnit(other, linear, mean, adam(other.parameters()), adam(linear.parameters()), **rule)
    for _ in range(2):
        x, y = stream(16, 3)
        ours.step(x, target=y)
        for taken, target in zip(x, y, strict=True):
            loops.step(taken, target)
        ours.reset()
        loops.reset()
    both = (*net.parameters(), *ours.cut.synthesizer.parameters()), (*other.parameters(), *linear.parameters())
    for one, same in zip(*both, strict=True):
        torch.testing.assert_close(one, same, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_nothing_leaks_from_one_sequence_into_the_next(name: str) -> None:
    """At weights that stand still, what row 1 read before its end changes no lesson behind it."""
    x, y = stream(8, 3)

    def lessons(before: float) -> Tensor:
        torch.manual_seed(1)
        changed = x.clone()
        changed[:3, 1] += before
        bptt, seen = None, []
        net = NETS[name](INPUTS, 3).double()
        bptt = sg.bp_lambda(net, lambda_=1.0, loss=one_sum, optimizer=frozen)
        traced: Any = bptt.cut.synthesizer
        reached = traced.trace.reached

        def listen(delta: Tensor) -> Tensor:
            alone = torch.zeros_like(delta)
            alone[1] = delta[1]
            seen.append(reached(alone))
            return reached(delta)

        traced.trace.reached = listen
        for step in range(8):
            bptt.step(changed[step : step + 1], target=y[step : step + 1], ends=torch.tensor([False, step == 2, False]))
        return torch.stack(seen)

    one, other = lessons(0.0), lessons(5.0)
    assert not torch.equal(one[:3], other[:3])
    assert one[3:].abs().sum() > 0 and torch.equal(one[3:], other[3:])


def test_the_mask_of_ends_is_the_callers_who_may_use_it_again() -> None:
    x, y = stream(6, 3)

    def run(reused: bool) -> list[Tensor]:
        torch.manual_seed(1)
        bptt = sg.bp_lambda(nn.RNN(INPUTS, 3).double(), lambda_=1.0, loss=terms, optimizer=adam)
        mask = torch.zeros(B, dtype=torch.bool)
        for step in range(6):
            ends = mask if reused else torch.zeros(B, dtype=torch.bool)
            ends[1] = step == 2
            bptt.step(x[step : step + 1], target=y[step : step + 1], ends=ends)
            ends.fill_(False) if reused else None
        return list(bptt.parameters())

    assert all(torch.equal(one, other) for one, other in zip(run(True), run(False), strict=True))


def test_a_step_that_nobody_learned_from_breaks_the_trace() -> None:
    bptt: Any = sg.bp_lambda(nn.RNN(INPUTS, 3).double(), lambda_=1.0, loss=terms, optimizer=adam)
    x, y = stream(3, 3)
    bptt.step(x, target=y)
    bptt.eval()
    bptt.step(x, target=y)
    bptt.train()
    bptt.step(x[:1], target=y[:1])
    assert len(bptt.cut.synthesizer.trace._seen) <= 1


def test_its_memory_does_not_grow_with_the_sequences() -> None:
    bptt: Any = sg.bp_lambda(nn.RNN(INPUTS, 3).double(), lambda_=0.9, loss=terms, optimizer=adam)
    trace, held = bptt.cut.synthesizer.trace, []
    for _ in range(20):
        x, y = stream(1, 3)
        bptt.step(x, target=y)
        held.append(max(len(trace._seen), len(trace._ways)))
    assert max(held) == 4 and trace._full.shape == (B, 3, 12)  # of 3 units: 3 steps apart, and the way on from them


# ---- given nonsense --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "settings", "words"),
    [
        (nn.RNN(INPUTS, 3), {"lambda_": 1.5}, r"lambda_=1.5: expected 0 to 1"),
        (nn.RNN(INPUTS, 3), {"lambda_": float("nan")}, "lambda_=nan"),
        (nn.RNN(INPUTS, 3), {"gamma": -0.1}, "gamma=-0.1"),
        (nn.RNN(INPUTS, 3), {"scale": -1.0}, "scale=-1"),
        (nn.GRU(INPUTS, 3), {}, r"got GRU\(2, 3\).*TruncatedBPTT takes every net"),
        (nn.LSTM(INPUTS, 3, 2), {}, "one layer and one direction"),
        (nn.LSTM(INPUTS, 3, bidirectional=True), {}, "one layer and one direction"),
        (nn.LSTM(INPUTS, 3, proj_size=2), {}, "got LSTM"),
        (nn.Linear(INPUTS, 3), {}, "got Linear"),
    ],
)
def test_settings_that_make_no_sense_are_refused(net: nn.Module, settings: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"lambda_": 0.9, "loss": terms, "optimizer": adam} | settings
    with pytest.raises(sg.SynthgradError, match=words):
        sg.bp_lambda(net, **given)


def test_a_bad_number_is_refused_before_any_update_and_training_goes_on() -> None:
    bptt = sg.bp_lambda(nn.LSTM(INPUTS, 3).double(), lambda_=0.9, loss=terms, optimizer=adam)
    x, y = stream(5, 3)
    bptt.step(x, target=y)
    before = [parameter.detach().clone() for parameter in bptt.parameters()]
    bad = y[:1].clone()
    bad[0, 1, 0] = float("nan")
    with pytest.raises(sg.NumericalError, match="loss is not finite"):
        bptt.step(x[:1], target=bad)
    assert all(torch.equal(one, other) for one, other in zip(before, bptt.parameters(), strict=True))
    with pytest.raises(sg.ShapeError, match="ends: got"):
        bptt.step(x, target=y, ends=torch.zeros(B))
    bptt.step(x, target=y)
    assert all(parameter.isfinite().all() for parameter in bptt.parameters())


def test_it_is_saved_like_the_plain_net() -> None:
    bptt = sg.bp_lambda(nn.LSTM(INPUTS, 3).double(), lambda_=0.9, loss=terms, optimizer=adam)
    x, y = stream(4, 3)
    bptt.step(x, target=y)
    other = sg.bp_lambda(nn.LSTM(INPUTS, 3).double(), lambda_=0.9, loss=terms, optimizer=adam)
    other.load_state_dict(bptt.state_dict())
    assert all(torch.equal(one, same) for one, same in zip(bptt.parameters(), other.parameters(), strict=True))
    assert {"weight_hh_l0", "synthgrad.cut.synthesizer.inner.up.weight"} <= set(bptt.state_dict())
