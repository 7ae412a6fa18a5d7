"""What holds for every wrapper, and what each is for. Legend: B batch, T time, D features, C, H, W of a map."""

import copy
import gc
import math
import weakref
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
from synthgrad import (
    Answer,
    Averaged,
    Clipped,
    Context,
    CriticSynthesizer,
    Feedback,
    LinearSynthesizer,
    MLPSynthesizer,
    Normalized,
    Replay,
    Synthesizer,
    ZeroSynthesizer,
)
from synthgrad.core.plan import Plan
from synthgrad.engines.local import LocalEngine

Shape = tuple[int, ...]
Factory = Callable[[Shape], Synthesizer]
FLAT, TIME, MAP = (6,), (5, 6), (3, 4, 4)
CLASSES, WIDTH = 3, 6
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)

WRAPPERS: dict[str, Callable[[Synthesizer], Synthesizer]] = {
    "averaged": Averaged,
    "normalized": Normalized,
    "clipped": partial(Clipped, norm=0.05),
    "replay": Replay,
    "replay(averaged)": lambda inner: Replay(Averaged(inner)),
    "averaged(replay)": lambda inner: Averaged(Replay(inner)),
    "replay(clipped(normalized))": lambda inner: Replay(Clipped(Normalized(inner), 0.05)),
    "averaged(normalized(clipped))": lambda inner: Averaged(Normalized(Clipped(inner, 0.5))),
}
INSIDE: dict[str, Factory] = {
    "linear": partial(LinearSynthesizer, classes=CLASSES),
    "mlp, batch norm": partial(MLPSynthesizer, hidden=7, layers=2, classes=CLASSES, batch_norm=True),
    "critic": partial(CriticSynthesizer, classes=CLASSES, learns=["gradient"]),
}
every = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
inside = pytest.mark.parametrize("factory", INSIDE.values(), ids=INSIDE)


def linear(shape: Shape = FLAT) -> LinearSynthesizer:
    return LinearSynthesizer(shape, classes=CLASSES)


def sample(shape: Shape = FLAT, rows: int = 8) -> tuple[Tensor, Context]:
    return torch.randn(rows, *shape), Context(torch.randint(0, CLASSES, (rows,)))


def stirred(synthesizer: Synthesizer) -> Synthesizer:
    """Away from its zero start, so that its answers say something."""
    with torch.no_grad():
        for parameter in synthesizer.parameters():
            parameter.normal_(0, 0.3)
    return synthesizer


def trained(synthesizer: Synthesizer) -> list[nn.Parameter]:
    return [parameter for parameter in synthesizer.parameters() if parameter.requires_grad]


def teach(
    synthesizer: Synthesizer, optimizer: torch.optim.Optimizer, activation: Tensor, context: Context, target: Tensor
) -> Tensor:
    """A lesson as a stage gives it, written down a second time; returns the answer."""
    answer = synthesizer.answer(activation, context)
    loss = synthesizer.learn(activation, answer, context, Feedback(target))
    assert loss is not None

    def step(loss: Tensor, rows: int) -> None:
        optimizer.zero_grad()
        (loss / rows).backward()
        optimizer.step()

    step(loss, len(activation))
    for loss, rows in synthesizer.rehearse():
        step(loss, rows)
    return answer.grad.detach()


# ---- nets of three stages --------------------------------------------------------------------------------------------


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, WIDTH), torch.randint(0, CLASSES, (rows,))


def net_of(factory: Factory, seed: int = 0, **given: Any) -> sg.Decoupled:
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2)]
    options: dict[str, Any] = {"optimizer": ADAM, "schedule": sg.update_unlocked(), "at": ["0", "1"]}
    return sg.decouple(
        nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)),
        sample=batch(),
        loss=functional.cross_entropy,
        synthesizer=factory,
        **(options | given),
    )


def train(net: sg.Decoupled, steps: int = 6, rows: int = 8) -> sg.Decoupled:
    torch.manual_seed(1)
    for _ in range(steps):
        x, y = batch(rows)
        net.step(x, target=y)
    net.flush()
    return net


def learners(net: sg.Decoupled) -> list[Synthesizer]:
    """At each cut the innermost synthesizer, the one that learns."""
    found = [stage.synthesizer.module for stage in net.stages if stage.synthesizer]
    for place, module in enumerate(found):
        while hasattr(module, "inner"):
            module = module.inner
        found[place] = module
    return found


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Of its `state_dict`, without what Replay remembers."""
    return {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}


def assert_same(ours: sg.Decoupled, theirs: sg.Decoupled) -> None:
    """Bit for bit, the model and what learns at its cuts."""
    for one, other in zip([ours.plain, *learners(ours)], [theirs.plain, *learners(theirs)], strict=True):
        pairs = zip(tensors(one).items(), tensors(other).items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def differ(ours: sg.Decoupled, theirs: sg.Decoupled) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(ours.plain.parameters(), theirs.plain.parameters(), strict=True))


WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "delay 1": {"schedule": sg.update_unlocked(1)},
    "delay 2": {"schedule": sg.update_unlocked(2)},
    "parts": {"schedule": sg.update_unlocked(microbatches=2)},
    "recompute": {"recompute": True},
    "mixing": {"schedule": sg.backprop(teach=True), "mixing": 0.5},
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# ---- laws: switched off, a wrapper is not there ----------------------------------------------------------------------

OFF: dict[str, Callable[[Synthesizer], Synthesizer]] = {
    "averaged": partial(Averaged, decay=0.0),
    "clipped": partial(Clipped, norm=1e30),
    "replay": partial(Replay, lessons=0),
    "all": lambda inner: Replay(Averaged(Clipped(inner, 1e30), 0.0), lessons=0),
}


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
@inside
@ways
def test_switched_off_it_trains_as_the_synthesizer_inside_bit_for_bit(
    off: Callable[[Synthesizer], Synthesizer], factory: Factory, way: dict[str, Any]
) -> None:
    wrapped, bare = train(net_of(lambda shape: off(factory(shape)), **way), 4), train(net_of(factory, **way), 4)
    if off in (OFF["averaged"], OFF["all"]):  # of answer and lesson only the lesson is inside, for BatchNorm to count
        for net in (wrapped, bare):
            for module in net.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.reset_running_stats()
    assert_same(wrapped, bare)


@ways
def test_an_average_without_memory_has_the_rehearsed_weights_too(way: dict[str, Any]) -> None:
    averaged = net_of(lambda shape: Averaged(Replay(linear(shape)), 0.0), **way)
    assert_same(train(averaged, 4), train(net_of(lambda shape: Replay(linear(shape)), **way), 4))


@every
def test_switched_on_it_does_something(wrap: Callable[[Synthesizer], Synthesizer]) -> None:
    """Else the law above would say less than it seems to."""
    factory: Factory = partial(LinearSynthesizer, classes=CLASSES)
    assert differ(train(net_of(lambda shape: wrap(factory(shape)))), train(net_of(factory)))


# ---- every one -------------------------------------------------------------------------------------------------------


@every
@inside
def test_needs_feedback_classes_and_checks_are_those_inside(
    wrap: Callable[[Synthesizer], Synthesizer], factory: Factory
) -> None:
    bare = factory(FLAT)
    wrapped = wrap(factory(FLAT))
    assert (wrapped.needs, wrapped.feedback, wrapped.classes) == (bare.needs, bare.feedback, bare.classes)
    if bare.needs:
        with pytest.raises(sg.ContextError, match=type(bare).__name__):
            wrapped.check(Context())
    wrapped.check(Context(torch.zeros(2, dtype=torch.long)))


@every
@pytest.mark.parametrize("shape", [FLAT, TIME, MAP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_has_the_shape_and_type_of_the_activation_and_is_zero_at_first(
    wrap: Callable[[Synthesizer], Synthesizer], shape: Shape, dtype: torch.dtype
) -> None:
    activation, context = sample(shape)
    activation = activation.to(dtype)
    wrapped = wrap(linear(shape)).to(dtype)
    answer = wrapped(activation, context)
    assert torch.equal(answer, torch.zeros_like(activation)) and answer.dtype == dtype
    teach(wrapped, SGD(trained(wrapped)), activation, context, torch.randn_like(activation))
    answer = wrapped(activation, context)
    assert answer.shape == activation.shape and answer.dtype == dtype and answer.any()


@every
@inside
def test_a_state_dict_carries_everything(wrap: Callable[[Synthesizer], Synthesizer], factory: Factory) -> None:
    wrapped, other = wrap(factory(FLAT)), wrap(factory(FLAT))
    optimizer, (activation, context) = SGD(trained(wrapped)), sample()
    for _ in range(3):
        teach(wrapped, optimizer, activation, context, torch.randn_like(activation))
    assert not torch.equal(other(activation, context), wrapped(activation, context))
    other.load_state_dict(wrapped.state_dict(), strict=True)
    assert torch.equal(other.eval()(activation, context), wrapped.eval()(activation, context))
    bare = factory(FLAT).state_dict()
    assert all(any(key.endswith(f"inner.{name}") for key in wrapped.state_dict()) for name in bare)


@every
@pytest.mark.parametrize("delay", [0, 1])
def test_a_copy_trains_independently_and_identically(wrap: Callable[[Synthesizer], Synthesizer], delay: int) -> None:
    net = train(net_of(lambda shape: wrap(linear(shape)), schedule=sg.update_unlocked(delay)), 3)
    twin = copy.deepcopy(net)
    train(net, 3)
    assert differ(net, twin)
    assert_same(train(twin, 3), net)


@every
def test_to_another_type_everything_follows_between_two_steps(wrap: Callable[[Synthesizer], Synthesizer]) -> None:
    net = train(net_of(lambda shape: wrap(linear(shape)), optimizer=partial(torch.optim.SGD, lr=0.1)), 3).double()
    for _ in range(2):
        x, y = batch()
        assert net.step(x.double(), target=y).loss.dtype == torch.float64
    assert all(value.dtype == torch.float64 for value in tensors(net).values() if value.is_floating_point())


@every
@inside
def test_a_probe_leaves_no_trace(wrap: Callable[[Synthesizer], Synthesizer], factory: Factory) -> None:
    net = train(net_of(lambda shape: wrap(factory(shape))), 3)
    before, (x, y) = copy.deepcopy(tensors(net)), batch()
    assert set(net.probe(x, target=y)) == {"0", "1"}
    assert all(torch.equal(value, before[key]) for key, value in tensors(net).items())
    twin = copy.deepcopy(net)
    net.probe(x, target=y)
    assert_same(train(net), train(twin))


@every
def test_eager_or_late_the_lessons_are_the_same(wrap: Callable[[Synthesizer], Synthesizer]) -> None:
    nets = [net_of(lambda shape: wrap(linear(shape)), schedule=sg.update_unlocked(1)) for _ in range(2)]
    written = nets[1].plan
    assert nets[0].engine.plan.schedule.name != written.schedule.name
    nets[1].engine = LocalEngine(nets[1].stages, Plan(written.schedule, written.stages))
    assert_same(train(nets[0]), train(nets[1]))


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_was_not_finite_is_gone_when_the_step_is_given_up(
    wrap: Callable[[Synthesizer], Synthesizer], bad: float
) -> None:
    """As a stage does: the loss is looked at, and instead of the optimizer's step comes `forget`."""
    wrapped, (activation, context) = wrap(linear()), sample()
    optimizer = SGD(trained(wrapped))
    for _ in range(3):
        teach(wrapped, optimizer, activation, context, torch.randn_like(activation))
    target = torch.randn_like(activation)
    target[1, 2] = bad
    before, answer = wrapped(activation, context), wrapped.answer(activation, context)
    loss = wrapped.learn(activation, answer, context, Feedback(target))
    assert loss is not None and not loss.isfinite()
    wrapped.forget()
    assert torch.equal(wrapped(activation, context), before)
    for _ in range(20):
        teach(wrapped, optimizer, activation, context, torch.randn_like(activation))
    assert all(value.isfinite().all() for value in tensors(wrapped).values())
    assert wrapped(activation, context).isfinite().all()


@every
def test_it_learns(wrap: Callable[[Synthesizer], Synthesizer]) -> None:
    """Down to what the bound of Clipped allows."""
    wrapped, (activation, context) = wrap(linear()), sample()
    optimizer, target = ADAM(trained(wrapped)), 0.1 * torch.randn(8, WIDTH)
    for _ in range(200):
        answer = teach(wrapped, optimizer, activation, context, target)
    assert functional.cosine_similarity(answer, target).mean() > 0.95


@pytest.mark.parametrize("wrap", [Averaged, Normalized, partial(Clipped, norm=1.0), Replay])
def test_rehearsals_and_forgetting_pass_through(wrap: Callable[[Synthesizer], Synthesizer]) -> None:
    inner = Rehearsing(FLAT)
    wrapped, (activation, context) = wrap(inner), sample()
    teach(wrapped, SGD(trained(wrapped)), activation, context, torch.randn_like(activation))
    assert inner.rehearsed == (4 if wrap is Replay else 1)
    wrapped.forget()
    assert inner.forgotten == 1


@pytest.mark.parametrize("wrap", [Averaged, Normalized, partial(Clipped, norm=1.0), Replay])
@pytest.mark.parametrize("given", [LinearSynthesizer, (6,), nn.Linear(2, 2)], ids=["a class", "a shape", "a module"])
def test_what_is_no_synthesizer_is_refused(wrap: Callable[[Any], Synthesizer], given: Any) -> None:
    with pytest.raises(sg.SynthgradError, match=r"expected a synthesizer; .*lambda shape: (Av|No|Cl|Re)\w+\(Linear"):
        wrap(given)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Averaged(linear(), decay=1.0), "Averaged: decay=1.0: expected a share from 0 to below 1"),
        (lambda: Averaged(linear(), decay=-0.1), "Averaged: decay=-0.1"),
        (lambda: Normalized(linear(), momentum=1.0), "Normalized: momentum=1.0"),
        (lambda: Normalized(ZeroSynthesizer()), "ZeroSynthesizer that learns from .* leave it out"),
        (lambda: Normalized(CriticSynthesizer(FLAT, classes=3, learns=["labels", "output"])), r"learns from \['output"),
        (lambda: Clipped(linear(), 0.0), "Clipped: norm=0.0: expected a bound above 0"),
        (lambda: Clipped(linear(), math.nan), "Clipped: norm=nan"),
        (lambda: Replay(linear(), lessons=-1), "Replay: lessons=-1, memory=16: expected .* at least 0 and 1"),
        (lambda: Replay(linear(), memory=0), "Replay: lessons=3, memory=0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(build: Callable[[], Synthesizer], message: str) -> None:
    with pytest.raises(sg.SynthgradError, match=message):
        build()


# ---- averaged --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_average_is_that_of_the_weights_after_each_optimizer_step(decay: float) -> None:
    wrapped, plain = Averaged(stirred(linear()), decay), linear()
    optimizer = SGD(trained(wrapped))
    expected = {key: value.clone() for key, value in wrapped.inner.state_dict().items()}
    for _ in range(5):
        activation, context = sample()
        plain.load_state_dict(expected)
        assert torch.equal(wrapped(activation, context), plain(activation, context))
        teach(wrapped, optimizer, activation, context, torch.randn_like(activation))
        for key, value in wrapped.inner.state_dict().items():
            expected[key] = torch.lerp(expected[key], value, 1 - decay)


def test_no_optimizer_trains_the_average_and_nothing_leaves_gradients_there() -> None:
    net = net_of(lambda shape: Averaged(linear(shape)), optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.5))
    train(net)
    for stage in net.stages[:-1]:
        assert stage.synthesizer is not None and stage.synthesizer.optimizer is not None
        module, given = stage.synthesizer.module, stage.synthesizer.optimizer.param_groups[0]["params"]
        assert sorted(map(id, given)) == sorted(map(id, module.inner.parameters()))
        assert not any(p.requires_grad or p.grad is not None for p in module.average.parameters())


@pytest.mark.parametrize("parts", [1, 2])
def test_the_average_moves_once_a_step_and_with_replay_outside_at_each_of_its_steps(parts: int) -> None:
    """Told by an average set to 0, of weights of 1 that an optimizer with rate 0 leaves there."""
    moved = {}
    for name, wrap in {
        "alone": lambda inner: Averaged(inner, 0.5),
        "outside": lambda inner: Averaged(Replay(inner, 3), 0.5),
        "inside": lambda inner: Replay(Averaged(inner, 0.5), 3),
    }.items():
        net = net_of(
            lambda shape, wrap=wrap: wrap(linear(shape)),
            optimizer=partial(torch.optim.SGD, lr=0.0),
            schedule=sg.update_unlocked(microbatches=parts),
        )
        averages = [module.average for module in net.modules() if isinstance(module, Averaged)]
        with torch.no_grad():
            for one in learners(net):
                for parameter in one.parameters():
                    parameter.fill_(1.0)
            for average in averages:
                for parameter in average.parameters():
                    parameter.fill_(0.0)
        train(net, 1)
        moved[name] = {float(p.detach().mean()) for average in averages for p in average.parameters()}
    assert moved == {"alone": {0.5}, "outside": {0.5}, "inside": {1 - 0.5**4}}


def test_buffers_of_the_average_are_copies() -> None:
    wrapped = Averaged(MLPSynthesizer(FLAT, hidden=7, batch_norm=True), 0.5)
    optimizer = SGD(trained(wrapped))
    for _ in range(3):
        activation, context = sample()
        teach(wrapped, optimizer, activation, context, torch.randn_like(activation))
        pairs = zip(wrapped.average.buffers(), wrapped.inner.buffers(), strict=True)
        assert all(torch.equal(mean, live) and mean is not live for mean, live in pairs)


# ---- normalized ------------------------------------------------------------------------------------------------------


@given(power=st.integers(-20, 20), momentum=st.sampled_from([0.0, 0.9, 0.99]), seed=st.integers(0, 50))
def test_targets_twice_as_large_give_answers_twice_as_large(power: int, momentum: float, seed: int) -> None:
    """Bit for bit, since a power of two rounds nothing: whatever the inner synthesizer and its optimizer are."""
    factor, answers = 2.0**power, []
    for scale in (1.0, factor):
        torch.manual_seed(seed)
        wrapped = Normalized(MLPSynthesizer(FLAT, hidden=7), momentum)
        optimizer = ADAM(trained(wrapped))
        answers.append([])
        for _ in range(4):
            activation, context = sample()
            answers[-1].append(teach(wrapped, optimizer, activation, context, scale * torch.randn_like(activation)))
    assert all(torch.equal(one * factor, other) for one, other in zip(*answers, strict=True))
    assert answers[0][-1].any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_synthesizer_inside_learns_targets_divided_by_their_running_root_mean_square(momentum: float) -> None:
    wrapped, plain = Normalized(linear(), momentum), linear()
    optimizer, other = SGD(trained(wrapped)), SGD(plain.parameters())
    square = scale = 0.0
    for step in range(5):
        activation, context = sample()
        target = torch.randn_like(activation) * 10.0 ** (step - 2)
        mean = sum(value**2 for row in target.tolist() for value in row) / target.numel()
        answer = teach(wrapped, optimizer, activation, context, target)
        torch.testing.assert_close(answer, plain(activation, context).detach() * scale, rtol=1e-5, atol=1e-6)
        square = momentum * square + (1 - momentum) * mean if step else mean
        scale = math.sqrt(square)
        other.zero_grad()
        ((plain(activation, context) - target / scale).square().sum() / len(activation)).backward()
        other.step()
        assert float(wrapped.scale) == pytest.approx(scale, rel=1e-5)
        for ours, theirs in zip(trained(wrapped), plain.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # five steps of rounding


def test_zero_targets_divide_nothing_by_zero_and_do_not_begin_the_scale() -> None:
    wrapped, (activation, context) = Normalized(stirred(linear())), sample()
    optimizer = SGD(trained(wrapped))
    for _ in range(3):
        answer = teach(wrapped, optimizer, activation, context, torch.zeros_like(activation))
        assert not answer.any() and float(wrapped.scale) == 0.0
    assert all(parameter.isfinite().all() for parameter in wrapped.parameters())
    target = torch.full_like(activation, 1e-3)
    teach(wrapped, optimizer, activation, context, target)
    assert float(wrapped.scale) == pytest.approx(1e-3)


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_after_any_jump_a_normalized_target_is_no_larger_than_promised(momentum: float) -> None:
    seen: list[Tensor] = []

    class Listener(LinearSynthesizer):
        def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
            assert feedback.target_grad is not None
            seen.append(feedback.target_grad)
            return super().learn(activation, answer, context, feedback)

    wrapped, (activation, context) = Normalized(Listener(FLAT), momentum), sample()
    for size in (1.0, 1e-9, 1e9, 0.0, 1e-12, 1e6):
        wrapped.learn(activation, wrapped.answer(activation, context), context, Feedback(activation * size))
    assert all(float(target.square().mean().sqrt()) <= 1.0001 / math.sqrt(1 - momentum) for target in seen)


def test_half_precision_does_not_lose_the_squares_of_small_gradients() -> None:
    wrapped = Normalized(linear()).half()
    activation, context = sample()
    small = torch.full_like(activation, 1e-4).half()
    wrapped.learn(activation.half(), wrapped.answer(activation.half(), context), context, Feedback(small))
    assert float(wrapped.scale) == pytest.approx(1e-4, rel=1e-2)


# ---- clipped ---------------------------------------------------------------------------------------------------------


@given(
    shape=st.sampled_from([FLAT, TIME, MAP]),
    norm=st.sampled_from([1e-3, 0.5, 3.0]),
    size=st.sampled_from([0.0, 0.1, 1.0, 1e6]),
)
def test_no_row_is_longer_than_the_bound_and_shorter_ones_are_left_alone(
    shape: Shape, norm: float, size: float
) -> None:
    synthesizer = sg.OracleSynthesizer(lambda activation, _: activation * size, needs=frozenset())
    activation, context = sample(shape, 5)
    activation[2] *= 1e-4
    answer = Clipped(synthesizer, norm)(activation, context)
    for ours, theirs in zip(answer, activation * size, strict=True):
        length = math.sqrt(sum(value**2 for value in theirs.flatten().double().tolist()))
        if length < norm * 0.999:
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs * (norm / length), rtol=1e-5, atol=0)
            assert float(torch.linalg.vector_norm(ours)) <= norm * 1.00001


def test_the_synthesizer_inside_learns_from_what_it_said() -> None:
    wrapped, activation, context = Clipped(stirred(linear()), 1e-3), *sample()
    target = torch.randn_like(activation)
    plain = copy.deepcopy(wrapped.inner)
    answer = wrapped.answer(activation, context)
    assert float(torch.linalg.vector_norm(answer.grad, dim=1).max()) < 1.1e-3 and not answer.grad.requires_grad
    loss = wrapped.learn(activation, answer, context, Feedback(target))
    assert loss is not None
    expected = (plain(activation, context) - target).square().sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad(loss, list(wrapped.inner.parameters()))
    theirs = torch.autograd.grad(expected, list(plain.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_row_that_is_not_finite_stays_so_and_is_found() -> None:
    synthesizer = sg.OracleSynthesizer(lambda activation, _: activation, needs=frozenset())
    activation, context = sample()
    activation[0, 0], activation[1, 1] = math.nan, math.inf
    answer = Clipped(synthesizer, 1.0)(activation, context)
    assert answer.isfinite().all(1).tolist() == [False, False] + [True] * 6


# ---- replay ----------------------------------------------------------------------------------------------------------


class ByHand:
    """Two stages, a synthesizer that learns in rounds of 1 + lessons, and plain PyTorch: nothing of ours but a map."""

    def __init__(self, net: sg.Decoupled, lessons: int, memory: int, seed: int, optimizer: Any) -> None:
        self.lower, self.upper = copy.deepcopy(net.plain)  # pyrefly: ignore
        (learner,) = learners(net)
        self.synthesizer = copy.deepcopy(learner)
        self.optimizers = [optimizer(m.parameters()) for m in (self.lower, self.upper, self.synthesizer)]
        self.lessons, self.memory = lessons, memory
        self.draw = torch.Generator().manual_seed(seed)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, data: Iterator[tuple[Tensor, Tensor]], parts: int, delay: int) -> None:
        pending: list[list[tuple[Tensor, Tensor, Tensor]]] = []
        for x, y in data:
            pending.append([self.part(a, b, len(x)) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)])
            for optimizer in self.optimizers[:2]:
                optimizer.step()
                optimizer.zero_grad()
            if len(pending) > delay:
                self.teach(pending.pop(0))
        for late in pending:
            self.teach(late)

    def part(self, x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        h = self.lower(x)
        h.backward(self.synthesizer(h.detach(), Context(y)).detach() / count)
        leaf = h.detach().requires_grad_()
        (functional.cross_entropy(self.upper(leaf), y, reduction="sum") / count).backward()
        assert leaf.grad is not None
        return leaf.detach(), y, leaf.grad * count

    def teach(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.step(parts)
        self.pairs = (self.pairs + parts)[-self.memory :]
        for _ in range(self.lessons):
            self.step([self.pairs[int(torch.randint(len(self.pairs), (), generator=self.draw))]])

    def step(self, parts: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        rows = sum(len(h) for h, _, _ in parts)
        for h, y, target in parts:
            ((self.synthesizer(h, Context(y)) - target).square().sum() / rows).backward()
        self.optimizers[2].step()
        self.optimizers[2].zero_grad()


@pytest.mark.parametrize("delay", [0, 1, 2])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("factory", [partial(LinearSynthesizer, classes=CLASSES), partial(MLPSynthesizer, hidden=9)])
def test_further_steps_are_those_done_by_hand(delay: int, parts: int, recompute: bool, factory: Factory) -> None:
    """Tolerance: eight steps of sums in another order, at a rate of 0.05 with momentum."""
    lessons, memory, seed = 2, 3, 5
    schedule = sg.update_unlocked(delay, microbatches=parts)
    net = net_of(
        lambda shape: Replay(factory(shape), lessons, memory, seed=seed),
        at=["1"],
        optimizer=SGD,
        schedule=schedule,
        recompute=recompute,
    )
    net.plain = nn.Sequential(net.plain[:2], net.plain[2])  # pyrefly: ignore
    hand = ByHand(net, lessons, memory, seed, SGD)
    data = [batch(rows) for rows in (8, 8, 6, 8, 4, 8, 10, 8)]
    for x, y in data:
        net.step(x, target=y)
    net.flush()
    hand.run(iter(data), parts, delay)
    (learner,) = learners(net)
    theirs = [*hand.lower.parameters(), *hand.upper.parameters(), *hand.synthesizer.parameters()]
    for ours, other in zip([*net.plain.parameters(), *learner.parameters()], theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_the_hand_can_tell_another_seed() -> None:
    nets = [train(net_of(lambda shape, seed=seed: Replay(linear(shape), seed=seed))) for seed in (0, 0, 1)]
    assert_same(nets[0], nets[1])
    assert differ(nets[0], nets[2])


def test_the_draws_leave_the_global_random_state_alone() -> None:
    wrapped, (activation, context) = Replay(linear()), sample()
    optimizer, target = SGD(trained(wrapped)), torch.randn_like(activation)
    before = torch.get_rng_state()
    teach(wrapped, optimizer, activation, context, target)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("lessons", [0, 1, 4])
def test_a_step_of_any_number_of_parts_is_followed_by_so_many_further_optimizer_steps(parts: int, lessons: int) -> None:
    net = net_of(
        lambda shape: Replay(linear(shape), lessons), schedule=sg.update_unlocked(microbatches=parts), optimizer=ADAM
    )
    train(net, 3)
    for stage in net.stages[:-1]:
        assert stage.synthesizer is not None and stage.synthesizer.optimizer is not None
        counts = {int(state["step"]) for state in stage.synthesizer.optimizer.state.values()}
        assert counts == {3 * (1 + lessons)}


def test_the_memory_is_bounded_and_holds_neither_graphs_nor_one_hot_labels() -> None:
    wrapped = Replay(linear(), lessons=2, memory=3)
    optimizer, seen = SGD(trained(wrapped)), []
    for _ in range(7):
        activation, context = sample()
        teach(wrapped, optimizer, activation.requires_grad_(), context, torch.randn(8, WIDTH))
        seen.append(weakref.ref(context))
        assert len(wrapped._pairs) <= 3
    held = list(wrapped._pairs)
    assert len(held) == 3 and not any(pair.activation.requires_grad for pair in held)
    assert not any(pair.context.__dict__.get("_one_hot") for pair in held)
    del context
    gc.collect()
    assert not any(reference() for reference in seen)


def test_batches_may_be_loaded_into_the_same_tensors() -> None:
    results = []
    for reused in (False, True):
        torch.manual_seed(0)
        wrapped = Replay(linear())
        optimizer, labels = SGD(trained(wrapped)), torch.zeros(8, dtype=torch.long)
        for _ in range(4):
            activation, context = sample()
            assert context.labels is not None
            if reused:
                context = Context(labels.copy_(context.labels))
            teach(wrapped, optimizer, activation, context, torch.randn_like(activation))
        results.append(tensors(wrapped))
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def test_a_synthesizer_without_lessons_has_nothing_to_rehearse() -> None:
    net = train(net_of(lambda shape: Replay(ZeroSynthesizer())))
    assert_same(net, train(net_of(ZeroSynthesizer)))


def test_the_local_loss_of_a_critic_is_rehearsed_too() -> None:
    factory = partial(CriticSynthesizer, classes=CLASSES, learns=["labels"])
    assert differ(train(net_of(lambda shape: Replay(factory(shape)))), train(net_of(factory)))


def test_replay_fits_a_moving_target_better() -> None:
    """What it is for, in a problem of its own kind: a linear map that drifts, and a slow synthesizer behind it."""
    distances = []
    for lessons in (0, 3):
        torch.manual_seed(0)
        wrapped, matrix = Replay(LinearSynthesizer(FLAT), lessons), torch.randn(WIDTH, WIDTH)
        optimizer, distance = torch.optim.SGD(trained(wrapped), lr=0.01), 0.0
        for step in range(120):
            activation = torch.randn(8, WIDTH)
            matrix = matrix + 0.02 * torch.randn(WIDTH, WIDTH)
            target = activation @ matrix
            answer = teach(wrapped, optimizer, activation, Context(), target)
            distance += float((answer - target).square().mean()) if step >= 60 else 0.0
        distances.append(distance)
    assert distances[1] < 0.6 * distances[0]


# ---- rehearsals in a stage -------------------------------------------------------------------------------------------


class Rehearsing(LinearSynthesizer):
    """Asks for one further step, with a loss that is spoilt on demand; counts that, and how often it is to forget."""

    spoilt = False
    rehearsed = forgotten = 0

    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        self.rehearsed += 1
        loss = sum((p.square().sum() for p in self.parameters()), torch.zeros(()))
        yield loss * (math.nan if self.spoilt else 1.0), 2

    def forget(self) -> None:
        self.forgotten += 1


def test_a_rehearsed_loss_that_is_not_finite_is_refused_and_leaves_no_half_made_gradients() -> None:
    net = train(net_of(Rehearsing), 3)
    first, second = (stage.synthesizer.module for stage in net.stages if stage.synthesizer)
    assert first.forgotten == second.forgotten == 0
    first.spoilt = True
    before = [parameter.detach().clone() for parameter in first.parameters()]
    x, y = batch()
    with pytest.raises(sg.NumericalError, match=r"stage 0 \(0\): remembered target .* not finite") as caught:
        net.step(x, target=y)
    assert caught.value.stage == 0
    assert first.forgotten == second.forgotten == 1
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), before, strict=True))  # the lesson before it
    first.spoilt = False
    train(net)


def test_on_a_device_that_must_not_wait_a_rehearsed_loss_is_looked_at_with_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = train(net_of(Rehearsing), 2)
    monkeypatch.setattr("synthgrad.core.stage._would_stall", lambda device: True)
    net.stages[0].synthesizer.module.spoilt = True  # pyrefly: ignore
    x, y = batch()
    with pytest.raises(sg.NumericalError, match="found at the end of the step"):
        net.step(x, target=y)


def test_a_step_that_was_given_up_is_not_replayed() -> None:
    """An interruption between two steps' lessons: nothing of it is left, and the net goes on."""
    broken = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if broken:
            raise KeyboardInterrupt
        return functional.cross_entropy(output, target)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))
    net = sg.decouple(
        model, at=["1"], sample=batch(), loss=loss, synthesizer=lambda s: Replay(linear(s)), optimizer=ADAM
    )
    train(net, 3)
    broken = True
    with pytest.raises(KeyboardInterrupt):
        train(net, 1)
    broken = False
    (stage, _) = net.stages
    assert stage.synthesizer is not None and not stage.synthesizer.module._pairs
    assert all(parameter.grad is None for parameter in net.parameters())
    train(net)
