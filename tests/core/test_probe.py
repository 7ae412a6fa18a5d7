"""Alignment with the true gradient, against plain autograd on the whole model. Legend: B batch, V classes."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad import Context, LinearSynthesizer, MLPSynthesizer, OracleSynthesizer, Synthesizer, ZeroSynthesizer

AT, CLASSES = ["1", "3"], 3
SGD = partial(torch.optim.SGD, lr=0.1)


def model_of(*extra: nn.Module) -> nn.Sequential:
    middle = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), middle, nn.Sequential(nn.ReLU(), *extra), nn.Linear(5, CLASSES))


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4), torch.randint(0, CLASSES, (rows,))


def net_of(
    model: nn.Module,
    synthesizer: Callable[[tuple[int, ...]], Synthesizer],
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = SGD,
) -> sg.Decoupled:
    return sg.decouple(
        model, at=AT, sample=batch(), loss=functional.cross_entropy, synthesizer=synthesizer, optimizer=optimizer
    )


def stirred(net: sg.Decoupled) -> sg.Decoupled:
    with torch.no_grad():
        for parameter in net.synthgrad.parameters():
            parameter.normal_()
    return net


def cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a.double(), b.double(), dim=1).mean())


@pytest.mark.parametrize("kind", [LinearSynthesizer, MLPSynthesizer], ids=["linear", "mlp"])
@pytest.mark.parametrize("rows", [8, 5])
def test_alignment_is_what_autograd_on_the_whole_model_says(kind: Callable[..., Synthesizer], rows: int) -> None:
    model = model_of()
    net = stirred(net_of(model, partial(kind, classes=CLASSES)))
    x, y = batch(rows)
    found = net.probe(x, target=y)
    assert list(found) == AT

    copied = copy.deepcopy(model)  # BatchNorm's statistics are to move only here
    lower = copied[:2](x)
    upper = copied[2:4](lower)
    true = torch.autograd.grad(functional.cross_entropy(copied[4](upper), y), [lower, upper], retain_graph=True)
    pieces = [(lower, list(copied[:2].parameters()), true[0]), (upper, list(copied[2:4].parameters()), true[1])]
    for name, (h, parameters, true_grad) in zip(AT, pieces, strict=True):
        synthesizer = net.synthgrad.get_submodule(f"{name}/gradient")
        synthetic_grad = synthesizer(h.detach(), Context(y)).detach() / rows
        ours, theirs = (
            torch.cat([g.flatten() for g in torch.autograd.grad(h, parameters, given, retain_graph=True)])[None]
            for given in (synthetic_grad, true_grad)
        )
        figures = found[name].as_dict()
        expected = {
            "cosine": cosine(synthetic_grad, true_grad),
            "norm_ratio": float(synthetic_grad.norm() / true_grad.norm()),
            "parameter_cosine": cosine(ours, theirs),
            "parameter_norm_ratio": float(ours.norm() / theirs.norm()),
        }
        assert figures == pytest.approx(expected, rel=1e-4, abs=1e-5)  # float32, the same sums in another order


def test_an_oracle_is_perfectly_aligned() -> None:
    model = model_of()

    def truth(activation: Tensor, context: Context) -> Tensor:
        assert context.labels is not None
        with torch.enable_grad():
            h = activation.detach().requires_grad_()
            rest = model[2:] if h.shape[1] == 6 else model[4:]
            statistics = {name: buffer.clone() for name, buffer in rest.named_buffers()}
            logits = torch.func.functional_call(rest, statistics, (h,))
            return torch.autograd.grad(functional.cross_entropy(logits, context.labels, reduction="sum"), h)[0]

    net = net_of(model, lambda shape: OracleSynthesizer(truth))
    x, y = batch()
    for alignment in net.probe(x, target=y).values():
        # ReLU may stop all gradient of a row; no row does here, at this seed.
        assert list(alignment.as_dict().values()) == pytest.approx([1.0] * 4, abs=1e-5)


def test_zero_is_aligned_with_nothing() -> None:
    x, y = batch()
    for alignment in net_of(model_of(), ZeroSynthesizer).probe(x, target=y).values():
        assert list(alignment.as_dict().values()) == [0.0] * 4


@pytest.mark.parametrize("grad", ["none", "some"])
def test_the_probe_leaves_weights_gradients_buffers_optimizers_and_random_state_bitwise_as_they_were(
    grad: str,
) -> None:
    """With dropout and BatchNorm on both sides."""
    net = net_of(
        model_of(nn.Dropout(0.5)),
        partial(MLPSynthesizer, batch_norm=True, classes=CLASSES),
        partial(torch.optim.Adam, lr=0.01),
    )
    net.step(batch()[0], target=batch()[1])
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter) if grad == "some" else None
    x, y = batch()
    states = [learner.optimizer for stage in net.stages for learner in stage.learners]
    before = copy.deepcopy(
        (net.state_dict(), [s and s.state_dict() for s in states], [p.grad for p in net.parameters()])
    )
    random, identities = torch.get_rng_state(), [id(p.grad) for p in net.parameters() if p.grad is not None]
    net.probe(x, target=y)
    assert torch.equal(random, torch.get_rng_state())
    after = (net.state_dict(), [s and s.state_dict() for s in states], [p.grad for p in net.parameters()])
    assert_same(after, before)
    assert [id(p.grad) for p in net.parameters() if p.grad is not None] == identities
    assert not any(stage.passages or stage.losses or stage.agreements for stage in net.stages)


def assert_same(got: object, expected: object) -> None:
    if isinstance(expected, Tensor):
        assert isinstance(got, Tensor) and torch.equal(got, expected)
    elif isinstance(expected, dict):
        assert isinstance(got, dict) and list(got) == list(expected)
        assert_same(list(got.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert isinstance(got, list | tuple) and len(got) == len(expected)
        for ours, theirs in zip(got, expected, strict=True):
            assert_same(ours, theirs)
    else:
        assert got == expected


def test_a_run_with_probes_is_the_run_without() -> None:
    nets = []
    for probing in (False, True):
        torch.manual_seed(1)
        net = net_of(model_of(nn.Dropout(0.3)), partial(LinearSynthesizer, classes=CLASSES))
        for _ in range(4):
            x, y = batch()
            if probing:
                net.probe(x, target=y)
            net.step(x, target=y)
        nets.append(net)
    assert_same(nets[0].state_dict(), nets[1].state_dict())


def test_the_probe_runs_inside_no_grad_and_in_eval_mode() -> None:
    net = stirred(net_of(model_of(), LinearSynthesizer)).eval()
    x, y = batch()
    expected = {name: alignment.as_dict() for name, alignment in net.probe(x, target=y).items()}
    with torch.no_grad():
        assert {name: alignment.as_dict() for name, alignment in net.probe(x, target=y).items()} == expected


def test_only_cuts_with_a_synthesizer_are_measured_and_stages_without_weights_are_legal() -> None:
    net = sg.decouple(
        model_of(),
        at=["0", "1", "2"],
        sample=batch(),
        loss=functional.cross_entropy,
        optimizer=SGD,
        synthesizer={"0": LinearSynthesizer, "1": LinearSynthesizer, "2": ZeroSynthesizer},
    )
    x, y = batch()
    assert list(stirred(net).probe(x, target=y)) == ["0", "1", "2"]
    assert net.probe(x, target=y)["1"].as_dict()["parameter_cosine"] == 0.0  # Tanh alone: nothing to train
    plain = sg.decouple(
        model_of(), at=AT, sample=batch(), loss=functional.cross_entropy, optimizer=SGD, synthesizer=None
    )
    assert plain.probe(x, target=y) == {}


def test_a_synthesizer_that_needs_the_outputs_error_gets_it() -> None:
    seen: list[Tensor | None] = []

    def watch(activation: Tensor, context: Context) -> Tensor:
        seen.append(context.error)
        return torch.ones_like(activation)

    net = sg.decouple(
        model_of(),
        at=AT,
        sample=batch(),
        loss=functional.cross_entropy,
        synthesizer=lambda shape: OracleSynthesizer(watch, needs=frozenset({"error"})),
        optimizer=SGD,
        schedule=sg.from_text("0F0 1F0 2F0 2B0 0S0 1S0 0U0 1U0 2U0"),
    )
    x, y = batch()
    net.probe(x, target=y)
    logits = copy.deepcopy(net.plain)(x)
    expected = logits.softmax(1) - functional.one_hot(y, CLASSES)  # of the summed cross entropy
    assert len(seen) == 2
    for error in seen:
        assert error is not None
        torch.testing.assert_close(error, expected, rtol=1e-5, atol=1e-5)
