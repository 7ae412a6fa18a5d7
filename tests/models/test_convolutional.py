from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad.models import convolutional, layer_names

sizes = st.integers(1, 4)


@given(channels_in=sizes, height=st.integers(1, 13), width=st.integers(1, 13), outputs=sizes, layers=sizes)
def test_shapes_and_names(channels_in: int, height: int, width: int, outputs: int, layers: int) -> None:
    model = convolutional(channels_in, (height, width), outputs, channels=3, layers=layers)
    # Maps of a single pixel, too, are enough for BatchNorm with two images.
    assert model(torch.randn(2, channels_in, height, width)).shape == (2, outputs)
    assert layer_names(model) == [f"layer{number}" for number in range(1, layers + 1)]
    assert [name for name, _ in model.named_children()] == [*layer_names(model), "output"]


def test_layers_are_those_of_the_paper() -> None:
    model = convolutional(1, (28, 28), 10)
    assert len(layer_names(model)) == 4
    for name, pooling in zip(layer_names(model), [nn.MaxPool2d] + 3 * [nn.AvgPool2d], strict=True):
        layer = model.get_submodule(name)
        assert [type(child) for child in layer.children()] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, pooling]
    assert [type(child) for child in model.get_submodule("output").children()] == [nn.Flatten, nn.Linear]


def test_what_stands_at_the_cuts() -> None:
    model = convolutional(1, (28, 28), 10)
    x, shapes = torch.randn(2, 1, 28, 28), []
    for name in layer_names(model):
        x = model.get_submodule(name)(x)
        shapes.append(tuple(x.shape))
    assert shapes == [(2, 64, side, side) for side in (14, 7, 4, 2)]


def test_number_of_parameters() -> None:
    # Weights, two per channel in each BatchNorm, and the output with its bias on 4x4 maps.
    expected = 25 * (3 * 128 + 2 * 128 * 128) + 3 * 2 * 128 + (128 * 4 * 4 * 10 + 10)
    model = convolutional(3, (32, 32), 10, channels=128, layers=3)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def windows(x: Tensor, size: int, stride: int) -> list[list[Tensor]]:
    """For each place of a window its part of (B, C, H, W), cut off at the edges."""
    middle = size // 2
    return [
        [
            x[:, :, max(i - middle, 0) : i + middle + 1, max(j - middle, 0) : j + middle + 1]
            for j in range(0, x.shape[3], stride)
        ]
        for i in range(0, x.shape[2], stride)
    ]


def pooled(x: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    rows = [torch.stack([reduce(window) for window in row], dim=2) for row in windows(x, 3, 2)]
    return torch.stack(rows, dim=2)  # (B, C, H', W')


def test_equals_the_same_network_written_out() -> None:
    model = convolutional(2, (7, 5), 3, channels=4, layers=2)
    x = torch.randn(6, 2, 7, 5)
    h = x
    reductions = {"layer1": lambda w: w.amax(dim=(2, 3)), "layer2": lambda w: w.mean(dim=(2, 3))}
    for name, reduction in reductions.items():
        weight = model.get_parameter(f"{name}.0.weight")  # (C', C, 5, 5)
        columns = F.unfold(h, 5, padding=2)  # (B, C * 25, H * W)
        h = (weight.flatten(1) @ columns).unflatten(2, h.shape[2:])
        mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
        h = ((h - mean) / (variance + 1e-5).sqrt()).relu()  # BatchNorm starts with weight 1 and bias 0
        h = pooled(h, reduction)
    expected = h.flatten(1) @ model.get_parameter("output.1.weight").T + model.get_parameter("output.1.bias")
    # The same sums in another order: float32 rounding only.
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_the_average_is_not_darkened_at_the_edges() -> None:
    pool = convolutional(1, (8, 8), 2, channels=1, layers=2).get_submodule("layer2.3")
    assert torch.equal(pool(torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 3, 3))


def test_seed_fixes_the_weights() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(convolutional(1, (8, 8), 2, channels=3, layers=2))
    first, second = (model.state_dict() for model in models)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["channels_in", "height", "width", "outputs", "channels", "layers"])
def test_sizes_below_one(name: str) -> None:
    sizes = {"channels_in": 1, "height": 4, "width": 4, "outputs": 3, "channels": 2, "layers": 1, name: 0}
    with pytest.raises(ValueError, match=f"convolutional: {name} is 0, expected 1 or more"):
        convolutional(
            sizes["channels_in"],
            (sizes["height"], sizes["width"]),
            sizes["outputs"],
            channels=sizes["channels"],
            layers=sizes["layers"],
        )
