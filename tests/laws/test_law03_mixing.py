"""Law 3: mixing at λ=1 equals back-propagation, at λ=0 the pure synthetic gradient, exactly."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import ADAM, CLASSES, SGD, batches, decoupled, equal, perceptron, train, train_plain
from torch import nn

import synthgrad as sg

CONDITIONED = partial(sg.LinearSynthesizer, classes=CLASSES)
STEPS = 6


def test_mixing_at_one_is_back_propagation_exactly() -> None:
    model = perceptron(4, batch_norm=True)
    plain = copy.deepcopy(model)
    train(decoupled(model, sg.backprop(teach=True), CONDITIONED, ADAM, mixing=1.0), batches(STEPS, 13))
    train_plain(plain, batches(STEPS, 13), ADAM)
    assert equal(model, plain)


def test_mixing_at_zero_is_the_pure_synthetic_gradient_exactly() -> None:
    """The locked schedule at λ=0 waits for gradients and then does not use them: the unlocked one need not wait."""
    model = perceptron(4, batch_norm=True)
    other = copy.deepcopy(model)
    locked = decoupled(model, sg.backprop(teach=True), CONDITIONED, ADAM, mixing=0.0)
    unlocked = decoupled(other, sg.update_unlocked(), CONDITIONED, ADAM)
    train(locked, batches(STEPS, 13))
    train(unlocked, batches(STEPS, 13))
    assert equal(locked, unlocked)  # the synthesizers too


@pytest.mark.parametrize("mixing", [0.25, 0.5, 0.9])
def test_in_between_both_are_weighed(mixing: float) -> None:
    """Against the formula written out for two cuts, with synthesizers that already answer something."""
    torch.manual_seed(1)
    model = perceptron(3)
    plain = copy.deepcopy(model)
    net = decoupled(model, sg.backprop(teach=True), CONDITIONED, SGD, mixing=mixing)
    for module in net.synthgrad.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
    first, second = (copy.deepcopy(stage.synthesizer.module) for stage in net.stages[:2] if stage.synthesizer)
    (x, y), count = next(batches(1, 8)), 8
    context = sg.Context(labels=y)

    h0 = plain[0](x)
    h0_leaf = h0.detach().requires_grad_()
    h1 = plain[1](h0_leaf)
    h1_leaf = h1.detach().requires_grad_()
    F.cross_entropy(plain[2](h1_leaf), y).backward()
    assert h1_leaf.grad is not None
    h1.backward((1 - mixing) * second(h1.detach(), context).detach() / count + mixing * h1_leaf.grad)
    assert h0_leaf.grad is not None
    h0.backward((1 - mixing) * first(h0.detach(), context).detach() / count + mixing * h0_leaf.grad)
    SGD(list(plain.parameters())).step()

    net.step(x, target=y)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)  # the sum of two terms may round differently
