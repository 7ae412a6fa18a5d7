"""The benchmark of `Interface`, small: all sides train the same network, and but for one it has an interface."""

import pytest
import torch
from torch.nn import functional

import synthgrad as sg
from synthgrad.experiments.bench import interface


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("ROWS", 6), ("WIDTH", 5), ("LAYERS", 4), ("CLASSES", 3)):
        monkeypatch.setattr(interface, name, size)


def test_the_ratios_are_those_of_the_medians_and_threads_stay_as_they_were() -> None:
    torch.set_num_threads(2)
    ratios, figures = interface.run(1)
    assert torch.get_num_threads() == 2
    assert ratios.keys() == {f"{name}_over_plain" for name in (*interface.SYNTHESIZERS, "by_hand")}
    assert ratios["interface_over_plain"] == figures["interface_ms"] / figures["plain_ms"] > 0


@pytest.mark.parametrize("name", ["interface", "interface_rank_64"])
def test_an_interface_stands_in_the_middle_and_all_that_is_there_learns(name: str) -> None:
    plain, model = interface._network(), interface._network(interface.SYNTHESIZERS[name])
    layers = list(model)
    assert isinstance(layers.pop(2), sg.Interface) and list(map(str, layers)) == list(map(str, plain))
    step = interface._decoupled_step(model)
    step()  # a synthesizer of two factors learns with one of them at first
    before = [weight.clone() for weight in model.parameters()]
    step()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_by_hand_the_same_is_learned() -> None:
    torch.manual_seed(0)
    by_hand = interface._network(by_hand=True)
    torch.manual_seed(0)
    ours = interface._network(sg.LinearSynthesizer)
    for step in range(2):  # in the first, synthetic gradients are zero
        torch.manual_seed(step)
        x, y = torch.randn(6, 5), torch.arange(6) % 3
        for model in (by_hand, ours):
            model.zero_grad()
            functional.cross_entropy(model(x), y).backward()
        for one, other in zip(by_hand.parameters(), ours.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None
            assert torch.allclose(one.grad, other.grad, atol=1e-6)
            one.data -= 0.1 * one.grad
            other.data -= 0.1 * other.grad
