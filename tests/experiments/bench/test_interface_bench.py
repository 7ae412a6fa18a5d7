"""The benchmark of `Interface`, small: all sides train the same network, and but for one it has an interface."""

import pytest
import torch

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
    assert ratios.keys() == {f"{name}_over_plain" for name in interface.SYNTHESIZERS}
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
