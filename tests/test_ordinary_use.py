"""What people do with a model around its training, and in loops that they got wrong: it works, or says why it does not.

More of it, on models from the wild, is in test_real_models.py; faults in batches are in test_bad_input.py.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg

WIDTH, CLASSES = 6, 3
ADAM = partial(torch.optim.Adam, lr=0.01)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3))
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, WIDTH), torch.randint(0, CLASSES, (8,))


def net_of(model: nn.Module | None = None, **given: Any) -> sg.Decoupled:
    options: dict[str, Any] = {
        "at": ["0", "1", "2"],
        "sample": batch(),
        "loss": F.cross_entropy,
        "optimizer": ADAM,
        "synthesizer": partial(sg.LinearSynthesizer, classes=CLASSES),
    }
    return sg.decouple(model or network(), **(options | given))


def train(net: sg.Decoupled, steps: int = 4, seed: int = 3, kind: torch.dtype = torch.float32) -> list[float]:
    torch.manual_seed(seed)
    losses: list[float] = []
    for _ in range(steps):
        x, y = batch()
        losses.append(float(net.step(x.to(kind), target=y).loss))
    return losses


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, Tensor)}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in weights(net).items() if not torch.equal(value, before[name])}


# ---- moved in the midst of training ----------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[], sg.Schedule]] = {
    "delay 0": sg.update_unlocked,
    "delay 2": partial(sg.update_unlocked, delay=2),
    "microbatches": partial(sg.update_unlocked, delay=1, microbatches=2),
    "forward unlocked": partial(sg.forward_unlocked, delay=1),
}


@pytest.mark.parametrize("optimizer", [ADAM, partial(torch.optim.SGD, lr=0.1, momentum=0.9)], ids=["adam", "sgd"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_moved_to_another_type_and_back_it_goes_on_with_the_same_bits(name: str, optimizer: Any) -> None:
    """Optimizers and pending lessons come along: there and back again nothing is rounded."""
    predictor = partial(sg.MLPInputSynthesizer, hidden=4) if "forward" in name else None
    net = net_of(schedule=SCHEDULES[name](), optimizer=optimizer, input_synthesizer=predictor)
    train(net)
    net.flush()
    train(net, 1)  # behind a flush, answers are held with their graphs
    twin = copy.deepcopy(net)
    net.double().float()
    assert train(net) == train(twin)
    net.flush()
    twin.flush()
    assert not changed(net, weights(twin))


@pytest.mark.parametrize("name", SCHEDULES)
def test_moved_to_another_type_it_goes_on_there(name: str) -> None:
    predictor = partial(sg.MLPInputSynthesizer, hidden=4) if "forward" in name else None
    net = net_of(schedule=SCHEDULES[name](), input_synthesizer=predictor)
    train(net)
    net.flush()
    train(net, 1)
    twin = copy.deepcopy(net)
    net.to(torch.float64)
    assert train(net, kind=torch.float64) == pytest.approx(train(twin), rel=1e-4)
    optimizers = [learner.optimizer for stage in net.stages for learner in stage.learners if learner.optimizer]
    kept = [
        value for one in optimizers for state in one.state.values() for key, value in state.items() if key != "step"
    ]
    assert kept and {value.dtype for value in kept} == {torch.float64}


# ---- groups, frozen stages -------------------------------------------------------------------------------------------


def grouped(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """No decay for biases."""
    matrices, vectors = ([p for p in parameters if (p.dim() > 1) == wanted] for wanted in (True, False))
    return torch.optim.SGD([{"params": matrices, "weight_decay": 0.5}, {"params": vectors}], lr=0.1)


def test_groups_decay_what_they_are_to_and_nothing_else() -> None:
    """With the zero synthesizer there is nothing but decay below the last stage."""
    net = net_of(optimizer=grouped, synthesizer=sg.ZeroSynthesizer)
    before = weights(net.plain)
    train(net, 1)
    for place in range(3):
        torch.testing.assert_close(net.plain.get_parameter(f"{place}.0.weight"), 0.95 * before[f"{place}.0.weight"])
        assert torch.equal(net.plain.get_parameter(f"{place}.0.bias"), before[f"{place}.0.bias"])


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
@pytest.mark.parametrize("delay", [0, 1])
def test_a_frozen_stage_stays_as_it_is_while_all_others_learn(frozen: int, delay: int) -> None:
    model = network()
    model[frozen].requires_grad_(False)
    net = net_of(model, schedule=sg.update_unlocked(delay=delay))
    train(net, 8)  # the first synthetic gradients are zero, and further down more of them
    before = weights(net)
    train(net)
    still = {f"{frozen}.bias", f"{frozen}.weight"} if frozen == 3 else {f"{frozen}.0.bias", f"{frozen}.0.weight"}
    assert before.keys() - changed(net, before) == still


def test_a_layer_may_be_frozen_later() -> None:
    net = net_of()
    train(net)
    before = weights(net)
    net.plain.get_submodule("1").requires_grad_(False)
    train(net)
    assert before.keys() - changed(net, before) == {"1.0.weight", "1.0.bias"}


# ---- loops that teach something else than is meant -------------------------------------------------------------------


def test_a_step_where_nothing_can_be_learned_is_refused_before_anything_has_changed() -> None:
    net = net_of(schedule=sg.update_unlocked(delay=1))
    train(net)
    twin, (x, y) = copy.deepcopy(net), batch()
    for bare in (torch.no_grad, torch.inference_mode):
        with bare(), pytest.raises(sg.SynthgradError, match="gradients are switched off.*no_grad.*call it outside"):
            net.step(x, target=y)
    with torch.autocast("cpu", torch.float16), pytest.raises(sg.SynthgradError, match="float16.*bfloat16.*Interface"):
        net.step(x, target=y)
    assert train(net) == train(twin)
    for bare in (torch.no_grad, torch.inference_mode):  # a look is no step
        with bare():
            assert net.probe(x, target=y).keys() == {"0", "1", "2"}


@pytest.mark.parametrize("bare", [torch.no_grad, torch.inference_mode])
def test_what_is_pending_is_learned_wherever_it_is_asked_for(bare: Any, tmp_path: Path) -> None:
    """Before an evaluation, say, or in a checkpoint that is written there."""
    net = net_of(schedule=sg.update_unlocked(delay=1))
    train(net)
    twins = copy.deepcopy(net), copy.deepcopy(net)
    net.flush()
    with bare():
        twins[0].flush()
        twins[1].save(tmp_path)
    for twin in twins:
        assert not changed(net, weights(twin))
        assert train(twin) == train(copy.deepcopy(net))


@pytest.mark.parametrize("schedule", [sg.update_unlocked(), sg.update_unlocked(delay=1), sg.backprop()])
def test_the_loop_of_everybody_around_a_step_changes_nothing(schedule: sg.Schedule) -> None:
    """Who keeps zero_grad, backward and an optimizer for the whole around `net.step` learns no more and no less."""
    net, twin = (net_of(schedule=schedule, synthesizer_optimizer=ADAM) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    whole = torch.optim.SGD(net.parameters(), lr=0.5)
    for seed in range(4):
        torch.manual_seed(seed)
        x, y = batch()
        loss = net.step(x, target=y).loss
        with pytest.raises(RuntimeError, match="does not require grad"):  # there is nothing left to go back through
            loss.backward()
        whole.step()
        whole.zero_grad()
        twin.step(x, target=y)
    net.flush()
    twin.flush()
    assert not changed(net, weights(twin))


@pytest.mark.parametrize("at", ["loss", "layer"])
@pytest.mark.parametrize("training", [True, False])
def test_a_mode_that_changes_in_the_middle_of_a_step_is_told_wherever_it_does(at: str, training: bool) -> None:
    model = network()
    switched = False

    def switch(*_: Any) -> None:
        if switched:
            model.train(not training)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        switch()
        return F.cross_entropy(output, target)

    net = net_of(model, loss=loss if at == "loss" else F.cross_entropy)
    if at == "layer":
        model[2].register_forward_hook(switch)
    net.train(training)
    train(net, 2)
    switched = True
    with pytest.raises(sg.SynthgradError, match="in the middle of the step.*between two steps"):
        train(net, 1)


def test_one_optimizer_for_two_stages_is_refused() -> None:
    model = network()
    whole = ADAM(model.parameters())
    before = weights(model)
    with pytest.raises(sg.SynthgradError, match="parameters of others.*make a new optimizer in each call"):
        net_of(model, optimizer=lambda parameters: whole)
    made: list[torch.optim.Optimizer] = []

    def shared(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        if made:
            made[0].add_param_group({"params": parameters})
        else:
            made.append(ADAM(parameters))
        return made[0]

    with pytest.raises(sg.SynthgradError, match="2 parameters of others"):
        net_of(model, optimizer=shared, synthesizer=None)
    assert not changed(model, before)
