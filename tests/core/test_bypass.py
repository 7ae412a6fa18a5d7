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


@pytest.mark.parametrize("maker", [PadMask(), Lengths()], ids=["booleans", "integers"])
def test_a_mask_from_a_submodule_before_the_cut_is_refused_also_if_the_sample_masks_nothing(maker: nn.Module) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker, self.embed = maker, nn.Embedding(11, 4)
            self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            mask = self.maker(tokens)  # (B, T) or (B,)
            h = self.block(self.embed(tokens)).cumsum(1)
            return self.head(h * (1.0 - mask.float().view(len(tokens), -1, 1)))

    model = Masked()
    sample = (torch.randint(1, 11, (3, 5)),)  # no padding: the mask is all zeros, as a stub's would be
    refused(model, ["block"], sample, "output of 'maker'", "bypasses the cut at 'block'")


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
