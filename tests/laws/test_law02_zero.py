"""Law 2: with the zero synthesizer and no weight decay only the last stage learns."""

import copy
from functools import partial

import pytest
import torch
from problems import ADAM, SGD, Optimizer, batches, decoupled, perceptron, train

import synthgrad as sg


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("stages", [2, 3, 5])
@pytest.mark.parametrize("schedule", [sg.update_unlocked(), sg.update_unlocked(2)], ids=lambda s: s.name)
def test_only_the_last_stage_learns(optimizer: Optimizer, stages: int, schedule: sg.Schedule) -> None:
    model = perceptron(stages, batch_norm=True)
    before = copy.deepcopy(dict(model.named_parameters()))
    train(decoupled(model, schedule, sg.ZeroSynthesizer, optimizer), batches(5, 16))
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == name.startswith(f"s{stages - 1}."), name


def test_weight_decay_moves_weights_even_under_a_zero_gradient() -> None:
    """Why the law says 'no weight decay'."""
    model = perceptron(3)
    before = copy.deepcopy(dict(model.named_parameters()))
    decay = partial(torch.optim.SGD, lr=0.1, weight_decay=0.1)
    train(decoupled(model, sg.update_unlocked(), sg.ZeroSynthesizer, decay), batches(1, 16))
    assert not torch.equal(model.get_parameter("s0.0.weight"), before["s0.0.weight"])


def test_a_synthesizer_that_starts_at_zero_is_the_zero_synthesizer_in_the_first_step() -> None:
    model = perceptron(3)
    other = copy.deepcopy(model)
    train(decoupled(model, sg.update_unlocked(), sg.LinearSynthesizer, SGD), batches(1, 16))
    train(decoupled(other, sg.update_unlocked(), sg.ZeroSynthesizer, SGD), batches(1, 16))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
