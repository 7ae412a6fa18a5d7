import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad.models import layer_names, residual

sizes = st.integers(1, 4)


def cuts(model: nn.Sequential, x: Tensor) -> list[tuple[int, ...]]:
    """What stands at the cuts, without the batch."""
    shapes = []
    for name in layer_names(model):
        x = model.get_submodule(name)(x)
        shapes.append(tuple(x.shape[1:]))
    return shapes


@given(
    channels_in=sizes,
    side=st.sampled_from([1, 5, 8]),
    outputs=sizes,
    channels=st.integers(1, 3),
    layers=st.integers(1, 9),
)
def test_shapes_and_names(channels_in: int, side: int, outputs: int, channels: int, layers: int) -> None:
    model = residual(channels_in, outputs, channels=channels, layers=layers)
    assert layer_names(model) == [f"layer{number}" for number in range(1, layers + 1)]
    assert [name for name, _ in model.named_children()] == [*layer_names(model), "output"]
    x = torch.randn(2, channels_in, side, side + 1)
    assert model(x).shape == (2, outputs)
    shapes = cuts(model, x)
    assert shapes[0] == (channels, side, side + 1)
    for (width, *size), (next_width, *next_size) in zip(shapes, shapes[1:], strict=False):
        halved = [(length + 1) // 2 for length in size]
        assert (next_width, next_size) in [(width, size), (2 * width, halved)]
    # Up to eight times as wide, in runs of which none is longer than an earlier one, or shorter by two.
    widths = [shape[0] for shape in shapes]
    runs = [widths.count(width) for width in sorted(set(widths))]
    assert len(runs) == min(4, layers)
    assert runs == sorted(runs, reverse=True) and runs[0] - runs[-1] <= 1


def test_number_of_parameters_is_that_of_resnet_18() -> None:
    # The published figure of the variant for CIFAR-10, with a 3x3 stem and three shortcuts by convolution.
    assert sum(parameter.numel() for parameter in residual(3, 10).parameters()) == 11_173_962


def test_what_stands_at_the_cuts() -> None:
    widths = [(64, 32), (64, 32), (128, 16), (128, 16), (256, 8), (256, 8), (512, 4), (512, 4)]
    with torch.no_grad():
        assert cuts(residual(3, 10), torch.randn(1, 3, 32, 32).repeat(2, 1, 1, 1)) == [
            (channels, side, side) for channels, side in widths
        ]


def normed(x: Tensor, state: dict[str, Tensor], name: str, number: int, stride: int = 1) -> Tensor:
    """The convolution of this number in a chain, and the BatchNorm behind it, which starts with weight 1 and bias 0."""
    weight = state[f"{name}{number}.weight"]
    h = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), unbiased=False, keepdim=True)
    return (h - mean) / (variance + 1e-5).sqrt()


def test_equals_the_same_network_written_out() -> None:
    model = residual(2, 3, channels=4, layers=5).double()
    state = model.state_dict()
    x = torch.randn(6, 2, 9, 7, dtype=torch.float64)
    h = normed(x, state, "layer1.", 0).relu()
    blocks = {"layer1.3.": False, "layer2.": False, "layer3.": True, "layer4.": True, "layer5.": True}
    for block, changes in blocks.items():
        stride = 2 if changes else 1
        branch = normed(normed(h, state, f"{block}branch.", 0, stride).relu(), state, f"{block}branch.", 3)
        h = (branch + (normed(h, state, f"{block}shortcut.", 0, stride) if changes else h)).relu()
    expected = h.mean((2, 3)) @ state["output.2.weight"].T + state["output.2.bias"]
    # The same sums in another order: float64 rounding only.
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_initial_weights_keep_the_variance_of_gradients() -> None:
    model = residual(3, 10, channels=32)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1 + 8 * 2 + 3
    for convolution in convolutions:
        assert convolution.bias is None
        weight = convolution.weight.detach()
        expected = (2 / (weight.shape[0] * weight.shape[2] * weight.shape[3])) ** 0.5
        # Five standard deviations of the estimate, from so many numbers.
        assert abs(float(weight.std()) / expected - 1) < 5 / (2 * weight.numel()) ** 0.5
        assert abs(float(weight.mean())) < 5 * expected / weight.numel() ** 0.5


def test_seed_fixes_the_weights() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(residual(1, 2, channels=2, layers=3))
    first, second = (model.state_dict() for model in models)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["channels_in", "outputs", "channels", "layers"])
def test_sizes_below_one(name: str) -> None:
    sizes = {"channels_in": 1, "outputs": 3, "channels": 2, "layers": 1, name: 0}
    with pytest.raises(ValueError, match=f"residual: {name} is 0, expected 1 or more"):
        residual(sizes["channels_in"], sizes["outputs"], channels=sizes["channels"], layers=sizes["layers"])
