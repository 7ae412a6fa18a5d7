"""Law 1: with an oracle, every schedule that runs on real inputs and updates each stage once per step equals
back-propagation: bit for bit at power-of-two counts, else within stated ulps.

A synthetic gradient speaks of the summed loss and is divided by the count when it is injected; back-propagation divides
first. Division by a power of two rounds nothing, so both orders give the same bits.
"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    ADAM,
    SGD,
    Optimizer,
    batches,
    cuts,
    decoupled,
    equal,
    furthest,
    oracles,
    perceptron,
    train,
    train_plain,
)
from torch import nn

import synthgrad as sg

STEPS = 6


class Frozen:
    """The weights with which a step began: what 'the true gradient of this step' refers to, in whatever order."""

    def __init__(self, model: nn.Sequential) -> None:
        self.model = model
        self.copy = copy.deepcopy(model)

    def __call__(self) -> nn.Sequential:
        return self.copy

    def renew(self) -> None:
        self.copy.load_state_dict(self.model.state_dict())


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("delay", [0, 1, 2])
def test_update_unlocked_with_an_oracle_is_back_propagation_bit_for_bit(
    optimizer: Optimizer, batch_norm: bool, delay: int
) -> None:
    model = perceptron(4, batch_norm=batch_norm)
    plain = copy.deepcopy(model)
    net = decoupled(model, sg.update_unlocked(delay), oracles(model), optimizer)
    train(net, batches(STEPS, 16))
    train_plain(plain, batches(STEPS, 16), optimizer)
    assert equal(net.plain, plain)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    "schedule",
    [
        sg.warm_up(0, sg.update_unlocked()),
        sg.warm_up(3, sg.update_unlocked()),
        sg.true_every(2, sg.update_unlocked()),
        sg.teach_every(3, sg.update_unlocked(1)),
        sg.warm_up(2, sg.true_every(3, sg.update_unlocked())),
    ],
    ids=lambda s: s.name,
)
def test_with_an_oracle_it_does_not_matter_which_steps_are_true(optimizer: Optimizer, schedule: sg.Schedule) -> None:
    model = perceptron(4, batch_norm=True)
    plain = copy.deepcopy(model)
    train(decoupled(model, schedule, oracles(model), optimizer), batches(STEPS, 16))
    train_plain(plain, batches(STEPS, 16), optimizer)
    assert equal(model, plain)


@pytest.mark.parametrize("schedule", [sg.backprop(), sg.gpipe(1), sg.one_f_one_b(1)], ids=lambda s: s.name)
def test_locked_schedules_are_back_propagation_bit_for_bit_at_any_count(schedule: sg.Schedule) -> None:
    model = perceptron(4, batch_norm=True)
    plain = copy.deepcopy(model)
    train(decoupled(model, schedule, None, ADAM, rows=13), batches(STEPS, 13))
    train_plain(plain, batches(STEPS, 13), ADAM)
    assert equal(model, plain)


@given(seed=st.integers(0, 10_000), stages=st.integers(2, 5))
def test_any_order_with_an_oracle_is_back_propagation(seed: int, stages: int) -> None:
    """Sporadic at p=1 draws the order of all actions; the oracle knows the weights with which the step began."""
    torch.manual_seed(seed)
    model = perceptron(stages)
    plain, frozen = copy.deepcopy(model), Frozen(model)
    net = decoupled(model, sg.sporadic(1.0, seed), oracles(model, frozen), SGD)
    for x, y in batches(3, 8, seed=seed):
        frozen.renew()
        net.step(x, target=y)
    train_plain(plain, batches(3, 8, seed=seed), SGD)
    assert equal(model, plain)


@pytest.mark.parametrize("rows", [3, 12, 23])
def test_at_other_counts_the_difference_is_a_few_ulps(rows: int) -> None:
    """Each step may round one division differently, by half an ulp of a gradient; weights here are below 1, and the
    learning rate is 0.05, with momentum summing up to ten gradients."""
    model = perceptron(4)
    plain = copy.deepcopy(model)
    train(decoupled(model, sg.update_unlocked(), oracles(model), SGD, rows=rows), batches(STEPS, rows))
    train_plain(plain, batches(STEPS, rows), SGD)
    assert furthest(model, plain) <= 16 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("schedule", [sg.gpipe(4), sg.one_f_one_b(4)], ids=lambda s: s.name)
def test_microbatches_accumulate_to_back_propagation_within_ulps(schedule: sg.Schedule) -> None:
    """Sums over rows are taken in four parts, so their last bits may differ."""
    model = perceptron(4)
    plain = copy.deepcopy(model)
    train(decoupled(model, schedule, None, SGD, rows=16), batches(STEPS, 16))
    train_plain(plain, batches(STEPS, 16), SGD)
    assert 0 < furthest(model, plain) <= 16 * torch.finfo(torch.float32).eps


def test_oracle_and_microbatches_together_equal_the_locked_schedule_with_the_same_microbatches() -> None:
    model = perceptron(3)
    other = copy.deepcopy(model)
    train(decoupled(model, sg.update_unlocked(microbatches=2), oracles(model), ADAM), batches(STEPS, 16))
    train(decoupled(other, sg.gpipe(2), None, ADAM), batches(STEPS, 16))
    assert equal(model, other)


def test_input_and_weight_halves_of_the_backward_pass_equal_the_whole() -> None:
    model = perceptron(3, batch_norm=True)
    plain = copy.deepcopy(model)
    halves = sg.from_text("0F0 1F0 2F0 2I0 1I0 2W0 2U0 0I0 1W0 1U0 0W0 0U0")
    train(decoupled(model, halves, None, ADAM), batches(STEPS, 16))
    train_plain(plain, batches(STEPS, 16), ADAM)
    assert equal(model, plain)


def test_a_wrong_oracle_is_noticed() -> None:
    """The law can fail: an oracle that is off by one part in a thousand gives other weights."""
    model = perceptron(3)
    plain = copy.deepcopy(model)
    right = oracles(model)[cuts(model)[0]]

    def wrong(shape: tuple[int, ...]) -> sg.Synthesizer:
        inner = right(shape)
        return sg.OracleSynthesizer(lambda activation, context: inner(activation, context) * 1.001)

    synthesizers = {**oracles(model), cuts(model)[0]: wrong}
    train(decoupled(model, sg.update_unlocked(), synthesizers, SGD), batches(STEPS, 16))
    train_plain(plain, batches(STEPS, 16), SGD)
    assert not equal(model, plain)
