"""A model taken apart is the same model: run piece by piece it gives the same bits as run whole.

Legend: B batch, T time, D features, V tokens, C channels, H height, W width.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from synthgrad import Interface, LinearSynthesizer, Partition, PartitionError, partition

Inputs = tuple[Any, ...]


# ---- a zoo of models -------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ConvBlock(nn.Module):
    """ResNet's basic block."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.short = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(h)) + self.short(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.blocks = nn.Sequential(ConvBlock(3, 3), ConvBlock(3, 4), ConvBlock(4, 4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:  # (B, 2, H, W)
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.norm = nn.LayerNorm(features)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:  # (B, T, D), (B, T, T)
        q, k, v = self.qkv(self.norm(h)).chunk(3, -1)
        scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(mask, -1e9)
        return h + self.out(scores.softmax(-1) @ v)


class Transformer(nn.Module):
    """Causal mask, positions and padding mask are all made inline, from the raw tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.pos = nn.Parameter(torch.randn(16, 6))
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(0.5))
        self.blocks = nn.ModuleList(Attention(6) for _ in range(3))
        self.drop = nn.Dropout(0.2)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 11)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T)
        steps = tokens.shape[1]
        causal = torch.ones(steps, steps, dtype=torch.bool, device=tokens.device).triu(1)
        mask = causal | (tokens == 0)[:, None, :]
        h = self.drop(self.embed(tokens) + self.pos[:steps] * self.scale)
        for block in self.blocks:
            h = block(h, mask)
        return self.head(self.norm(h))


class FromRaw(nn.Module):
    """A skip from the raw batch, which every piece has: legal."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))) + x)


class SharedPlain(nn.Module):
    """The same modules without parameters on both sides of a cut."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.shared(self.b(self.shared(self.a(x)))))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(2, 5)

    def forward(self, x: Tensor, pair: tuple[Tensor, float]) -> Tensor:
        h = self.a(x)
        return self.b(h * torch.sigmoid(self.gate(pair[0])) * pair[1])


class Inner(nn.Module):
    """A parent that holds the cut, and calls modules before and behind it, with its own parameter inline."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.randn(4))
        self.drop = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).mul_(0.5)  # in place, directly behind a cut at `first`
        return self.second(h + self.shift)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(4, 4), Inner(), nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(torch.relu(self.stem(x)))))


class TorchEncoder(nn.Module):
    """Torch's own encoder, which looks at its layers' attributes."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, 4)
        return self.head(self.encoder(x))


class OverTime(nn.Module):
    """Calls `act` once for each time step, and again behind the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:  # (B, T, 4)
        h = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            h = self.act(self.cell(x[:, step]) + h)
        return self.head(self.act(self.mid(h)))


class InlineDropout(nn.Module):
    """Functional dropout in the forward pass of the parent that holds the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.dropout(self.a(x), 0.3, self.training)
        return self.c(functional.dropout(self.b(h), 0.3, self.training))


class Streams(nn.Module):
    """A block through which two streams pass, the second wider and, at the end, in another type."""

    def __init__(self, features: int, wide: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.left, self.right = nn.Linear(4 if first else features, features), nn.Linear(4 if first else wide, wide)

    def forward(self, streams: Any) -> tuple[Tensor, Tensor]:
        x, y = (streams, streams) if self.first else streams
        x = x if self.first else x.mul_(0.5)  # in place, directly behind the cut
        return self.left(x).sin(), self.right(y.to(x.dtype)).double()


class Meet(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, 3)

    def forward(self, streams: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(torch.cat([streams[0], streams[1].to(streams[0].dtype)], -1))


def two_streams() -> nn.Sequential:
    return nn.Sequential(Streams(5, 7, first=True), Streams(5, 7), Streams(5, 7), Meet(12))


class MapAndRow(nn.Module):
    """A map and a row pass together, as a dict; the row is used at once, the map two blocks later."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.sum_up = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(2, 5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"sizes": x.shape, "row": self.sum_up(x.mean((2, 3))), "map": self.look(x), "unused": x}


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 3)

    def forward(self, found: dict[str, Any]) -> Tensor:
        return found["map"] * torch.sigmoid(self.gate(found["row"]))[:, :, None, None]


def map_and_row() -> nn.Sequential:
    return nn.Sequential(MapAndRow(), Gate(), nn.Flatten(2), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(12, 3))


class Remember(nn.Module):
    """What has been read, (B, S, D), passes beside what is being written, (B, T, D), and every block looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Linear(4, 4)

    def forward(self, h: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(h + self.look(memory).mean(1, keepdim=True)), memory


class Read(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.begin = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.begin(x[:, :3]), self.read(x)


class ReadAndWrite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.blocks, self.head = Read(), nn.ModuleList([Remember(), Remember()]), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, memory = self.read(x)
        for block in self.blocks:
            h, memory = block(h, memory)
        return self.head(h)


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))


def nested() -> nn.Sequential:
    lower = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.3))
    upper = nn.Sequential(Residual(4), nn.Linear(4, 3))
    layers: OrderedDict[str, nn.Module] = OrderedDict(lower=lower, upper=upper)
    return nn.Sequential(layers)


def frozen() -> nn.Sequential:
    model = chain()
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    return model


def tied_frozen() -> nn.Sequential:
    """A frozen weight on both sides of a cut: nobody trains it, so nothing is wrong with it."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    model[0].weight.requires_grad_(False)
    return model


def vectors(batch: int) -> Inputs:
    return (torch.randn(batch, 4),)


def sequences(batch: int, steps: int = 5) -> Inputs:
    return (torch.randn(batch, steps, 4),)


def maps(batch: int, size: int = 6) -> Inputs:
    return (torch.randn(batch, 2, size, size),)


def tokens(batch: int, steps: int = 5) -> Inputs:
    return (torch.randint(0, 11, (batch, steps)),)


def pairs(batch: int) -> Inputs:
    return (torch.randn(batch, 4), (torch.randn(batch, 2), 0.7))


@dataclass(frozen=True)
class Case:
    model: Callable[[], nn.Module]
    at: tuple[str, ...]
    inputs: Callable[[int], Inputs]
    other: Inputs | None = None  # another sequence length or map size


ZOO = {
    "chain": Case(chain, ("0", "1", "3"), vectors),
    "chain, cut at its end": Case(chain, ("4",), vectors),
    "nested": Case(nested, ("lower",), vectors),
    "cut in a nested child": Case(nested, ("lower.1", "upper.0"), vectors),
    "cuts in each other": Case(nested, ("lower", "lower.3", "upper.1"), vectors),
    "frozen": Case(frozen, ("1", "2"), vectors),
    "tied but frozen": Case(tied_frozen, ("1", "3"), vectors),
    "resnet": Case(ResNet, ("stem", "blocks.0", "blocks.1"), maps, maps(2, 8)),
    "cut in a block's residual-free part": Case(ResNet, ("blocks",), maps, maps(2, 4)),
    "transformer": Case(Transformer, ("blocks.0", "blocks.1"), tokens, tokens(3, 7)),
    "transformer, cut at its modules": Case(Transformer, ("drop", "blocks.2", "norm"), tokens, tokens(3, 2)),
    "torch's encoder": Case(TorchEncoder, ("encoder.layers.0", "encoder.layers.1"), sequences, sequences(2, 3)),
    "skip from the raw batch": Case(FromRaw, ("a", "b"), vectors),
    "shared ReLU": Case(lambda: SharedPlain(nn.ReLU()), ("a", "b"), vectors),
    "shared Dropout": Case(lambda: SharedPlain(nn.Dropout(0.3)), ("b",), vectors),
    "shared BatchNorm without weights": Case(lambda: SharedPlain(nn.BatchNorm1d(4, affine=False)), ("b",), vectors),
    "shared chain without weights": Case(
        lambda: SharedPlain(nn.Sequential(nn.ReLU(), nn.Dropout(0.3))), ("b",), vectors
    ),
    "two inputs": Case(TwoInputs, ("a",), pairs),
    "a parent holds the cut": Case(Outer, ("stem", "inner.first", "inner.second"), vectors),
    "two streams": Case(two_streams, ("0", "1", "2"), vectors),
    "two streams, in time": Case(two_streams, ("0", "2"), sequences, sequences(3, 2)),
    "a map beside a row": Case(map_and_row, ("0", "1"), maps, maps(2, 8)),
    "memory beside what is written": Case(ReadAndWrite, ("read", "blocks.0", "blocks.1"), sequences, sequences(2, 7)),
    "called once per time step": Case(OverTime, ("mid",), sequences, sequences(3, 3)),
}
names = pytest.mark.parametrize("name", list(ZOO))


# ---- whole and in pieces ---------------------------------------------------------------------------------------------


@dataclass
class Result:
    output: Tensor
    grads: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def whole(model: nn.Module, inputs: Inputs) -> Result:
    """On a copy, so that nothing but the seed is shared with the run in pieces."""
    model = copy.deepcopy(model)
    torch.manual_seed(5)
    output = model(*copy.deepcopy(inputs))
    if output.requires_grad:
        output.backward(weight(output))
    return _result(model, output)


def in_pieces(model: nn.Module, parts: Partition, inputs: Inputs) -> Result:
    """Chained with real gradients; every piece's graph is cut from the others'."""
    model.zero_grad()
    torch.manual_seed(5)
    leaves: list[Tensor | None] = []
    outputs: list[Tensor] = []
    for piece in parts.pieces:
        leaves.append(outputs[-1].detach().requires_grad_() if outputs else None)
        outputs.append(piece(inputs, leaves[-1]))
    gradient: Tensor | None = weight(outputs[-1])
    for leaf, output in zip(reversed(leaves), reversed(outputs), strict=True):
        if output.requires_grad and gradient is not None:
            output.backward(gradient)
        gradient = None if leaf is None else leaf.grad
    return _result(model, outputs[-1])


def weight(output: Tensor) -> Tensor:
    """A gradient at the output, different in every place."""
    return torch.linspace(-1, 1, output.numel()).view_as(output)


def _result(model: nn.Module, output: Tensor) -> Result:
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return Result(output.detach(), grads, {name: b.clone() for name, b in model.named_buffers()})


def assert_identical(got: Result, expected: Result) -> None:
    assert torch.equal(got.output, expected.output)
    assert got.grads.keys() == expected.grads.keys() and got.buffers.keys() == expected.buffers.keys()
    for name, grad in expected.grads.items():
        ours = got.grads[name]
        assert (ours is None) == (grad is None), name
        assert ours is None or grad is None or torch.equal(ours, grad), name
    for name, buffer in expected.buffers.items():
        assert torch.equal(got.buffers[name], buffer), name


def assert_same(model: nn.Module, parts: Partition, inputs: Inputs) -> Result:
    expected = whole(model, inputs)  # first: the run in pieces changes the model's buffers
    assert_identical(in_pieces(model, parts, inputs), expected)
    return expected


def taken_apart(case: Case, batch: int = 4) -> tuple[nn.Module, Partition]:
    model = case.model()
    return model, partition(model, at=case.at, sample=case.inputs(batch))


# ---- laws ------------------------------------------------------------------------------------------------------------


@names
def test_piece_by_piece_gives_the_bits_of_the_whole(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    assert len(parts.pieces) == len(ZOO[name].at) + 1
    inputs = ZOO[name].inputs(4)
    expected = assert_same(model, parts, inputs)
    assert any(grad is not None and grad.abs().sum() > 0 for grad in expected.grads.values())


@names
def test_another_batch_size_than_the_sample(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    for batch in (3, 7, 2, 3):
        inputs = ZOO[name].inputs(batch)
        assert_same(model, parts, inputs)


@pytest.mark.parametrize("name", [name for name, case in ZOO.items() if case.other is not None])
def test_another_length_than_the_sample(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    inputs = ZOO[name].other
    assert inputs is not None
    assert_same(model, parts, inputs)


def test_a_longer_sequence_than_the_sample_where_a_module_is_called_once_per_step() -> None:
    model, parts = taken_apart(ZOO["called once per time step"])
    inputs = sequences(3, 9)
    assert_same(model, parts, inputs)


@names
def test_the_mode_set_on_the_model_afterwards_is_seen_by_the_pieces(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    inputs = ZOO[name].inputs(4)
    for training in (False, True, False):
        model.train(training)
        assert_same(model, parts, inputs)


def test_functional_dropout_follows_the_mode_of_the_model() -> None:
    model = InlineDropout().eval()
    parts = partition(model, at=["a"], sample=vectors(8))
    x = vectors(8)
    assert_same(model, parts, x)
    model.train()
    # One dropout stands before the exit of no piece but the last, so the stream of random numbers is the whole's.
    assert_same(model, parts, x)
    assert not torch.equal(whole(model, x).output, whole(model.eval(), x).output)


def test_functional_dropout_before_a_cut_is_no_bypass() -> None:
    model = InlineDropout()
    parts = partition(model, at=["b"], sample=vectors(8))  # the masks differ from the whole's, the cut is sound
    model.eval()
    x = vectors(8)
    assert_same(model, parts, x)


@names
def test_partition_in_eval_mode(name: str) -> None:
    case = ZOO[name]
    model = case.model().eval()
    parts = partition(model, at=case.at, sample=case.inputs(4))
    inputs = case.inputs(5)
    assert_same(model, parts, inputs)
    model.train()
    assert_same(model, parts, inputs)


@names
def test_pieces_run_alone_and_in_any_order(name: str) -> None:
    case = ZOO[name]
    model = case.model().eval()
    parts = partition(model, at=case.at, sample=case.inputs(4))
    inputs = case.inputs(4)
    received: list[Tensor | None] = [None]
    for piece in parts.pieces:
        received.append(piece(inputs, received[-1]).detach())
    assert torch.equal(_some(received[-1]), model(*inputs))
    order = list(range(len(parts.pieces)))
    for start in (list(reversed(order)), order[1:] + order[:1], order[-1:] * 2):
        for index in start:
            given = received[index]
            before = None if given is None else given.clone()
            assert torch.equal(parts.pieces[index](inputs, given), _some(received[index + 1]))
            assert given is None or torch.equal(given, _some(before))  # what was received is never written into


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


@names
def test_every_trainable_parameter_belongs_to_exactly_one_piece(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    owned = [key for parameters in parts.parameters for key in parameters]
    assert sorted(owned) == sorted(key for key, p in model.named_parameters() if p.requires_grad)
    for parameters in parts.parameters:
        assert all(model.get_parameter(key) is parameter for key, parameter in parameters.items())


@names
def test_a_piece_owns_the_parameters_that_its_output_depends_on(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    inputs, received = ZOO[name].inputs(4), None
    for piece, parameters in zip(parts.pieces, parts.parameters, strict=True):
        model.zero_grad()
        output = piece(inputs, received)
        if output.requires_grad:
            output.sum().backward()
        touched = {key for key, p in model.named_parameters() if p.grad is not None}
        assert touched <= set(parameters)
        received = output.detach()


@names
def test_the_model_is_left_as_it_was(name: str) -> None:
    case = ZOO[name]
    model = case.model()
    model.train()
    if len(list(model.children())) > 1:
        list(model.children())[1].eval()  # modes of submodules may differ
    inputs = case.inputs(4)
    before = snapshot(model)
    random = torch.get_rng_state()
    parts = partition(model, at=case.at, sample=inputs)
    assert torch.equal(random, torch.get_rng_state())
    compare(before, snapshot(model))
    in_pieces(model, parts, inputs)
    model.zero_grad()
    del before["state"]
    after = snapshot(model)
    del after["state"]
    compare(before, after)  # running the pieces changes buffers, and nothing else


def snapshot(model: nn.Module) -> dict[str, Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    modules = list(model.named_modules())
    return {
        "class": type(model),
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "keys": list(model.state_dict()),
        "modules": [(name, id(module), type(module), module.training) for name, module in modules],
        "hooks": [len(getattr(module, kind)) for _, module in modules for kind in hooks],
        "parameters": [(name, id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()],
        "buffers": [(name, id(buffer)) for name, buffer in model.named_buffers()],
        "attributes": [sorted(module.__dict__) for _, module in modules],
    }


def compare(before: dict[str, Any], after: dict[str, Any]) -> None:
    before, after = dict(before), dict(after)
    old, new = before.pop("state", {}), after.pop("state", {})
    assert before == after
    assert all(torch.equal(old[key], new[key]) for key in old)


def test_the_model_is_left_as_it_was_also_when_it_is_refused() -> None:
    model, sample = Bypass(), vectors(4)
    before, random = snapshot(model), torch.get_rng_state()
    with pytest.raises(PartitionError):
        partition(model, at=["b"], sample=sample)
    compare(before, snapshot(model))
    assert torch.equal(random, torch.get_rng_state())


@names
def test_activations_and_output_are_those_of_the_sample(name: str) -> None:
    case = ZOO[name]
    model = case.model().eval()
    inputs = case.inputs(4)
    parts = partition(model, at=case.at, sample=inputs)
    received = None
    with torch.no_grad():  # as the sample is run: torch's own encoder computes otherwise, with gradients
        assert torch.equal(parts.output, model(*inputs))
        for piece, activation in zip(parts.pieces, parts.activations, strict=False):
            received = piece(inputs, received)
            assert torch.equal(received, activation)


@names
def test_copies_of_model_and_pieces_run_alike_and_share_nothing(name: str) -> None:
    model, parts = taken_apart(ZOO[name])
    inputs = ZOO[name].inputs(4)
    twin, twins = copy.deepcopy((model, parts))
    expected = whole(model, inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.25)
    assert_identical(in_pieces(twin, twins, inputs), expected)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}


@pytest.mark.parametrize("name", ["transformer", "a parent holds the cut", "nested"])
def test_the_mode_of_a_copied_model_is_seen_by_its_copied_pieces(name: str) -> None:
    case = ZOO[name]
    model, parts = taken_apart(case)
    twin, twins = copy.deepcopy((model, parts))
    inputs = case.inputs(4)
    twin.eval()
    assert_same(twin, twins, inputs)


def test_attributes_set_on_a_copied_model_are_seen_by_its_copied_pieces() -> None:
    model = InlineDropout().eval()
    parts = partition(model, at=["a"], sample=vectors(8))
    twin, twins = copy.deepcopy((model, parts))
    twin.train()
    x = vectors(8)
    assert_same(twin, twins, x)


def test_cuts_come_in_the_order_of_the_forward_pass_however_they_are_named() -> None:
    parts = partition(Transformer(), at=["norm", "drop", "blocks.1"], sample=tokens(3))
    assert parts.names == ("drop", "blocks.1", "norm")


def test_no_cut_gives_one_piece() -> None:
    model = Transformer()
    parts = partition(model, at=[], sample=tokens(3))
    assert len(parts.pieces) == 1 and parts.activations == ()
    inputs = tokens(4)
    assert_same(model, parts, inputs)


def test_a_parameter_that_nothing_uses_still_belongs_to_a_piece() -> None:
    parts = partition(Outer(), at=["inner.first"], sample=vectors(4))
    assert sum("unused.weight" in parameters for parameters in parts.parameters) == 1


def test_an_attribute_set_on_the_model_is_seen_by_the_pieces() -> None:
    class Scaled(FromRaw):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.factor

    model = Scaled()
    parts = partition(model, at=["a"], sample=vectors(4))
    model.factor = 3.0
    inputs = vectors(4)
    assert_same(model, parts, inputs)


def test_the_dtype_of_the_model_may_change_also_where_the_inputs_do_not_show_it() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.head = nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.mix = nn.Parameter(torch.randn(4, 4))

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.block(self.embed(tokens) @ self.mix))  # `mix` is used inline, on a stub's output

    model = Projected()
    parts = partition(model, at=["block"], sample=tokens(3))
    inputs = tokens(3)
    in_pieces(model, parts, inputs)
    model.double()
    assert assert_same(model, parts, inputs).output.dtype == torch.float64


def test_a_buffer_that_a_parent_counts_up_itself_is_counted_once() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
            self.mean: Tensor
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.mean.lerp_(x.detach().mean(0), 0.1)
            return self.b(torch.relu(self.a(x)))

    model = Counting()
    try:
        parts = partition(model, at=["a"], sample=vectors(4))
    except PartitionError:
        return  # to refuse it is as good
    inputs = vectors(4)
    assert_same(model, parts, inputs)


# ---- random models ---------------------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4),
    "linear, relu in place": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)),
    "tanh": lambda: nn.Sequential(nn.Tanh(), nn.Linear(4, 4)),
    "norm": lambda: nn.LayerNorm(4),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(inplace=True)),
    "dropout": lambda: nn.Dropout(0.25),
    "residual": lambda: Residual(4),
    "parent": Inner,
    "identity": nn.Identity,
}


@st.composite
def random_models(draw: st.DrawFn) -> tuple[nn.Sequential, list[str]]:
    kinds = draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=2, max_size=6))
    layers = [LAYERS[kind]() for kind in kinds]
    split = draw(st.integers(0, len(layers) - 1))
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(*layers[:split]), *layers[split:])
    ends = [name for name, module in model.named_modules() if name and not _inside_residual(name, model)]
    at = draw(st.lists(st.sampled_from(ends), unique=True, max_size=4))
    return model, [name for name in at if len(list(model.get_submodule(name).modules())) > 0]


def _inside_residual(name: str, model: nn.Module) -> bool:
    parents = [name.rsplit(".", level)[0] for level in range(1, name.count(".") + 1)]
    return any(isinstance(model.get_submodule(parent), Residual) for parent in parents)


@given(random_models(), st.integers(2, 5), st.booleans())
def test_any_chain_cut_anywhere_gives_the_bits_of_the_whole(
    drawn: tuple[nn.Sequential, list[str]], batch: int, training: bool
) -> None:
    model, at = drawn
    empty = [name for name in at if isinstance(model.get_submodule(name), nn.Sequential) and name == "1"]
    parts = partition(model.train(training), at=at, sample=vectors(4))
    assert len(parts.names) == len(at) and len(empty) <= 1
    inputs = vectors(batch)
    assert_same(model, parts, inputs)
    owned = [key for parameters in parts.parameters for key in parameters]
    assert sorted(owned) == sorted(dict(model.named_parameters()))


# ---- what is refused -------------------------------------------------------------------------------------------------


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(PartitionError) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value!s} does not mention {missing}"


def test_an_unknown_name_is_refused_and_the_nearest_named() -> None:
    with refused("'blocks.9'", "'blocks.0'", "no submodule"):
        partition(Transformer(), at=["blocks.9"], sample=tokens(3))


def test_the_model_itself_is_no_cut() -> None:
    with refused("no submodule ''"):
        partition(chain(), at=[""], sample=vectors(3))


def test_a_name_given_twice_is_refused() -> None:
    with refused("'blocks.0'", "twice"):
        partition(Transformer(), at=["blocks.0", "norm", "blocks.0"], sample=tokens(3))


def test_a_module_under_two_names_given_by_both_is_refused() -> None:
    model = FromRaw()
    model.again = model.a
    with refused("'a'", "twice"):
        partition(model, at=["a", "again"], sample=vectors(3))


def test_a_module_that_is_never_called_is_refused() -> None:
    with refused("'unused'", "0 times"):
        partition(Outer(), at=["unused"], sample=vectors(3))


def test_a_module_that_is_called_twice_is_refused() -> None:
    with refused("'shared'", "2 times"):
        partition(SharedPlain(nn.ReLU()), at=["shared"], sample=vectors(3))


class Returns(nn.Module):
    """A cut in front of something that returns anything."""

    def __init__(self, function: Callable[[Tensor], Any], then: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.a, self.head, self.then = nn.Linear(4, 4), nn.Linear(4, 3), then
        self.odd = Odd(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.then(self.odd(self.a(x))))


class Odd(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "then", "words"),
    [
        (lambda h: (h.long(), 3), lambda pair: pair[0].float(), ("tuple", "without a floating tensor", "3 examples")),
        (lambda h: {"h": h.T}, lambda found: found["h"].T, ("dict", "without a floating tensor")),
        (lambda h: None, lambda _: torch.ones(3, 4), ("NoneType", "without a floating tensor")),
        (lambda h: h.long(), lambda h: h.float(), ("int64", "floating")),
        (lambda h: h > 0, lambda h: h.float(), ("bool", "floating")),
        (lambda h: h.T, lambda h: h.T, ("(4, 3)", "batch of 3", "first dimension")),
        (lambda h: h.sum(), lambda h: h.expand(3, 4), ("()", "batch of 3", "first dimension")),
    ],
    ids=["tuple", "dict", "None", "integers", "booleans", "transposed", "scalar"],
)
def test_an_activation_that_is_no_floating_tensor_with_a_row_for_each_example_is_refused(
    function: Callable[[Tensor], Any], then: Callable[[Any], Tensor], words: tuple[str, ...]
) -> None:
    with refused("'odd'", *words):
        partition(Returns(function, then), at=["odd"], sample=vectors(3))


@pytest.mark.parametrize(
    ("function", "then", "crosses"),
    [
        (lambda h: (h, h + 1), lambda pair: pair[0], (3, 4)),
        (lambda h: (h.repeat(1, 2), h), lambda pair: pair[1], (3, 4)),
        (lambda h: (h, h + 1), lambda pair: pair[0] * pair[1], (3, 8)),
        (lambda h: (h, h.repeat(1, 2), h + 1), lambda three: three[0] * three[2], (3, 8)),
        (lambda h: (3, h.sum(), {"wide": h, "other": h * 2}), lambda tree: tree[2]["wide"] * tree[0], (3, 4)),
        (lambda h: OrderedDict(h=h, size=len(h)), lambda found: found["h"] + 0 * found["size"], (3, 4)),
        (lambda h: (h, h + 1), lambda pair: torch.ones(len(pair[0]), 4), (3, 4)),
    ],
    ids=["first", "second", "both", "two of three", "nested", "mapping", "none"],
)
def test_of_several_tensors_those_cross_that_are_used(
    function: Callable[[Tensor], Any], then: Callable[[Any], Tensor], crosses: tuple[int, ...]
) -> None:
    model = Returns(function, then)
    parts = partition(model, at=["odd"], sample=vectors(3))
    assert parts.activations[0].shape == crosses
    for rows in (3, 5):
        inputs = vectors(rows)
        assert_same(model, parts, inputs)


def test_what_only_the_next_block_uses_goes_no_further() -> None:
    parts = partition(map_and_row(), at=["0", "1"], sample=maps(4))
    assert [tuple(one.shape) for one in parts.activations] == [(4, 5 + 3 * 6 * 6), (4, 3, 6, 6)]
    through = partition(ReadAndWrite(), at=["read", "blocks.0", "blocks.1"], sample=sequences(4))
    assert [tuple(one.shape) for one in through.activations] == [(4, 3 + 5, 4), (4, 3 + 5, 4), (4, 3, 4)]


@pytest.mark.parametrize(
    ("function", "then"),
    [
        (lambda h: {"h": h, "sum": h.sum()}, lambda found: found["h"] + found["sum"]),
        (lambda h: (h, h.argmax(1)), lambda pair: pair[0] + pair[1][:, None]),
    ],
    ids=["sum", "integers"],
)
def test_what_has_no_row_for_each_example_or_no_gradient_may_not_cross(
    function: Callable[[Tensor], Any], then: Callable[[Any], Tensor]
) -> None:
    with refused("more of the output of 'odd' bypasses the cut at 'odd'"):
        partition(Returns(function, then), at=["odd"], sample=vectors(3))


def test_a_model_with_interfaces_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Interface(LinearSynthesizer((4,))), nn.Linear(4, 3))
    with refused("Interface at '1'", "take it out"):
        partition(model, at=["0"], sample=vectors(3))


class Bypass(nn.Module):
    """A functional residual around `b`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(torch.relu(self.b(h)) + h)


def test_a_functional_residual_between_two_cuts_is_the_same_model() -> None:
    model = Bypass()
    parts = partition(model, at=["a"], sample=vectors(4))
    inputs = vectors(5)
    assert_same(model, parts, inputs)


def test_a_cut_inside_a_residual_block_is_refused() -> None:
    with refused("bypasses the cut at 'blocks.1.conv1'"):
        partition(ResNet(), at=["blocks.1.conv1"], sample=maps(4))


def test_a_weight_used_on_both_sides_of_a_cut_is_refused_with_both_places() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    with refused("'0.weight'", "'2.weight'", "stage 0", "stage 1", "'1'"):
        partition(model, at=["1"], sample=vectors(4))


def test_a_module_with_weights_called_on_both_sides_of_a_cut_is_refused() -> None:
    with refused("'shared.weight'", "stage 0", "stage 1"):
        partition(SharedPlain(nn.Linear(4, 4)), at=["b"], sample=vectors(4))


class Tied(nn.Module):
    def __init__(self, *, functional: bool) -> None:
        super().__init__()
        self.embed, self.block = nn.Embedding(11, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.functional = functional
        if not functional:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = torch.relu(self.block(self.embed(tokens)))
        return functional.linear(h, self.embed.weight) if self.functional else self.head(h)


def test_an_embedding_tied_to_the_head_is_refused_with_both_names() -> None:
    with refused("'embed.weight'", "'head.weight'", "stage 0", "stage 1", "'block'"):
        partition(Tied(functional=False), at=["block"], sample=tokens(3))


def test_an_embedding_used_functionally_as_the_head_is_refused() -> None:
    with refused("'embed.weight'", "stage 0", "stage 1", "'block'"):
        partition(Tied(functional=True), at=["block"], sample=tokens(3))


def test_a_parameter_used_inline_on_both_sides_of_a_cut_is_refused() -> None:
    class Inline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.scale = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x * self.scale) * self.scale)

    with refused("'scale'", "stage 0", "stage 1"):
        partition(Inline(), at=["a"], sample=vectors(4))


# ---- another path than the sample's ----------------------------------------------------------------------------------


class Paths(nn.Module):
    """Which modules run depends on the values: on the sample (positive), `a`, `b` and `c`, each once."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.late = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        positive = bool(x.mean() > 0)
        h = torch.tanh(self.a(x))
        if not positive and self.kind == "a twice":
            h = torch.tanh(self.a(h))
        if positive or self.kind != "no b":
            h = torch.tanh(self.b(h))
        if not positive and self.kind == "late":
            h = torch.tanh(self.late(h))
        return self.c(h)


@pytest.mark.parametrize("kind", ["no b", "a twice"])
def test_a_forward_pass_that_takes_another_path_than_the_sample_is_refused(kind: str) -> None:
    model = Paths(kind)
    positive = torch.rand(4, 4)
    parts = partition(model, at=["b"], sample=(positive,))
    assert_same(model, parts, (positive,))
    try:
        result = in_pieces(model, parts, (-positive,))
    except PartitionError as error:
        assert "path" in str(error)
        return
    assert_identical(result, whole(model, (-positive,)))  # else it must be right


def test_a_weight_that_only_another_path_uses_belongs_to_the_piece_that_runs_it() -> None:
    model = Paths("late")
    positive = torch.rand(4, 4)
    parts = partition(model, at=["b"], sample=(positive,))
    try:
        assert_same(model, parts, (-positive,))
    except PartitionError as error:  # to refuse the batch is as good
        assert "path" in str(error)
        return
    assert "late.weight" in parts.parameters[1]  # else another stage's optimizer moves it, in another step


def test_pieces_go_on_working_after_a_refused_batch() -> None:
    model = Paths("no b")
    positive = torch.rand(4, 4)
    parts = partition(model, at=["b"], sample=(positive,))
    with refused("path"):
        in_pieces(model, parts, (-positive,))
    assert_same(model, parts, (positive,))
