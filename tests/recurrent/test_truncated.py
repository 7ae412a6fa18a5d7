"""TruncatedBPTT: against a plain loop, against a loop of one's own on TimeCut, over resets, and given nonsense."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg

INPUTS, UNITS, OUTPUTS, B, UNROLL = 3, 5, 2, 4, 3
sgd = partial(torch.optim.SGD, lr=0.1)
adam = partial(torch.optim.Adam, lr=1e-2)
mlp = partial(sg.MLPSynthesizer, hidden=7)


class Own(nn.Module):
    """A net of one's own: its state is a dict, it reads out itself, and takes batches first."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.output = nn.GRU(INPUTS, UNITS, 2, batch_first=True), nn.Linear(UNITS, OUTPUTS)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden = None if state is None else state["h"].transpose(0, 1).contiguous()
        seen = torch.zeros(len(x), dtype=torch.int64) if state is None else state["seen"]
        output, hidden = self.core(x, hidden)
        return self.output(output), {"h": hidden.transpose(0, 1), "seen": seen + x.shape[1]}


class Stepwise(nn.Module):
    """Takes one step at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(INPUTS, UNITS)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = self.cell(x, state)
        return state[0], state


def made(module: nn.Module | None = None, **settings: Any) -> Any:
    module = nn.LSTM(INPUTS, UNITS) if module is None else module
    given: dict[str, Any] = {"unroll": UNROLL, "loss": functional.mse_loss, "optimizer": sgd, "synthesizer": mlp}
    if not isinstance(module, Own):
        given["head"] = nn.Linear(UNITS, OUTPUTS)
    return sg.TruncatedBPTT(module, **given | settings)


def stream(steps: int = UNROLL, rows: int = B) -> tuple[Tensor, Tensor]:
    return torch.randn(steps, rows, INPUTS), torch.randn(steps, rows, OUTPUTS)


def own_stream(steps: int = UNROLL, rows: int = B) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, steps, INPUTS), torch.randn(rows, steps, OUTPUTS)


def own(**settings: Any) -> Any:
    return made(Own(), batch_first=True, batch_dim=0, sample=own_stream()[0], **settings)


NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": partial(nn.LSTM, INPUTS, UNITS),
    "gru of two layers": partial(nn.GRU, INPUTS, UNITS, 2),
    "rnn": partial(nn.RNN, INPUTS, UNITS),
    "lstm cell": partial(nn.LSTMCell, INPUTS, UNITS),
    "gru cell": partial(nn.GRUCell, INPUTS, UNITS),
    "rnn cell": partial(nn.RNNCell, INPUTS, UNITS),
}


def detached(state: Any) -> Any:
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


def weights(bptt: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in bptt.state_dict().items() if isinstance(value, Tensor)}


def assert_equal(ours: Any, theirs: Any) -> None:
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# ---- equal to what is written by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize("synthesizer", [None, sg.ZeroSynthesizer])
@pytest.mark.parametrize("name", list(NETS))
def test_with_the_zero_synthesizer_it_is_plain_truncated_bptt_bit_for_bit(name: str, synthesizer: Any) -> None:
    module, head = NETS[name](), nn.Linear(UNITS, OUTPUTS)
    bptt = made(copy.deepcopy(module), head=copy.deepcopy(head), synthesizer=synthesizer, optimizer=adam)
    optimizer, state = adam([*module.parameters(), *head.parameters()]), None
    for _ in range(5):
        x, y = stream()
        if isinstance(module, nn.RNNCellBase):
            outputs = []
            for taken in x:
                state = module(taken, state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            output = torch.stack(outputs)
        else:
            output, state = module(x, state)
        loss = functional.mse_loss(head(output.flatten(0, 1)), y.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = detached(state)
        assert torch.equal(bptt.step(x, target=y).loss, loss.detach())
    assert_equal(bptt.core.parameters, optimizer.param_groups[0]["params"])


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_loop_of_ones_own_with_open_and_close_is_the_same_bit_for_bit(scale: float, wrapped: bool) -> None:
    def synthesizer(shape: tuple[int, ...]) -> sg.Synthesizer:
        torch.manual_seed(3)
        made = sg.MLPSynthesizer(shape, hidden=7)
        return sg.Replay(sg.Averaged(sg.Clipped(sg.Normalized(made), 1.0))) if wrapped else made

    module, head = nn.LSTM(INPUTS, UNITS), nn.Linear(UNITS, OUTPUTS)
    ours = made(copy.deepcopy(module), head=copy.deepcopy(head), synthesizer=synthesizer, scale=scale, optimizer=adam)
    state: Any = tuple(torch.zeros(1, B, UNITS) for _ in range(2))
    cut = sg.TimeCut(synthesizer, state, optimizer=adam, scale=scale)
    optimizer = adam([*module.parameters(), *head.parameters()])
    state = None
    for step in range(8):
        x, y = stream()
        ends = torch.tensor([step == 2, step == 4, step == 5, step == 4])
        state = cut.open(state)
        output, state = module(x, state)
        loss = functional.mse_loss(head(output), y)
        optimizer.zero_grad()
        (loss + cut.close(state, count=B * UNROLL, ends=ends)).backward()
        optimizer.step()
        ours.step(x, target=y, ends=ends)
    cut.open(state)  # the last lesson
    assert_equal(ours.core.parameters, [*module.parameters(), *head.parameters()])
    assert_equal(ours.cut.synthesizer.parameters(), cut.synthesizer.parameters())
    assert all(value.abs().sum() > 0 for value in cut.synthesizer.parameters())  # it has learned something


def test_a_long_chunk_is_its_unrolls_one_after_the_other_and_the_last_may_be_shorter() -> None:
    one, other = made(), made()
    other.load_state_dict(one.state_dict())
    x, y = stream(8)
    whole = one.step(x, target=y)
    parts = [other.step(x[low : low + 3], target=y[low : low + 3]) for low in (0, 3, 6)]
    assert_equal(one.state_dict().values(), other.state_dict().values())
    shares = sum(float(part.loss) * size for part, size in zip(parts, (3, 3, 2), strict=True))
    assert float(whole.loss) == pytest.approx(shares / 8, rel=1e-6)
    assert whole.agreement is not None and len(whole.agreement.norms) == 2 * B  # the first has nothing to learn from


def test_the_ends_of_a_long_chunk_are_those_of_its_last_unroll() -> None:
    one, other = made(), made()
    other.load_state_dict(one.state_dict())
    ends = torch.tensor([True, False, False, True])
    for _ in range(2):
        x, y = stream(2 * UNROLL)
        one.step(x, target=y, ends=ends)
        other.step(x[:UNROLL], target=y[:UNROLL])
        other.step(x[UNROLL:], target=y[UNROLL:], ends=ends)
    assert_equal(one.state_dict().values(), other.state_dict().values())


def test_where_only_some_steps_have_a_target_the_count_is_of_these() -> None:
    """What is injected, and the targets, are of the summed loss: a loop of one's own with that count."""
    module, head = nn.LSTM(INPUTS, UNITS), nn.Linear(UNITS, OUTPUTS)
    ours = made(
        copy.deepcopy(module),
        head=copy.deepcopy(head),
        loss=sg.Loss(partial(functional.cross_entropy, ignore_index=-1), terms=_counted),
        synthesizer=sg.LinearSynthesizer,
    )
    state: Any = tuple(torch.zeros(1, B, UNITS) for _ in range(2))
    cut, state = sg.TimeCut(sg.LinearSynthesizer, state, optimizer=sgd), None
    optimizer = sgd([*module.parameters(), *head.parameters()])
    for step in range(4):
        x, y = stream()[0], torch.full((UNROLL, B), -1)
        y[-1, : step + 1] = 1
        state = cut.open(state)
        output, state = module(x, state)
        loss = functional.cross_entropy(head(output.flatten(0, 1)), y.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        (loss + cut.close(state, count=step + 1)).backward()
        cut.learn()
        optimizer.step()
        ours.step(x, target=y)
    assert_equal(ours.core.parameters, [*module.parameters(), *head.parameters()])
    assert_equal(ours.cut.synthesizer.parameters(), cut.synthesizer.parameters())
    assert all(value.abs().sum() > 0 for value in cut.synthesizer.parameters())


def _counted(target: Tensor) -> int:
    return int((target != -1).sum())


@pytest.mark.parametrize("name", ["lstm", "gru of two layers", "rnn"])
def test_batches_may_come_first(name: str) -> None:
    one = made(NETS[name]())
    settings = {"batch_first": True, "num_layers": 2 if "two" in name else 1}
    other = made(type(one.plain)(INPUTS, UNITS, **settings))
    other.load_state_dict(one.state_dict())
    for _ in range(3):
        x, y = stream()
        one.step(x, target=y)
        other.step(x.transpose(0, 1), target=y.transpose(0, 1))
    for ours, theirs in zip(one.core.parameters, other.core.parameters, strict=True):
        torch.testing.assert_close(ours, theirs)  # the rows are added in another order


def test_a_module_that_takes_single_steps_is_the_cell_it_holds() -> None:
    one, other = made(nn.LSTMCell(INPUTS, UNITS)), made(Stepwise(), each_step=True, sample=stream()[0])
    other.plain.cell.load_state_dict(one.plain.state_dict())
    other.head.load_state_dict(one.head.state_dict())
    other.cut.load_state_dict(one.cut.state_dict())
    for _ in range(3):
        x, y = stream()
        one.step(x, target=y)
        other.step(x, target=y)
    assert_equal(one.core.parameters, other.core.parameters)


# ---- the plain net ---------------------------------------------------------------------------------------------------


def test_the_plain_net_is_left_as_it_is() -> None:
    module = nn.LSTM(INPUTS, UNITS)
    bptt = made(module, auxiliary=True)
    state = bptt.state_dict()
    assert bptt.plain is module and [key for key in state if not key.startswith("synthgrad.")] == list(
        module.state_dict()
    )
    assert {key.split(".")[1] for key in state if key.startswith("synthgrad.")} == {"cut", "head", "auxiliary"}
    other = made(nn.LSTM(INPUTS, UNITS), auxiliary=True)
    other.load_state_dict(state)
    assert_equal(other.plain.state_dict().values(), module.state_dict().values())
    assert not other.load_state_dict(module.state_dict(), strict=False).unexpected_keys


def test_called_it_is_the_plain_net_and_learns_nothing() -> None:
    bptt = made(head=None)
    before = weights(bptt)
    x = stream(7)[0]
    ours, theirs = bptt(x)[0], bptt.plain(x)[0]
    assert torch.equal(ours, theirs) and bptt.state is None
    assert_equal(weights(bptt).values(), before.values())


def test_a_net_of_ones_own_carries_what_it_likes() -> None:
    bptt = own()
    for _ in range(3):
        x, y = own_stream()
        agreement = bptt.step(x, target=y, ends=torch.tensor([False, True, False, False])).agreement
    assert bptt.cut.layout.features == 2 * UNITS and agreement is not None
    assert bptt.state["seen"].tolist() == [9, 3, 9, 9] and not bptt.state["h"].requires_grad


# ---- resets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [made, own])
def test_nothing_leaks_from_one_sequence_into_the_next(make: Callable[..., Any]) -> None:
    """At weights that stand still, another first sequence in row 1 changes nothing there once it has ended."""
    first, data = make is own, own_stream if make is own else stream
    chunks = [data() for _ in range(4)]
    ends = [torch.tensor([False, step == 1, False, False]) for step in range(4)]

    def run(before: float) -> list[Tensor]:
        torch.manual_seed(1)
        frozen = partial(torch.optim.SGD, lr=0.0)
        bptt = make(optimizer=frozen, synthesizer=partial(sg.MLPSynthesizer, hidden=7))
        nn.init.normal_(bptt.cut.synthesizer.up.weight)
        seen, begun = [], []
        bptt.plain.register_forward_pre_hook(lambda _, args: begun.append(args[1]))
        learn, lessons = bptt.cut.synthesizer.learn, []

        def listen(activation: Tensor, answer: Any, context: Any, feedback: Any) -> Tensor | None:
            lessons.append(feedback.target_grad)
            return learn(activation, answer, context, feedback)

        bptt.cut.synthesizer.learn = listen  # type: ignore[method-assign]
        for step, (x, y) in enumerate(chunks):
            x = x.clone()
            (x if first else x.transpose(0, 1))[1] += before * (step < 2)
            bptt.step(x, target=y, ends=ends[step])
            rows = bptt.cut.layout.rows(bptt.state)
            seen += [rows[1]] if step >= 2 else []  # behind the reset: the state
        opened = bptt.cut.layout.rows(begun[2])
        assert not opened[1].any() and opened[0].any()  # it began with zeros, its neighbor did not
        assert not lessons[1][1].any() and lessons[1][0].any()  # the prediction at the end should have been zero
        assert lessons[2][1].any()  # the new sequence teaches
        return [*seen, lessons[2][1]]

    assert_equal(run(0.0), run(5.0))


def test_no_gradient_is_injected_where_a_sequence_ends() -> None:
    bptt = made()
    nn.init.normal_(bptt.cut.synthesizer.up.weight)
    x, y = stream()
    bptt.step(x, target=y, ends=torch.tensor([True, False, True, False]))
    assert bptt.cut.synthetic_grad.abs().sum(1).gt(0).tolist() == [False, True, False, True]


def test_after_all_sequences_have_ended_others_begin_in_another_number_and_the_end_has_been_learned() -> None:
    bptt, short = made(optimizer=adam), stream(2, 2)  # as many steps as there are, if they all end there
    nn.init.normal_(bptt.cut.synthesizer.up.weight)
    x, y = stream()
    bptt.step(x, target=y, ends=torch.ones(B, dtype=torch.bool))
    assert bptt.state is None
    before = bptt.cut.synthesizer.up.weight.clone()
    agreement = bptt.step(short[0], target=short[1], ends=torch.ones(2, dtype=torch.bool)).agreement
    assert agreement is not None and not agreement.other_norms.any()
    assert not torch.equal(before, bptt.cut.synthesizer.up.weight)


def test_sequences_may_begin_with_another_state_than_zeros() -> None:
    begin = partial(_ones, UNITS)
    bptt, begun = made(nn.GRU(INPUTS, UNITS), initial=begin), []
    bptt.plain.register_forward_pre_hook(lambda _, args: begun.append(args[1].clone()))
    for _ in range(2):
        x, y = stream()
        bptt.step(x, target=y, ends=torch.tensor([True, False, False, False]))
    assert begun[0].eq(1).all() and begun[1][0, 0].eq(1).all() and not begun[1][0, 1].eq(1).any()
    assert torch.equal(bptt(x)[0], bptt.head(bptt.plain(x, begin(B))[0]))


def _ones(units: int, rows: int) -> Tensor:
    return torch.ones(1, rows, units)


# ---- what it is for --------------------------------------------------------------------------------------------------


def test_on_a_linear_net_the_synthesizer_comes_to_the_analytic_gradient() -> None:
    """h <- a h, loss g·h behind the last step of each unroll: dL/dh at a cut is g a^T (1 + s a^T + (s a^T)^2 + ...)."""
    decay, direction, scale = 0.8, torch.tensor([1.0, -2.0]), 0.5

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decay = nn.Parameter(torch.tensor(decay))

        def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            state = torch.zeros_like(x[0]) if state is None else state
            for taken in x:
                state = self.decay * state + taken
            return state.expand_as(x), state

    bptt: Any = sg.TruncatedBPTT(
        Linear(),
        unroll=UNROLL,
        loss=sg.Loss(lambda output, target: (output[:B] @ direction).mean(), terms=lambda target: B),
        optimizer=partial(torch.optim.SGD, lr=0.0),
        synthesizer=sg.LinearSynthesizer,
        synthesizer_optimizer=sgd,
        scale=scale,
        sample=torch.zeros(UNROLL, B, 2),
    )
    for _ in range(150):
        x = torch.randn(UNROLL, B, 2)
        bptt.step(x, target=x)
    pulled = decay**UNROLL
    expected = direction * pulled / (1 - scale * pulled)
    torch.testing.assert_close(bptt.cut.synthetic_grad, expected.expand(B, 2), rtol=1e-3, atol=1e-3)


def test_what_it_predicts_does_not_depend_on_how_many_sequences_there_are() -> None:
    """Every sequence twice: the same means, the same lessons."""

    def run(copies: int) -> Tensor:
        torch.manual_seed(2)
        bptt = made(optimizer=sgd)
        for _ in range(4):
            x, y = stream(rows=2)
            bptt.step(x.repeat(1, copies, 1), target=y.repeat(1, copies, 1))
        return bptt.cut.synthesizer.up.weight.detach()

    torch.testing.assert_close(run(1), run(3))
    assert run(1).abs().sum() > 0


def test_clipping_bounds_the_gradient_of_the_net_and_its_head() -> None:
    bptt = made(clip=1e-3, optimizer=partial(torch.optim.SGD, lr=1.0))
    before = [parameter.detach().clone() for parameter in bptt.core.parameters]
    x, y = stream()
    bptt.step(x, target=y)
    moved = torch.cat([(a - b).flatten() for a, b in zip(bptt.core.parameters, before, strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(1e-3, rel=1e-2)


def test_an_unroll_without_any_loss_terms_still_passes_on_what_is_to_come() -> None:
    bptt = made(loss=sg.Loss(lambda output, target: functional.mse_loss(output, target), terms=lambda target: 0))
    nn.init.normal_(bptt.cut.synthesizer.up.weight)
    before = weights(bptt)
    x, y = stream()
    assert float(bptt.step(x, target=y).loss) == 0
    assert not torch.equal(before["weight_hh_l0"], bptt.plain.weight_hh_l0)


# ---- given nonsense --------------------------------------------------------------------------------------------------


class Secretive(nn.Module):
    """Keeps its state to itself, as an attribute or as a buffer."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        self.core = nn.GRU(INPUTS, UNITS)
        self.register_buffer("hidden", None) if buffer else setattr(self, "hidden", None)
        if buffer:
            self.register_buffer("hidden", torch.zeros(1, B, UNITS))

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        output, hidden = self.core(x, self.hidden)
        self.hidden = hidden.detach()
        return output, hidden


class Learned(nn.Module):
    """Begins with a state of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.begin = nn.GRU(INPUTS, UNITS), nn.Parameter(torch.ones(1, 1, UNITS))

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.core(x, self.begin.repeat(1, x.shape[1], 1) if state is None else state)


class Backwards(nn.Module):
    """Gives back no state."""

    def forward(self, x: Tensor, state: Any) -> Tensor:
        return x


class Growing(nn.Module):
    """Gives back another state than it was given, once told to."""

    change: Callable[[Tensor], Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(INPUTS, UNITS)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        output, state = self.core(x, state)
        return output, state if self.change is None else self.change(state)


@pytest.mark.parametrize("buffer", [False, True])
def test_a_module_that_keeps_a_state_of_its_own_is_refused(buffer: bool) -> None:
    with pytest.raises(sg.StateError, match="Secretive.*a state of its own.*input, state"):
        made(Secretive(buffer), sample=stream()[0])


def test_a_module_that_begins_with_something_else_than_zeros_is_refused_until_we_know_with_what() -> None:
    with pytest.raises(sg.StateError, match="Learned: begins.*pass initial="):
        made(Learned(), sample=stream()[0])
    made(Learned(), sample=stream()[0], initial=partial(_ones, UNITS))


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda state: torch.cat([state, state]),
    "type": lambda state: state.double(),
    "tree": lambda state: (state, state),
    "no tensor": lambda state: None,
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_state_that_changes_between_steps_is_refused_before_anything_is_updated(name: str) -> None:
    bptt = made(Growing(), sample=stream()[0])
    x, y = stream()
    bptt.step(x, target=y)
    before = weights(bptt)
    bptt.plain.change = CHANGES[name]
    with pytest.raises(sg.StateError, match="as before.*a net must give back a state"):
        bptt.step(x, target=y)
    assert_equal(weights(bptt).values(), before.values())
    bptt.plain.change = None
    bptt.step(x, target=y)


def test_an_unroll_longer_than_the_stream_is_refused() -> None:
    bptt = made(unroll=10)
    x, y = stream(4)
    with pytest.raises(sg.ShapeError, match="unroll=10 is longer than the stream.* 4 steps.*ends="):
        bptt.step(x, target=y)
    with pytest.raises(sg.ShapeError, match="longer"):  # some go on
        bptt.step(x, target=y, ends=torch.tensor([True, True, True, False]))
    bptt.step(x, target=y, ends=torch.ones(B, dtype=torch.bool))


@pytest.mark.parametrize(
    "ends", [torch.zeros(B), torch.zeros(B + 1, dtype=torch.bool), torch.zeros(B, 1, dtype=torch.bool), True]
)
def test_ends_of_the_wrong_kind_are_refused(ends: Any) -> None:
    bptt = made()
    before = weights(bptt)
    with pytest.raises(sg.ShapeError, match=r"ends: got .*expected torch.bool of shape \(4,\)"):
        bptt.step(*stream()[:1], target=stream()[1], ends=ends)
    assert_equal(weights(bptt).values(), before.values())


def test_chunks_and_targets_that_do_not_fit_are_refused() -> None:
    bptt = made()
    x, y = stream()
    bptt.step(x, target=y)
    with pytest.raises(sg.ShapeError, match="target: got 2 steps of 4 sequences, expected 3 of 4"):
        bptt.step(x, target=y[:2])
    with pytest.raises(sg.ShapeError, match=r"chunk: got \(3,\), expected \(T, B, ...\)"):
        bptt.step(x[:, 0, 0], target=y)
    with pytest.raises(sg.StateError, match="got 2 sequences, expected 4.*reset()"):
        bptt.step(x[:, :2], target=y[:, :2])
    bptt.reset()
    bptt.step(x[:, :2], target=y[:, :2])


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"unroll": 0}, sg.SynthgradError, "unroll=0"),
        ({"clip": 0.0}, sg.SynthgradError, "clip=0"),
        ({"scale": -1.0}, sg.SynthgradError, "scale=-1"),
        ({"auxiliary": True, "synthesizer": None}, sg.SynthgradError, "give a synthesizer"),
        ({"auxiliary": True, "unroll": 1}, sg.SynthgradError, "at least 2"),
        ({"batch_first": True}, sg.ShapeError, "the module has batch_first=False"),
        ({"synthesizer": lambda shape: sg.LinearSynthesizer((3,))}, sg.ShapeError, r"LinearSynthesizer.*\(10,\)"),
        ({"module": Own()}, sg.StateError, "pass sample="),
        ({"module": Backwards(), "sample": stream()[0]}, sg.StateError, "expected .output, state."),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made(**settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_number_is_refused_before_any_update_and_training_goes_on(value: float) -> None:
    bptt = made(auxiliary=True, synthesizer=lambda shape: sg.Replay(sg.MLPSynthesizer(shape, hidden=7)))
    for _ in range(3):
        bptt.step(*stream()[:1], target=stream()[1])
    before = weights(bptt)
    x, y = stream()
    y[1, 2, 0] = value
    with pytest.raises(sg.NumericalError, match="loss is not finite"):
        bptt.step(x, target=y)
    assert_equal(weights(bptt).values(), before.values())
    assert all(parameter.grad is None for parameter in bptt.parameters())
    for _ in range(3):
        assert bptt.step(*stream()[:1], target=stream()[1]).loss.isfinite()
    assert all(value.isfinite().all() for value in weights(bptt).values())
