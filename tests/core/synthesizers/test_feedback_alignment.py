"""Fixed feedback, and the schedule that it needs. Legend: B batch, T time, D features, O outputs."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad import Context, ContextError, FeedbackAlignmentSynthesizer, KickbackSynthesizer, ScheduleError
from synthgrad.core.plan import Declaration

FLAT, TIME, MAP = (6,), (5, 6), (3, 4, 4)
OUTPUTS, WIDTH = 4, 6


def by_rows(activation: Tensor, error: Tensor, matrix: Tensor) -> Tensor:
    """A loop over examples and tokens."""
    found = torch.zeros_like(activation)
    for example in range(len(activation)):
        if activation.dim() == 3:
            for token in range(activation.shape[1]):
                row = error[example, token] if error.dim() == 3 else error[example]
                found[example, token] = row @ matrix
        else:
            found[example] = (error[example] @ matrix).view(activation.shape[1:])
    return found


@pytest.mark.parametrize(("shape", "each"), [(FLAT, ()), (TIME, ()), (TIME, (5,)), (MAP, ())], ids=str)
def test_every_row_gets_its_own_error_times_the_matrix(shape: tuple[int, ...], each: tuple[int, ...]) -> None:
    activation, error = torch.randn(5, *shape), torch.randn(5, *each, OUTPUTS)  # B = T: must not be mistaken
    synthesizer = FeedbackAlignmentSynthesizer(shape, outputs=OUTPUTS)
    got = synthesizer(activation, Context(error=error))
    torch.testing.assert_close(got, by_rows(activation, error, synthesizer.matrix), rtol=1e-5, atol=1e-6)
    one = torch.randn(5, *each, 1)
    ones = torch.ones(1, synthesizer.matrix.shape[1])
    assert torch.equal(KickbackSynthesizer(shape)(activation, Context(error=one)), by_rows(activation, one, ones))


def test_an_output_of_one_number_for_each_example_has_such_an_error() -> None:
    activation, error = torch.randn(3, *FLAT), torch.randn(3)
    expected = error.unsqueeze(1).expand(3, WIDTH)
    assert torch.equal(KickbackSynthesizer(FLAT)(activation, Context(error=error)), expected)
    synthesizer = FeedbackAlignmentSynthesizer(FLAT, outputs=1)
    torch.testing.assert_close(synthesizer(activation, Context(error=error)), expected * synthesizer.matrix)


@pytest.mark.parametrize("shape", [(400,), (7, 400), (4, 10, 10)], ids=str)
def test_the_matrix_is_drawn_as_an_output_layer_draws_its_weight(shape: tuple[int, ...]) -> None:
    matrix, weight = FeedbackAlignmentSynthesizer(shape, outputs=100).matrix, nn.Linear(400, 100).weight
    assert matrix.shape == weight.shape
    assert 0.99 * 400**-0.5 < float(matrix.abs().max()) <= 400**-0.5
    assert float(matrix.std()) == pytest.approx(
        float(weight.detach().std()), rel=0.02
    )  # 40,000 draws: one in a hundred
    assert not torch.equal(matrix, FeedbackAlignmentSynthesizer(shape, outputs=100).matrix)  # of each stage its own


MISFITS: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "no error": (FLAT, None),
    "other outputs": (FLAT, (3, OUTPUTS + 1)),
    "other examples": (FLAT, (2, OUTPUTS)),
    "tokens for no tokens": (FLAT, (3, 5, OUTPUTS)),
    "tokens for a map": (MAP, (3, 3, OUTPUTS)),
    "other tokens": (TIME, (3, 4, OUTPUTS)),
    "tokens in a row": (TIME, (15, OUTPUTS)),
    "one number": (FLAT, ()),
}


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.parametrize("factory", [partial(FeedbackAlignmentSynthesizer, outputs=OUTPUTS), KickbackSynthesizer])
def test_an_error_that_does_not_fit_is_refused_with_a_remedy(name: str, factory: Any) -> None:
    shape, found = MISFITS[name]
    synthesizer = factory(shape)
    error = None if found is None else torch.zeros(found)
    words = "got none; .* use error_broadcast" if found is None else f"got an error of shape {re.escape(str(found))}"
    with pytest.raises(ContextError, match=f"{type(synthesizer).__name__}.*{words}"):
        synthesizer(torch.zeros(3, *shape), Context(error=error))


def test_kickback_with_several_outputs_is_refused_for_their_errors_would_cancel() -> None:
    output, labels = torch.randn(3, OUTPUTS), torch.tensor([0, 1, 2])
    error = output.softmax(-1) - functional.one_hot(labels, OUTPUTS)
    torch.testing.assert_close(error.sum(-1), torch.zeros(3), rtol=0, atol=1e-6)
    with pytest.raises(ContextError, match="expected 1 features .*; Kickback is for one output; use FeedbackAlignment"):
        KickbackSynthesizer(FLAT)(torch.zeros(3, *FLAT), Context(error=error))


# ---- in a network ----------------------------------------------------------------------------------------------------


def model_of(outputs: int = OUTPUTS, hidden: int = 2) -> nn.Sequential:
    layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(hidden))
    return nn.Sequential(*layers, nn.Linear(WIDTH, outputs))


def batch(rows: int = 64) -> tuple[Tensor, Tensor]:
    """Classes that a network can tell."""
    x = torch.randn(rows, WIDTH)
    return x, x[:, :OUTPUTS].argmax(1)


def net_of(model: nn.Sequential, synthesizer: Any, schedule: sg.Schedule | None = None, **given: Any) -> sg.Decoupled:
    options: dict[str, Any] = {
        "at": [str(cut) for cut in range(len(model) - 1)],
        "sample": batch(),
        "loss": functional.cross_entropy,
        "optimizer": partial(torch.optim.SGD, lr=0.3),
        "schedule": schedule or sg.error_broadcast(),
    }
    return sg.decouple(model, synthesizer=synthesizer, **(options | given))


ALIGNED = partial(FeedbackAlignmentSynthesizer, outputs=OUTPUTS)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def stepped_by_hand(model: nn.Sequential, x: Tensor, y: Tensor, loss: Any = functional.cross_entropy) -> list[Tensor]:
    """The parameters after one step of back-propagation."""
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss(model(x), y), parameters)
    return [parameter.detach() - 0.3 * grad for parameter, grad in zip(parameters, grads, strict=True)]


@pytest.mark.parametrize("parts", [1, 3])
def test_with_the_output_layers_own_weight_for_a_matrix_it_is_back_propagation(parts: int) -> None:
    model, (x, y) = model_of(hidden=1), batch()
    net = net_of(model, ALIGNED, sg.error_broadcast(microbatches=parts))
    output_layer = model[-1]
    assert isinstance(output_layer, nn.Linear)
    net.get_buffer("synthgrad.0/gradient.matrix").copy_(output_layer.weight.detach())
    expected = stepped_by_hand(model, x, y)
    net.step(x, target=y)
    for got, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_kickback_is_back_propagation_through_an_output_layer_of_ones() -> None:
    model, x, y = model_of(1, hidden=1), torch.randn(8, WIDTH), torch.randn(8, 1)
    output_layer = model[-1]
    assert isinstance(output_layer, nn.Linear)
    nn.init.ones_(output_layer.weight)
    net = net_of(model, KickbackSynthesizer, loss=functional.mse_loss, sample=(x, y))
    expected = stepped_by_hand(model, x, y, functional.mse_loss)
    net.step(x, target=y)
    for got, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_a_network_learns_by_it_and_the_matrices_stay_as_they_were() -> None:
    net, (x, y) = net_of(model_of(), ALIGNED), batch()
    assert net.locks == {sg.Lock.FORWARD, sg.Lock.UPDATE}
    before = weights(net)
    outcomes = [net.step(x, target=y) for _ in range(100)]
    assert float(outcomes[-1].loss) < 0.5 * float(outcomes[0].loss) and not outcomes[-1].agreement
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("synthgrad.")}
    assert set(net.probe(x, target=y)) == {"0", "1"}


@pytest.mark.parametrize("parts", [1, 2])
def test_a_learned_synthesizer_may_stand_beside_it(parts: int) -> None:
    learned = partial(sg.LinearSynthesizer, classes=OUTPUTS)
    net = net_of(model_of(), {"0": ALIGNED, "1": learned}, sg.error_broadcast(microbatches=parts))
    x, y = batch()
    outcomes = [net.step(x, target=y) for _ in range(50)]
    assert set(outcomes[-1].agreement) == {"1"}
    assert outcomes[-1].agreement["1"].as_dict()["cosine"] > 0.9  # of a linear last stage: it can be learned
    assert float(outcomes[-1].loss) < 0.7 * float(outcomes[0].loss)


def test_where_gradients_pass_it_is_not_asked_for_there_is_nothing_to_teach() -> None:
    model, (x, y) = model_of(), batch()
    net = net_of(model, ALIGNED, sg.backprop(teach=True))
    expected = stepped_by_hand(model, x, y)
    net.step(x, target=y)
    for got, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=1e-5, atol=1e-6)


def test_a_matrix_for_other_outputs_is_refused_before_any_weight_has_changed() -> None:
    net, (x, y) = net_of(model_of(), {"0": ALIGNED, "1": partial(ALIGNED, outputs=OUTPUTS + 1)}), batch()
    before = weights(net)
    with pytest.raises(ContextError, match=r"shape \(64, 4\) .* expected 5 features .*; give outputs="):
        net.step(x, target=y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_usual_schedule_is_refused_and_the_right_one_is_named() -> None:
    with pytest.raises(ScheduleError, match=r"0S0: stands before 2F0, which it needs; .* use error_broadcast\(\)"):
        net_of(model_of(), ALIGNED, sg.update_unlocked())


# ---- on a clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", range(1, 6))
@pytest.mark.parametrize("parts", [1, 3])
def test_after_the_forward_passes_all_stages_go_back_at_the_same_time(parts: int, stages: int) -> None:
    fixed = Declaration(needs=frozenset({"error"}), feedback=frozenset())
    last = Declaration(synthesizer=False, feedback=frozenset())
    plan = sg.Plan(sg.error_broadcast(microbatches=parts), (*[fixed] * (stages - 1), last))
    sg.validate(plan)
    # Forward passes fill the pipeline; the last stage's last one is what the others' backward passes wait for, part by
    # part, so that behind it all go back together: two for each part.
    timeline = sg.simulate(plan)
    forward, backward = parts + stages - 1, 2 * parts
    assert timeline.makespan == forward + backward
    assert timeline.idle_share == pytest.approx((stages - 1) / (forward + backward), abs=1e-15)
