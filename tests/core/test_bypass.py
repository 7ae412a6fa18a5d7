"""What goes round a cut is found, and named: on the sample at hand, and on samples where it would not show."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthgrad.core.boundary import cut
from synthgrad.core.bypass import expect_no_bypass, expect_state_apart
from synthgrad.core.errors import PartitionError, Verdict
from synthgrad.core.partition import partition
from synthgrad.core.piece import Slice
from synthgrad.core.recording import record


def refused(model: nn.Module, at: list[str], sample: tuple[Any, ...], *words: str) -> PartitionError:
    with pytest.raises(PartitionError) as caught:
        partition(model, at=at, sample=sample)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    return caught.value


class Around(nn.Module):
    """A functional residual around `b`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(torch.relu(self.b(h)) + h)


def test_a_functional_residual_around_a_cut_is_refused_and_its_source_named() -> None:
    error = refused(Around(), ["b"], (torch.randn(5, 4),), "output of 'a'", "bypasses the cut at 'b'")
    assert error.verdict is Verdict.NOT_YET
    assert partition(Around(), at=["a", "c"], sample=(torch.randn(5, 4),)).names == ("a", "c")


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down1(x))
        h = torch.relu(self.middle(torch.relu(self.down2(skip))))
        return self.head(torch.cat([skip, self.up(h)], 1))


@pytest.mark.parametrize("at", ["down2", "middle", "up"])
def test_the_skip_of_a_u_net_is_refused_and_its_source_named(at: str) -> None:
    refused(UNet(), [at], (torch.randn(3, 2, 8, 8),), "output of 'down1'", f"bypasses the cut at {at!r}")


class PadMask(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens == 0


class Lengths(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return (tokens == 0).sum(1)


class Learned(nn.Module):
    """A mask that has a weight, which is the first stage's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        return (tokens == 0) * self.weight


class Counted(PadMask):
    """A mask that remembers, so that whoever makes it again changes something."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(tokens)


class Dropped(nn.Module):
    """Dice that two stages would throw for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.drop((tokens == 0).float())


class Masked(nn.Module):
    def __init__(self, maker: nn.Module) -> None:
        super().__init__()
        self.maker, self.embed = maker, nn.Embedding(11, 4)
        self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = self.maker(tokens)  # (B, T) or (B,)
        h = self.block(self.embed(tokens)).cumsum(1)
        return self.head(h * (1.0 - mask.float().view(len(tokens), -1, 1)))


UNMASKED = (torch.randint(1, 11, (3, 5)),)  # no padding: the mask is all zeros, as a stub's would be


@pytest.mark.parametrize("maker", [PadMask(), Lengths()], ids=["booleans", "integers"])
def test_a_mask_that_the_batch_alone_decides_is_made_again_behind_the_cut(maker: nn.Module) -> None:
    model = Masked(maker)
    parts = partition(model, at=["block"], sample=UNMASKED)
    for rows, steps in ((3, 5), (2, 7)):
        inputs = (torch.randint(0, 3, (rows, steps)),)  # with padding
        h = parts.pieces[0](inputs, None)
        assert torch.equal(parts.pieces[1](inputs, h), model(*inputs))
    assert [len(own) for own in parts.parameters] == [3, 2]


@pytest.mark.parametrize("maker", [Learned(), Counted(), Dropped()], ids=["weights", "a state", "dice"])
def test_a_mask_that_takes_more_than_the_batch_is_refused_also_if_the_sample_masks_nothing(maker: nn.Module) -> None:
    refused(Masked(maker), ["block"], UNMASKED, "output of 'maker", "bypasses the cut at 'block'")


def test_what_could_be_made_again_but_from_what_is_before_the_cut_is_refused() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.b, self.c = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.act(self.a(x))
            return self.c(self.b(h) + h)

    refused(Around(), ["b"], (torch.randn(5, 4),), "output of 'a' bypasses the cut at 'b'")


class Stateful(nn.Module):
    """Contains the cut, and counts its own calls: in a buffer, in an attribute, or nowhere."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.a, self.b, self.where, self.calls = nn.Linear(4, 4), nn.Linear(4, 3), where, 0
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "count":
            self.count += 1
        if self.where == "calls":
            self.calls += 1
        return self.b(self.a(x))


@pytest.mark.parametrize("where", ["count", "calls"])
def test_a_state_that_every_piece_would_change_is_refused_by_name(where: str) -> None:
    refused(
        Stateful(where), ["a"], (torch.randn(5, 4),), f"the {'buffer' if where == 'count' else 'attribute'} {where!r}"
    )
    assert len(partition(Stateful("nowhere"), at=["a"], sample=(torch.randn(5, 4),)).pieces) == 2


def test_pieces_of_a_chain_have_no_way_round() -> None:
    layers = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)]
    model, sample = nn.Sequential(*layers), (torch.randn(5, 4),)
    recording = record(model, sample, keep=True)
    pieces = [Slice(nn.Sequential(*layers[:2])), Slice(nn.Sequential(layers[2]))]
    edge = cut(recording.calls["1"][0].output)
    expect_no_bypass(pieces, ["1"], [edge], sample, recording)
    expect_state_apart(model, pieces, sample, recording)  # BatchNorm's statistics are its own stage's
