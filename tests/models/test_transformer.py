import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.models import layer_names, transformer

sizes = st.integers(1, 3)


def tokens(*shape: int, vocabulary: int = 7) -> Tensor:
    return torch.randint(0, vocabulary, shape)


def small(*, layers: int = 2, context: int = 6) -> nn.Sequential:
    """With weights large enough that every token makes a difference."""
    model = transformer(7, width=8, heads=2, layers=layers, context=context)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def loss(output: Tensor, target: Tensor) -> Tensor:
    """One term for each token, (B * T,)."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")


@given(vocabulary=sizes, head=sizes, heads=sizes, layers=sizes, context=st.integers(1, 5), data=st.data())
def test_shapes_and_names(
    vocabulary: int, head: int, heads: int, layers: int, context: int, data: st.DataObject
) -> None:
    model = transformer(vocabulary, width=head * heads, heads=heads, layers=layers, context=context)
    assert layer_names(model) == [f"layer{number}" for number in range(1, layers + 1)]
    assert [name for name, _ in model.named_children()] == [*layer_names(model), "output"]
    length = data.draw(st.integers(1, context))
    x = tokens(2, length, vocabulary=vocabulary)
    assert model(x).shape == (2, length, vocabulary)
    for name in layer_names(model):
        x = model.get_submodule(name)(x)
        assert x.shape == (2, length, head * heads) and x.is_floating_point()


@given(place=st.integers(0, 5), grad=st.booleans(), seed=st.integers(0, 99))
def test_no_output_depends_on_a_later_token(place: int, grad: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = small(), tokens(3, 6)
    other = x.clone()
    other[:, place:] = (other[:, place:] + torch.randint(1, 7, (3, 6 - place))) % 7
    with torch.set_grad_enabled(grad):  # torch has different kernels for the two
        before, after = model(x), model(other)
    assert torch.equal(before[:, :place], after[:, :place])
    # And each sees itself and, by the attention, those before.
    assert (before[:, place:] != after[:, place:]).any(-1).all()


@given(length=st.integers(1, 6))
def test_outputs_do_not_depend_on_how_many_tokens_follow(length: int) -> None:
    model, x = small(), tokens(2, 6)
    # Matrices of another size: the sums may be made in another order.
    torch.testing.assert_close(model(x[:, :length]), model(x)[:, :length], rtol=1e-4, atol=1e-5)


def test_each_position_is_its_own() -> None:
    model = small()
    output = model(torch.zeros(1, 6, dtype=torch.int64))[0]  # (T, V)
    assert len(output.unique(dim=0)) == 6


class WrittenOut:
    """The same network, from the weights and elementary operations, one example and one token at a time."""

    def __init__(self, model: nn.Sequential, layers: int, heads: int) -> None:
        self.state, self.layers, self.heads = model.state_dict(), layers, heads

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        normed = (x - mean) / (variance + 1e-5).sqrt()
        return normed * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def attention(self, x: Tensor, name: str) -> Tensor:
        query, key, value = self.linear(x, f"{name}.query_key_value").chunk(3, dim=1)  # (T, D) each
        size, rows = x.shape[1] // self.heads, []
        for t in range(len(x)):
            row = []
            for head in range(self.heads):
                part = slice(head * size, (head + 1) * size)
                scores = torch.stack([query[t, part] @ key[s, part] / math.sqrt(size) for s in range(t + 1)])
                weights = scores.exp() / scores.exp().sum()
                row.append(sum((weights[s] * value[s, part] for s in range(t + 1)), x.new_zeros(size)))
            rows.append(torch.cat(row))
        return self.linear(torch.stack(rows), f"{name}.projection")

    def __call__(self, x: Tensor) -> Tensor:
        token, position = (self.state[f"layer1.0.{kind}.weight"] for kind in ("token", "position"))
        h = torch.stack([token[number] + position[t] for t, number in enumerate(x.tolist())])  # (T, D)
        for block in ["layer1.1", *(f"layer{number}" for number in range(2, self.layers + 1))]:
            h = h + self.attention(self.norm(h, f"{block}.attention.0"), f"{block}.attention.1")
            hidden = self.linear(self.norm(h, f"{block}.mlp.0"), f"{block}.mlp.1")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            h = h + self.linear(hidden, f"{block}.mlp.3")
        return self.linear(self.norm(h, "output.0"), "output.1")


def test_equals_the_same_network_written_out() -> None:
    model, x = small(layers=3).double(), tokens(4, 6)
    written_out = WrittenOut(model, layers=3, heads=2)
    expected = torch.stack([written_out(row) for row in x])
    # The same sums in another order: float64 rounding only. (In float32 another GELU would pass.)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@given(vocabulary=sizes, head=sizes, heads=sizes, layers=sizes, context=sizes)
def test_number_of_parameters(vocabulary: int, head: int, heads: int, layers: int, context: int) -> None:
    width = head * heads
    # Embeddings; in each block 4 + 2 * 4 squares, as many biases as they have outputs, and two norms; norm and output.
    block = 12 * width**2 + (3 + 1 + 4 + 1) * width + 2 * 2 * width
    expected = (vocabulary + context) * width + layers * block + 2 * width + (width + 1) * vocabulary
    model = transformer(vocabulary, width=width, heads=heads, layers=layers, context=context)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_initial_weights() -> None:
    model = transformer(65, width=64, layers=8)
    for name, parameter in model.state_dict().items():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones(64)), name  # of a LayerNorm
        else:
            joins = name.endswith(("projection.weight", "mlp.3.weight"))
            expected = 0.02 / 4 if joins else 0.02
            # Five standard deviations of the estimate, from so many numbers.
            assert abs(float(parameter.std()) / expected - 1) < 5 / (2 * parameter.numel()) ** 0.5, name
            assert abs(float(parameter.mean())) < 5 * expected / parameter.numel() ** 0.5, name


def test_before_training_all_tokens_are_about_as_likely() -> None:
    model, x, y = transformer(65), tokens(4, 64, vocabulary=65), tokens(4, 64, vocabulary=65)
    value = loss(model(x), y).mean().item()
    # Scores have a standard deviation of about 0.02 * sqrt(128), whose effect is half of its square, 0.03.
    assert abs(value - math.log(65)) < 0.1


def test_it_can_be_decoupled_in_the_middle() -> None:
    model, x, y = small(layers=4), tokens(5, 6), tokens(5, 6)
    names = ["layer1.0.token.weight", "layer4.attention.1.projection.weight", "output.1.weight"]
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    whole = loss(model(x), y).mean().detach()
    net = sg.decouple(
        model,
        at=["layer2"],
        sample=(x, y),
        loss=loss,
        synthesizer=lambda shape: sg.LinearSynthesizer(shape, classes=7),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )
    losses = [net.step(x, target=y).loss for _ in range(2)]
    assert torch.isfinite(torch.stack(losses)).all()
    assert torch.equal(losses[0], whole)
    # By the second step the synthetic gradient is no longer zero, so that the first stage has learned as well.
    assert all(not torch.equal(model.get_parameter(name), before[name]) for name in names)


@pytest.mark.parametrize("layers", [1, 4])
def test_no_weight_is_on_both_sides_of_a_cut(layers: int) -> None:
    model = small(layers=layers)
    parts = sg.partition(model, at=layer_names(model), sample=(tokens(2, 6),))
    assert sum(map(len, parts.parameters)) == len(list(model.parameters()))


def test_more_tokens_than_the_context_holds() -> None:
    model = small(context=6)
    with pytest.raises(ValueError, match="transformer: got 7 tokens in a row, expected 6 or fewer; .* context=7"):
        model(tokens(2, 7))


@pytest.mark.parametrize(("width", "heads", "remedy"), [(10, 4, 12), (3, 4, 4), (7, 2, 8)])
def test_width_that_the_heads_do_not_divide(width: int, heads: int, remedy: int) -> None:
    message = (
        f"transformer: width is {width} with {heads} heads, expected a multiple of their number; pass width={remedy}"
    )
    with pytest.raises(ValueError, match=message):
        transformer(5, width=width, heads=heads)


def test_seed_fixes_the_weights() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(transformer(5, width=4, heads=2, layers=2, context=3))
    first, second = (model.state_dict() for model in models)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["vocabulary", "width", "heads", "layers", "context"])
def test_sizes_below_one(name: str) -> None:
    sizes = {"vocabulary": 5, "width": 4, "heads": 2, "layers": 1, "context": 3, name: 0}
    with pytest.raises(ValueError, match=f"transformer: {name} is 0, expected 1 or more"):
        transformer(
            sizes["vocabulary"],
            width=sizes["width"],
            heads=sizes["heads"],
            layers=sizes["layers"],
            context=sizes["context"],
        )
