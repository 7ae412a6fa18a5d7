"""`Interface` in loops of one's own, with all that people run around them."""

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import synthgrad as sg

CLASSES, WIDTH = 4, 8
LABELLED = partial(sg.LinearSynthesizer, classes=CLASSES)


def stirred(synthesizer: sg.Synthesizer) -> sg.Synthesizer:
    """Away from its zero start, so that its answers say something."""
    with torch.no_grad():
        for parameter in synthesizer.parameters():
            parameter.normal_(0, 0.3)
    return synthesizer


def network(synthesizer: Callable[..., sg.Synthesizer] = LABELLED, **given: Any) -> Any:
    """Two cuts; directly behind the first one a layer writes into what it receives."""
    return nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        nn.Sigmoid(),  # saves its output
        sg.Interface(stirred(synthesizer((WIDTH,))), **given),
        nn.ReLU(inplace=True),
        nn.Linear(WIDTH, WIDTH),
        nn.Tanh(),
        sg.Interface(stirred(synthesizer((WIDTH,))), **given),
        nn.Linear(WIDTH, CLASSES),
    )


def batch(rows: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=draw), torch.randint(0, CLASSES, (rows,), generator=draw)


def back(net: nn.Module, x: Tensor, y: Tensor, *, call: Callable[..., Any] | None = None, share: float = 1.0) -> Tensor:
    with sg.context(net, labels=y):
        loss = F.cross_entropy((call or net)(x), y) * share
        loss.backward()
    return loss.detach()


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda m: name + m)  # noqa: B023


# ---- what goes up, and what the synthesizer learns -------------------------------------------------------------------


def test_the_layers_below_get_the_synthetic_gradient_and_the_synthesizer_its_lesson() -> None:
    """Against the formulas written out."""
    below, above = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
    interface = sg.Interface(stirred(LABELLED((WIDTH,))))
    reference = copy.deepcopy(interface.synthesizer)
    x, y = batch(6)
    h = below(x)
    F.cross_entropy(above(interface(h, context=y)), y).backward()

    leaf = h.detach().requires_grad_()
    (true_grad,) = torch.autograd.grad(F.cross_entropy(above(leaf), y, reduction="sum"), leaf)
    answer = reference(h.detach(), sg.Context(y))
    ((answer - true_grad).square().sum() / 6).backward()
    (expected,) = torch.autograd.grad(below(x), below.weight, answer.detach() / 6)
    torch.testing.assert_close(below.weight.grad, expected)
    for ours, theirs in zip(interface.synthesizer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_forward_writes_no_gradient_runs_the_synthesizer_once_and_changes_nothing() -> None:
    calls: list[int] = []

    class Counting(sg.LinearSynthesizer):
        def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
            calls.append(len(activation))
            assert not activation.requires_grad
            return super().forward(activation, context)

    net = network(partial(Counting, classes=CLASSES))
    x, y = batch()
    with sg.context(net, labels=y):
        loss = F.cross_entropy(net(x), y)
        assert calls == [12, 12] and all(p.grad is None for p in net.parameters())
        before = {name: value.clone() for name, value in net.state_dict().items()}
        loss.backward()
    assert calls == [12, 12] and all(p.grad is not None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("bare", ["eval", "no_grad"])
def test_where_nothing_is_learned_it_is_the_identity(bare: str) -> None:
    interface = sg.Interface(LABELLED((WIDTH,))).train(bare != "eval")
    h = torch.randn(3, WIDTH)
    with torch.set_grad_enabled(bare != "no_grad"):
        assert interface(h) is h  # no labels are asked for, and none of fp16's scale
        half = h.half()
        assert interface(half) is half


def test_in_eval_gradients_pass_exactly() -> None:
    """Saliency: the gradient of an output with respect to the input."""
    net = network().eval()
    net[3] = nn.ReLU()
    plain = nn.Sequential(*(copy.deepcopy(m) for m in net if not isinstance(m, sg.Interface)))
    x, y = batch()
    x.requires_grad_()
    (ours,) = torch.autograd.grad(F.cross_entropy(net(x), y), x)
    (theirs,) = torch.autograd.grad(F.cross_entropy(plain(x), y), x)
    assert torch.equal(ours, theirs)


def test_what_stands_behind_may_write_into_what_it_receives() -> None:
    x, y = batch()
    net = network()
    other = copy.deepcopy(net)
    other[3] = nn.ReLU()
    back(net, x, y)
    back(other, x, y)
    assert_close(gradients(net), gradients(other), 0.0)


def test_a_frozen_synthesizer_is_not_taught_and_a_frozen_layer_below_does_no_harm() -> None:
    net = network()
    for parameter in [*net[0].parameters(), *net[6].parameters()]:
        parameter.requires_grad_(False)
    back(net, *batch())
    assert {name.split(".")[0] for name in gradients(net)} == {"2", "4", "7"}


def test_two_uses_in_one_pass_add_up() -> None:
    """Weights shared over depth, say: each use has a synthetic gradient and a lesson."""
    layer, interface, head = nn.Linear(WIDTH, WIDTH), sg.Interface(stirred(LABELLED((WIDTH,)))), nn.Linear(WIDTH, 4)
    x, y = batch()
    h = interface(layer(x), context=y)
    F.cross_entropy(head(interface(layer(h), context=y)), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


# ---- what is said of a batch -----------------------------------------------------------------------------------------


def test_an_argument_goes_before_what_the_context_says() -> None:
    interface = sg.Interface(stirred(LABELLED((WIDTH,))))
    x, y = batch()
    h = x.requires_grad_()
    (plain,) = torch.autograd.grad(interface(h, context=y).sum(), h)
    with sg.context(interface, labels=(y + 1) % CLASSES):
        (given,) = torch.autograd.grad(interface(h, y).sum(), h)
        (said,) = torch.autograd.grad(interface(h).sum(), h)
        (whole,) = torch.autograd.grad(interface(h, sg.Context(labels=y)).sum(), h)
    assert torch.equal(plain, given) and torch.equal(plain, whole) and not torch.equal(plain, said)


def test_the_context_is_restored_on_errors_and_when_nested() -> None:
    net = network()
    x, y = batch()
    with pytest.raises(KeyError), sg.context(net, labels=y):
        raise KeyError
    with sg.context(net, labels=y, count=3):
        outer = net[2].given
        with sg.context(net, labels=y[:2]):
            assert net[2].given is not outer
        assert net[2].given is outer
    with pytest.raises(sg.ContextError, match="LinearSynthesizer: expected labels"):
        net(x)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("when", ["first", "before backward", "never"])
def test_a_loop_that_forgets_zero_grad_is_told_and_no_other(when: str, to_none: bool) -> None:
    net = network()
    net[3] = nn.ReLU()  # in eval, nothing stands before it that copies
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(3):
        x, y = batch(seed=step)
        with sg.context(net, labels=y):
            if when == "first":
                optimizer.zero_grad(set_to_none=to_none)
            loss = F.cross_entropy(net(x), y)
            if when == "before backward":
                optimizer.zero_grad(set_to_none=to_none)
            if when == "never" and step:
                with pytest.warns(UserWarning, match="Interface: gradients are added to those .*zero_grad"):
                    loss.backward()
            else:
                loss.backward()
        optimizer.step()
        with torch.no_grad():
            net.eval()(x)
        net(x.requires_grad_()).sum().backward()  # a look between two steps
        net.train()


def test_eval_in_the_middle_of_a_step_is_told() -> None:
    net = network()
    net[3] = nn.ReLU()  # in eval, nothing stands before it that copies
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    back(net, *batch())
    with torch.no_grad():
        net.eval()(batch()[0])
    with pytest.warns(UserWarning, match=r"Interface: it runs in eval mode.*wait for the optimizer; call train\(\)"):
        back(net, *batch())
    optimizer.step()
    back(net, *batch())


def test_labels_of_other_rows_are_refused() -> None:
    net = network()
    x, y = batch()
    with pytest.raises(sg.ShapeError, match=r"labels of shape \(5,\) for an activation of \(12, 8\).*each of its 12"):
        back(net, x, y[:5])


@pytest.mark.parametrize("wrong", [(torch.ones(3, WIDTH), None), torch.ones(3, WIDTH).long()])
def test_what_is_no_floating_tensor_is_refused(wrong: Any) -> None:
    with pytest.raises(sg.ShapeError, match="got (tuple|torch.int64), expected a floating tensor"):
        network()[2](wrong)


@pytest.mark.parametrize("held", [True, False])
def test_an_optimizer_without_the_synthesizer_is_told_and_one_that_accumulates_is_not(
    held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthgrad.core.interface.NEVER_STEPPED", 6)
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), sg.Interface(LABELLED((WIDTH,))), nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[2].parameters(), *net[1].parameters()][: 9 if held else 4])
    for step in range(5):
        for part in range(2):
            if not held and (step, part) == (2, 1):
                with pytest.warns(UserWarning, match="6 gradients have come .* no optimizer .* of the whole model"):
                    back(net, *batch(), share=0.5)
            else:
                back(net, *batch(), share=0.5)
        optimizer.step()
        optimizer.zero_grad()


def test_labels_are_looked_at() -> None:
    x, y = batch()
    with pytest.raises(sg.ContextError, match="from 0 to 3, got 9 to 9"):
        network()[2](x.requires_grad_(), torch.full_like(y, 9))


@pytest.mark.parametrize("given", [{"rows": 12}, {"rows": 12, "count": 12}])
def test_accumulated_parts_are_the_batch(given: dict[str, int]) -> None:
    """Tolerance: sums over rows in another order."""
    net = network()
    parts = copy.deepcopy(net)
    x, y = batch()
    back(net, x, y)
    for module in (parts[2], parts[6]):
        module.rows, module.count = given["rows"], given.get("count")
    for low, high in ((0, 5), (5, 12)):
        back(parts, x[low:high], y[low:high], share=(high - low) / 12)
    assert_close(gradients(parts), gradients(net), 1e-6)


def test_a_call_of_backward_twice_counts_twice_and_a_second_derivative_is_refused() -> None:
    net = network()
    x, y = batch()
    back(net, x, y)
    once = gradients(net)
    net.zero_grad()
    with sg.context(net, labels=y):
        loss = F.cross_entropy(net(x), y)
    loss.backward(retain_graph=True)
    with pytest.warns(UserWarning, match="Interface: backward has come twice .*call backward once"):
        loss.backward()
    assert_close(gradients(net), {name: 2 * grad for name, grad in once.items()}, 0.0)
    x.requires_grad_()
    with sg.context(net, labels=y):
        (grad,) = torch.autograd.grad(F.cross_entropy(net(x), y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


# ---- what people run around it ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_as_one_graph_it_learns_the_same(backend: str) -> None:
    """Tolerance: aot_eager may take sums in another order."""
    torch._dynamo.reset()
    net = network(partial(sg.MLPSynthesizer, hidden=9, layers=2, classes=CLASSES))
    other = copy.deepcopy(net)
    compiled: Any = torch.compile(other, fullgraph=True, backend=backend)
    for step, rows in enumerate((12, 12, 9)):
        x, y = batch(rows, step)
        for module, call in ((net, net), (other, compiled)):
            module.zero_grad()
            back(module, x, y, call=call)
        assert_close(gradients(other), gradients(net), 1e-6)
    with torch.no_grad():
        assert torch.equal(compiled.eval()(x), net.eval()(x))
    torch._dynamo.reset()


@pytest.mark.parametrize("reentrant", [False, True])
def test_with_activation_checkpointing_it_learns_the_same(reentrant: bool) -> None:
    net = network()
    other = copy.deepcopy(net)

    class Checkpointed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(other[4:], checkpoint(other[:4], x, use_reentrant=reentrant), use_reentrant=reentrant)

    x, y = batch()
    x.requires_grad_()  # which the older way asks for
    back(net, x, y)
    back(other, x, y, call=Checkpointed())
    assert_close(gradients(other), gradients(net), 0.0)
    with sg.context(other, labels=y):
        loss = F.cross_entropy(Checkpointed()(x), y)
    with pytest.raises(sg.ContextError, match="expected labels as context, got none"):
        loss.backward()  # runs the layers again, where no labels are


def test_under_bfloat16_autocast_it_learns_nearly_the_same() -> None:
    """Tolerance: eight bits of mantissa, through two synthesizers."""
    net = network()
    other = copy.deepcopy(net)
    x, y = batch()
    back(net, x, y)
    with sg.context(other, labels=y), torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(other(x), y)
    loss.backward()
    expected = gradients(net)
    for name, grad in gradients(other).items():
        assert grad.dtype == torch.float32
        assert (grad - expected[name]).norm() <= 0.05 * expected[name].norm(), name


@pytest.mark.parametrize("initial", [1.0, 2.0**10])
def test_in_float16_with_a_grad_scaler_it_learns_nearly_the_same(initial: float) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=initial)
    net = network()
    other = copy.deepcopy(net)
    for module in (other[2], other[6]):
        module.scale = scaler.get_scale
    x, y = batch()
    back(net, x, y)
    expected = gradients(net)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with sg.context(other, labels=y), torch.autocast("cpu", torch.float16):
        loss = F.cross_entropy(other(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    for name, grad in gradients(other).items():
        assert (grad - expected[name]).norm() <= 0.02 * expected[name].norm(), name
    before = copy.deepcopy(other.state_dict())
    scaler.step(optimizer)
    scaler.update()
    assert not any(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_a_scaled_loss_in_single_precision_teaches_the_same_bits() -> None:
    """Powers of two round nothing."""
    net = network()
    other = copy.deepcopy(net)
    for module in (other[2], other[6]):
        module.scale = lambda: 4096.0
    x, y = batch()
    back(net, x, y)
    back(other, x, y, share=4096.0)
    assert_close({name: grad / 4096 for name, grad in gradients(other).items()}, gradients(net), 0.0)


def test_float16_without_a_scale_is_refused() -> None:
    interface = sg.Interface(sg.LinearSynthesizer((WIDTH,)))
    x, _ = batch()
    with pytest.raises(sg.SynthgradError, match="float16 without scale=.*scaler.get_scale.*bfloat16"):
        interface(x.half().requires_grad_())
    with torch.autocast("cpu", torch.float16), pytest.raises(sg.SynthgradError, match="float16 without scale="):
        interface(x.requires_grad_())


def test_copied_moved_saved_and_loaded_it_is_a_module_like_others() -> None:
    net = network()
    other = pickle.loads(pickle.dumps(copy.deepcopy(net))).double()
    assert {key for key in net.state_dict() if key.startswith("2.")} == {
        f"2.synthesizer.{key}" for key in net[2].synthesizer.state_dict()
    }
    x, y = batch()
    back(other, x.double(), y)
    assert all(grad.dtype == torch.float64 for grad in gradients(other).values())
    net.load_state_dict(other.float().state_dict())


# ---- what cannot work ------------------------------------------------------------------------------------------------


class Rehearsing(sg.LinearSynthesizer):
    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        return iter(())


UNTEACHABLE: dict[str, tuple[Callable[[], sg.Synthesizer], str]] = {
    "critic": (partial(sg.CriticSynthesizer, (WIDTH,), classes=4), "has a lesson of its own"),
    "critic of the output": (partial(sg.CriticSynthesizer, (WIDTH,), classes=4, learns=("output",)), "model's output"),
    "least squares": (partial(sg.LeastSquaresSynthesizer, (WIDTH,)), "LeastSquaresSynthesizer has a lesson of its own"),
    "stale": (partial(sg.StaleSynthesizer, (WIDTH,), examples=9), "StaleSynthesizer has a lesson of its own"),
    "feedback alignment": (partial(sg.FeedbackAlignmentSynthesizer, (WIDTH,), outputs=4), "needs the output's error"),
    "averaged": (lambda: sg.Averaged(LABELLED((WIDTH,))), "Averaged has a lesson of its own"),
    "replay": (lambda: sg.Replay(LABELLED((WIDTH,))), "Replay has a lesson of its own"),
    "clipped replay": (lambda: sg.Clipped(sg.Replay(LABELLED((WIDTH,))), 1.0), "Replay has a lesson of its own"),
    "rehearsing": (lambda: Rehearsing((WIDTH,)), "Rehearsing goes on learning"),
    "normalized": (lambda: sg.Normalized(LABELLED((WIDTH,))), "Normalized has a lesson of its own"),
    "clipped normalized": (
        lambda: sg.Clipped(sg.Normalized(LABELLED((WIDTH,))), 1.0),
        "Normalized has a lesson of its own",
    ),
}


@pytest.mark.parametrize("name", list(UNTEACHABLE))
def test_a_synthesizer_that_a_backward_pass_cannot_teach_is_refused(name: str) -> None:
    make, why = UNTEACHABLE[name]
    with pytest.raises(sg.SynthgradError, match=f"Interface: .*{why}.*; use decouple, or a synthesizer that"):
        sg.Interface(make())


@pytest.mark.parametrize("wrong", [sg.LinearSynthesizer, nn.Linear(3, 3), None])
def test_something_else_than_a_synthesizer_is_refused(wrong: Any) -> None:
    with pytest.raises(sg.SynthgradError, match=r"Interface: got .*expected a synthesizer"):
        sg.Interface(wrong)


@pytest.mark.parametrize("name", ["count", "rows"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_below_one_are_refused(name: str, value: int) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(sg.SynthgradError, match=f"{name}={value}: expected how many"):
        sg.Interface(sg.ZeroSynthesizer(), **given)
    with pytest.raises(sg.SynthgradError, match=f"{name}={value}"), sg.context(network(), **given):
        pass


def test_a_model_without_an_interface_is_refused() -> None:
    with pytest.raises(sg.SynthgradError, match="Linear has no Interface"), sg.context(nn.Linear(2, 2)):
        pass


def test_a_synthetic_gradient_of_another_shape_is_refused() -> None:
    class Short(sg.Synthesizer):
        def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
            return activation[:, :3]

    with pytest.raises(sg.ShapeError, match=r"shape \(12, 3\), expected \(12, 8\).*build the Short for \(8,\)"):
        sg.Interface(Short())(batch()[0].requires_grad_())
