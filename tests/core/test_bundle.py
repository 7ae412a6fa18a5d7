"""Several tensors as one: parted again they are the same, bit for bit, and so are their gradients."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.core.bundle import Bundle
from synthgrad.core.errors import ShapeError


def unlike(tree: dict[str, Any]) -> dict[str, Any]:
    """The same shapes and types, with other values."""
    return {name: torch.full_like(one, 7.0) if isinstance(one, Tensor) else one for name, one in tree.items()}


@st.composite
def trees(draw: st.DrawFn) -> list[Tensor]:
    """Tensors with a row for each of B examples, which may or may not agree in all but one dimension."""
    rows, seed = draw(st.integers(1, 4)), draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    shapes = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
    types = draw(st.lists(st.sampled_from([torch.float32, torch.float64]), min_size=len(shapes), max_size=len(shapes)))
    drawn = zip(shapes, types, strict=True)
    return [torch.randn(rows, *shape, generator=generator, dtype=dtype) for shape, dtype in drawn]


@given(trees())
def test_what_is_packed_is_found_again_with_its_gradients(tensors: list[Tensor]) -> None:
    tree: dict[str, Any] = {f"{place}": one for place, one in enumerate(tensors)} | {"size": 3, "sum": torch.zeros(())}
    bundle = Bundle.of(tree, tuple(range(len(tensors))))
    packed = bundle.pack(tree)
    assert packed.shape[0] == len(tensors[0]) and packed.numel() == sum(one.numel() for one in tensors)

    leaf = packed.detach().requires_grad_()
    found = bundle.unpack(leaf, unlike(tree))
    assert found["size"] == 3
    parted = [found[f"{place}"] for place in range(len(tensors))]
    for ours, theirs in zip(parted, tensors, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    products = [(one * theirs).sum().double() for one, theirs in zip(parted, tensors, strict=True)]
    torch.stack(products).sum().backward()
    assert leaf.grad is not None and torch.equal(leaf.grad, packed)


@pytest.mark.parametrize(
    ("shapes", "whole"),
    [
        ([(2, 5)], (2, 5)),
        ([(2, 5), (2, 3)], (2, 8)),
        ([(2, 4, 5), (2, 4, 3)], (2, 4, 8)),
        ([(2, 4, 5), (2, 4, 5)], (2, 4, 10)),
        ([(2, 4, 5), (2, 7, 5)], (2, 11, 5)),
        ([(2, 4, 6, 6), (2, 3, 6, 6)], (2, 7, 6, 6)),
        ([(2, 4, 6, 6), (2, 4, 6, 3)], (2, 4, 6, 9)),
        ([(2, 4, 6, 6), (2, 4)], (2, 148)),
        ([(2, 4, 5), (2, 3, 6)], (2, 38)),
    ],
)
def test_joined_along_features_else_where_alone_they_differ_else_flat(
    shapes: list[tuple[int, ...]], whole: tuple[int, ...]
) -> None:
    tensors = [torch.randn(shape) for shape in shapes]
    assert Bundle.of(tensors, tuple(range(len(tensors)))).pack(tensors).shape == whole


def test_one_tensor_alone_is_not_copied() -> None:
    pair = (torch.randn(2, 3), torch.randn(2, 4))
    assert Bundle.of(pair, (1,)).pack(pair) is pair[1]


def test_what_comes_out_can_be_written_into() -> None:
    pair = (torch.randn(2, 3), torch.randn(2, 4))
    bundle = Bundle.of(pair, (0, 1))
    leaf = bundle.pack(pair).requires_grad_()
    first, second = bundle.unpack(leaf * 1.0, pair)
    (first.mul_(2.0).sum() + second.add_(1.0).sum()).backward()
    assert leaf.grad is not None and leaf.grad[0].tolist() == [2.0] * 3 + [1.0] * 4


def test_tensors_that_agreed_in_the_sample_alone_are_refused() -> None:
    bundle = Bundle.of((torch.randn(2, 4, 5), torch.randn(2, 4, 5)), (0, 1))  # both sequences had 4 steps
    with pytest.raises(ShapeError, match=r"\(2, 6, 5\), \(2, 3, 5\).*all dimensions but 2.*pass a sample in which"):
        bundle.pack((torch.randn(2, 6, 5), torch.randn(2, 3, 5)))
