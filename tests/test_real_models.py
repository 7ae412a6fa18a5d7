"""Models from the wild run decoupled, without a change to them: random weights, small, nothing is downloaded.

Two things are asked of each. In stages between which gradients pass, it ends with the very bits of the plain loop. With
synthetic gradients every stage learns. What cannot be cut is refused, with names. (With dropout the masks are not the
plain loop's: each stage draws its own numbers. They are the same in any number of processes: law 4.)
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.core.batch import arguments
from synthgrad.models import residual

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
B, T, V, CLASSES = 4, 7, 30, 5


# ---- the models ------------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """As in torchvision's resnet18: one ReLU, called twice, that writes into its input."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1 or channels_in != channels:
            skip = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """As torchvision writes it: layers of blocks, `torch.flatten` inline."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class Tagger(nn.Module):
    """An LSTM returns its states beside its outputs; here nobody uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, 8)
        self.lower = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.upper, self.head = nn.LSTM(12, 12, batch_first=True), nn.Linear(12, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lower(self.embed(tokens))
        hidden, _ = self.upper(hidden)
        return self.head(hidden)


class StatesToo(Tagger):
    """The upper LSTM starts from where the lower one ended."""

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, (_, cells) = self.lower(self.embed(tokens))
        first = cells.transpose(0, 1).flatten(1).unsqueeze(0)
        return self.head(self.upper(hidden, (first, first))[0])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.embed, self.encoder, self.head = (
            nn.Embedding(V, 8),
            nn.TransformerEncoder(layer, 3),
            nn.Linear(8, CLASSES),
        )

    def forward(self, tokens: Tensor, *, padding: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=padding))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(channels_in: int, channels: int) -> nn.Sequential:
            conv = nn.Conv2d(channels_in, channels, 3, padding=1)
            return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))

        self.enc1, self.enc2, self.mid = block(1, 4), block(4, 8), block(8, 8)
        self.dec2, self.dec1, self.out = block(16, 4), block(8, 4), nn.Conv2d(4, CLASSES, 1)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.enc1(x)
        second = self.enc2(self.pool(first))
        h = self.dec2(torch.cat([self.up(self.mid(self.pool(second))), second], 1))
        return self.out(self.dec1(torch.cat([self.up(h), first], 1)))


class TwoInputs(nn.Module):
    """Text and picture; the two branches meet in `join`."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.pixels = nn.EmbeddingBag(V, 8), nn.Linear(12, 8)
        self.join, self.head = nn.Linear(16, 8), nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor, picture: Tensor) -> Tensor:
        branches = torch.tanh(self.words(tokens)), torch.tanh(self.pixels(picture))
        return self.head(torch.relu(self.join(torch.cat(branches, 1))))


class Reversible(nn.Module):
    """As in RevNet: two streams, each changed by the other; both leave every block."""

    def __init__(self) -> None:
        super().__init__()
        self.odd, self.even = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        first = streams[0] + torch.relu(self.odd(streams[1]))
        return first, streams[1] + torch.relu(self.even(first))


class RevNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, CLASSES)
        self.blocks = nn.Sequential(Reversible(), Reversible(), Reversible())

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.blocks(tuple(self.stem(x).chunk(2, 1)))
        return self.head(torch.cat([first, second], 1).mean((2, 3)))


class Perceiver(nn.Module):
    """A dictionary passes through its blocks: what was read, and a summary of it that each of them improves."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, found: dict[str, Any]) -> dict[str, Any]:
            heard = torch.tanh(self.look(found["read"])).mean(1, keepdim=True)
            return {**found, "summary": self.norm(found["summary"] + heard), "depth": found["depth"] + 1}

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.head = nn.Embedding(V, 8), nn.Parameter(torch.randn(2, 8)), nn.Linear(16, CLASSES)
        self.blocks = nn.ModuleList([self.Block(), self.Block()])

    def forward(self, tokens: Tensor) -> Tensor:
        found: dict[str, Any] = {
            "depth": 0,
            "read": self.embed(tokens),
            "summary": self.first.expand(len(tokens), -1, -1),
        }
        for block in self.blocks:
            found = block(found)
        return self.head(found["summary"].flatten(1))


class OwnLoss(nn.Module):
    """Gets the labels, and returns the loss with the rest, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.head = nn.Linear(12, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(torch.relu(self.lower(x)))
        return {"logits": logits, "loss": F.cross_entropy(logits, labels)}


class Recycling(nn.Module):
    """One block, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for _ in range(3):
            h = h + torch.relu(self.block(h))
        return self.head(self.norm(h))


def gpt2(*, tied: bool = False, use_cache: bool = False, dropout: float = 0.0) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"vocab_size": V, "n_positions": 16, "n_embd": 8, "n_layer": 4, "n_head": 2}
    quiet: dict[str, Any] = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
    }
    return GPT2LMHeadModel(GPT2Config(**sizes, **quiet, tie_word_embeddings=tied, use_cache=use_cache))


def bert(kind: str) -> nn.Module:
    import transformers

    sizes: dict[str, Any] = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 16, "num_labels": CLASSES}
    config = transformers.BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return getattr(transformers, kind)(config)


# ---- their batches, and how they are cut -----------------------------------------------------------------------------


def llama() -> nn.Module:
    """Its rotary angles are made once, by a module without weights, and used in every block."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=V,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


class Experts(nn.Module):
    """A mixture of experts: each example is sent to one of them, so that a batch may leave some of them out."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 3), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        out, chosen = torch.zeros_like(x), shares.argmax(-1)
        for place, expert in enumerate(self.experts):
            if (own := chosen == place).any():
                out[own] = expert(x[own]) * shares[own][:, place, None]
        return x + out


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.lower, self.upper = nn.Linear(12, 8), Experts(), Experts()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upper(self.lower(self.first(x))))


def tokens() -> Tensor:
    return torch.randint(1, V, (B, T))


def padding() -> Tensor:
    return torch.arange(T).expand(B, T) >= torch.tensor([7, 5, 6, 3]).unsqueeze(1)


def each() -> Tensor:
    return torch.randint(0, CLASSES, (B,))


def labelled_twice() -> tuple[Tensor, Tensor, Tensor]:
    labels = each()
    return torch.randn(B, 12), labels, labels


def tags() -> Tensor:
    return torch.randint(0, CLASSES, (B, T))


def loss_of(output: Any, target: Tensor) -> Tensor:
    """Of a tensor, or of what a library's model returns."""
    logits = getattr(output, "logits", output)
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def own_loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return output["loss"]


@dataclass(frozen=True)
class Case:
    model: Callable[[], nn.Module]
    at: tuple[str, ...]
    sample: Callable[[], tuple[Any, ...]]
    loss: Callable[[Any, Tensor], Tensor] = loss_of


def per_pixel(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


MODELS = {
    "a chain of residual blocks": Case(
        partial(residual, 3, CLASSES, channels=4, layers=4),
        ("layer1", "layer3"),
        lambda: (torch.randn(B, 3, 8, 8), each()),
    ),
    "torchvision's resnet": Case(
        ResNet, ("maxpool", "layer1", "layer2.0"), lambda: (torch.randn(B, 3, 16, 16), each())
    ),
    "gpt-2": Case(gpt2, ("transformer.drop", "transformer.h.0", "transformer.h.2"), lambda: (tokens(), tokens())),
    "gpt-2, with its cache": Case(partial(gpt2, use_cache=True), ("transformer.h.1",), lambda: (tokens(), tokens())),
    "gpt-2, padded": Case(
        gpt2,
        ("transformer.h.0", "transformer.h.2"),
        lambda: (tokens(), sg.Keywords(attention_mask=(~padding()).long()), tokens()),
    ),
    "bert": Case(
        partial(bert, "BertForSequenceClassification"),
        ("bert.embeddings", "bert.encoder.layer.1"),
        lambda: (tokens(), sg.Keywords(attention_mask=(~padding()).long()), each()),
    ),
    "bert, cut at a dataclass": Case(
        partial(bert, "BertForTokenClassification"), ("bert.encoder",), lambda: (tokens(), tags())
    ),
    "llama": Case(llama, ("model.layers.0", "model.layers.1"), lambda: (tokens(), tokens())),
    "mixture of experts": Case(Mixture, ("first", "lower"), lambda: (torch.randn(B, 12), each())),
    "torch's encoder": Case(Encoder, ("embed", "encoder.layers.1"), lambda: (tokens(), tags())),
    "torch's encoder, padded": Case(
        Encoder, ("encoder.layers.0",), lambda: (tokens(), sg.Keywords(padding=padding()), tags())
    ),
    "lstm tagger": Case(Tagger, ("embed", "lower", "upper"), lambda: (tokens(), tags())),
    "u-net, around its skips": Case(
        UNet, ("dec1",), lambda: (torch.randn(B, 1, 8, 8), torch.randint(0, CLASSES, (B, 8, 8))), per_pixel
    ),
    "two inputs": Case(TwoInputs, ("join",), lambda: (tokens(), torch.randn(B, 12), each())),
    "two inputs, one branch below": Case(TwoInputs, ("words",), lambda: (tokens(), torch.randn(B, 12), each())),
    "two streams": Case(RevNet, ("blocks.0", "blocks.1"), lambda: (torch.randn(B, 3, 8, 8), each())),
    "a dictionary passes": Case(Perceiver, ("blocks.0",), lambda: (tokens(), each())),
    "its own loss": Case(OwnLoss, ("lower",), labelled_twice, own_loss),
    "a block called three times": Case(Recycling, ("embed", "norm"), lambda: (torch.randn(B, 12), each())),
}
every = pytest.mark.parametrize("name", list(MODELS))


def made(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.model()


def decoupled(case: Case, model: nn.Module, **given: Any) -> sg.Decoupled:
    return sg.decouple(model, at=case.at, sample=case.sample(), loss=case.loss, optimizer=SGD, **given)


def train_plain(model: nn.Module, case: Case, steps: int) -> None:
    optimizer = SGD(list(model.parameters()))
    for seed in range(steps):
        torch.manual_seed(seed)
        *inputs, target = case.sample()
        positional, keywords = arguments(tuple(inputs))
        case.loss(model(*positional, **keywords), target).backward()
        optimizer.step()
        optimizer.zero_grad()


def train(net: sg.Decoupled, case: Case, steps: int) -> list[float]:
    losses: list[float] = []
    for seed in range(steps):
        torch.manual_seed(seed)
        *inputs, target = case.sample()
        losses.append(net.step(*inputs, target=target).loss.item())
    return losses


@every
def test_with_gradients_passing_it_ends_with_the_bits_of_the_plain_loop(name: str) -> None:
    case = MODELS[name]
    model, plain = made(case), made(case)
    net = decoupled(case, model, synthesizer=None)
    train(net, case, 3)
    train_plain(plain, case, 3)
    assert [*net.plain.state_dict()] == [*plain.state_dict()]
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@every
def test_with_synthetic_gradients_every_stage_learns(name: str) -> None:
    case = MODELS[name]
    model = made(case)
    net = decoupled(case, model)
    train(net, case, 1)  # in the first step, answers may be zero
    before = copy.deepcopy(dict(model.named_parameters()))
    assert all(torch.isfinite(torch.tensor(train(net, case, 3))))
    for stage in net.stages:
        moved = [not torch.equal(p, before[key]) for key, p in model.named_parameters() if _held(p, stage)]
        assert any(moved) or not moved, stage.name


def _held(parameter: nn.Parameter, stage: Any) -> bool:
    return any(parameter is own for own in stage.piece.parameters)


# ---- what is refused, and where it could be cut ----------------------------------------------------------------------


def refusal(model: nn.Module, at: str, sample: tuple[Any, ...]) -> str:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(sg.PartitionError) as caught:
        sg.partition(model, at=[at], sample=sample)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def test_a_tied_head_is_refused_with_both_names() -> None:
    message = refusal(gpt2(tied=True), "transformer.h.1", (tokens(),))
    assert "'transformer.wte.weight'" in message and "'lm_head.weight'" in message and "untie it" in message
    assert "nearest" not in message  # every cut would part the two


@pytest.mark.parametrize(("at", "skip", "nearest"), [("mid", "enc1", "enc1"), ("dec2", "enc1", "dec1")])
def test_a_skip_across_a_cut_is_refused_with_its_name_and_the_nearest_cut(at: str, skip: str, nearest: str) -> None:
    message = refusal(UNet(), at, (torch.randn(B, 1, 8, 8),))
    assert f"'{skip}' bypasses the cut at '{at}'" in message
    assert message.endswith(f"the nearest cut that works is '{nearest}'")


def test_a_second_tensor_without_a_row_for_each_example_is_refused() -> None:
    message = refusal(StatesToo(), "lower", (tokens(),))
    assert "more of the output of 'lower' bypasses the cut at 'lower'" in message
    assert message.endswith("the nearest cut that works is 'embed'")


def test_an_output_without_a_tensor_that_could_cross_is_refused() -> None:
    class Shapes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x.sum(0), len(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shapes, self.last = nn.Linear(12, 8), Shapes(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return self.last(h + self.shapes(h)[0])

    message = refusal(Model(), "shapes", (torch.randn(B, 12),))
    assert "'shapes' returns a tuple without a floating tensor that has a row for each of the 4 examples" in message
    assert message.endswith("the nearest cut that works is 'first'")


def test_a_block_called_three_times_cannot_be_a_cut() -> None:
    message = refusal(Recycling(), "block", (torch.randn(B, 12),))
    assert "'block' was called 3 times" in message


# ---- what people do with a model ------------------------------------------------------------------------------------


def test_frozen_stages_copies_plain_weights_and_other_types() -> None:
    """A frozen embedding below the cut, a copy, plain weights from a file, a move to double precision."""
    case = MODELS["bert"]
    model = made(case)
    for parameter in model.bert.embeddings.parameters():  # type: ignore
        parameter.requires_grad_(False)
    frozen = copy.deepcopy(model.bert.embeddings.state_dict())  # type: ignore
    net = decoupled(case, model)
    train(net, case, 2)
    assert all(torch.equal(v, frozen[k]) for k, v in model.bert.embeddings.state_dict().items())  # type: ignore
    twin = copy.deepcopy(net)
    assert train(twin, case, 2) == train(net, case, 2)
    assert twin.plain is not net.plain
    assert not net.load_state_dict(made(case).state_dict(), strict=False).unexpected_keys
    *inputs, _ = case.sample()
    positional, keywords = arguments(tuple(inputs))
    ours, theirs = net.eval()(*positional, **keywords), made(case).eval()(*positional, **keywords)
    assert torch.equal(ours.logits, theirs.logits)
    net.train().double()
    assert all(torch.isfinite(torch.tensor(train(net, case, 2))))
    with pytest.raises(sg.PartitionError, match="decoupled already"):
        decoupled(case, net)


def test_another_length_and_another_set_of_keywords_than_the_samples() -> None:
    case = MODELS["gpt-2, padded"]
    net = decoupled(case, made(case))
    longer = torch.randint(1, V, (3, 11))
    net.step(longer, sg.Keywords(attention_mask=torch.ones(3, 11).long()), target=longer)
    net.step(longer, target=longer)
    net.step(longer, sg.Keywords(position_ids=torch.arange(11).expand(3, 11)), target=longer)
    net.eval()
    assert torch.isfinite(net.step(tokens(), target=tokens()).loss)  # the mode may change between steps


def test_a_batch_may_call_experts_that_the_sample_did_not() -> None:
    model = made(MODELS["mixture of experts"])
    alike = torch.ones(B, 12)  # all to one expert
    net = sg.decouple(model, at=["lower"], sample=(alike, each()), loss=F.cross_entropy, optimizer=SGD)
    called: set[int] = set()
    for place, expert in enumerate(model.get_submodule("lower.experts").children()):
        expert.register_forward_hook(lambda *_, place=place: called.add(place))
    for _ in range(5):
        net.step(torch.randn(B, 12) * 3, target=each())
    assert len(called) > 1


def test_parameter_groups_are_made_by_the_factory() -> None:
    """No decay for biases and norms, as usual: for each stage from its own parameters."""

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        matrices, vectors = ([p for p in parameters if (p.dim() > 1) == wanted] for wanted in (True, False))
        return torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3)

    case = MODELS["gpt-2"]
    net = sg.decouple(made(case), at=case.at, sample=case.sample(), loss=case.loss, optimizer=optimizer)
    assert all(torch.isfinite(torch.tensor(train(net, case, 2))))
    assert all(len(stage.piece.optimizer.param_groups) == 2 for stage in net.stages if stage.piece.optimizer)


def test_an_optimizer_that_holds_parameters_of_two_stages_is_refused() -> None:
    case = MODELS["its own loss"]
    model = made(case)
    whole = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(sg.SynthgradError, match="2 parameters of others and without 0 of the 2 .*new"):
        sg.decouple(
            model,
            at=case.at,
            sample=case.sample(),
            loss=case.loss,
            optimizer=lambda parameters: whole,
            synthesizer=None,
        )
    with pytest.raises(sg.SynthgradError, match="0 parameters of others and without 1 of the 2"):
        sg.decouple(
            model,
            at=case.at,
            sample=case.sample(),
            loss=case.loss,
            optimizer=lambda parameters: SGD(parameters[:1]),
            synthesizer=None,
        )
