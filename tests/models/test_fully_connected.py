import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synthgrad.models import fully_connected, layer_names

sizes = st.integers(1, 7)


@given(inputs=sizes, outputs=sizes, hidden=sizes, layers=sizes, batch=st.integers(2, 5))
def test_shapes_and_names(inputs: int, outputs: int, hidden: int, layers: int, batch: int) -> None:
    model = fully_connected(inputs, outputs, hidden=hidden, layers=layers)
    assert model(torch.randn(batch, inputs)).shape == (batch, outputs)
    assert layer_names(model) == [f"layer{number}" for number in range(1, layers + 1)]
    assert [name for name, _ in model.named_children()] == [*layer_names(model), "output"]


def test_layers_are_those_of_the_paper() -> None:
    model = fully_connected(784, 10)
    assert len(layer_names(model)) == 4
    for name in layer_names(model):
        layer = model.get_submodule(name)
        assert [type(child) for child in layer.children()] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert isinstance(model.get_submodule("output"), nn.Linear)


def test_number_of_parameters() -> None:
    # Weights, two per feature in each BatchNorm, and the output with its bias.
    expected = (64 * 256 + 3 * 256 * 256) + 4 * 2 * 256 + (256 * 10 + 10)
    assert sum(parameter.numel() for parameter in fully_connected(64, 10).parameters()) == expected


def test_equals_the_same_network_written_out() -> None:
    model = fully_connected(5, 3, hidden=4, layers=2)
    x = torch.randn(6, 5)
    h = x
    for name in ("layer1", "layer2"):
        h = h @ model.get_parameter(f"{name}.0.weight").T  # (B, 4)
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()  # BatchNorm starts with weight 1 and bias 0
        h = h.relu()
    expected = h @ model.get_parameter("output.weight").T + model.get_parameter("output.bias")  # (B, 3)
    # The same sums in another order: float32 rounding only.
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)


def test_seed_fixes_the_weights() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(fully_connected(6, 2, hidden=3, layers=2))
    first, second = (model.state_dict() for model in models)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["inputs", "outputs", "hidden", "layers"])
def test_sizes_below_one(name: str) -> None:
    arguments = {"inputs": 4, "outputs": 3, "hidden": 2, "layers": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0, expected 1 or more"):
        fully_connected(
            arguments["inputs"], arguments["outputs"], hidden=arguments["hidden"], layers=arguments["layers"]
        )
