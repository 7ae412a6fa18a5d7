"""Numbers that tell in a moment whether two processes hold the same: a batch, weights, a plan."""

import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.batch import Batch

__all__ = ["digest_of_batch", "digest_of_tensors"]

LOOKED_AT = 1024  # elements of each tensor of a batch, evenly spread: a digest is made at every step


def digest_of_batch(batch: Batch) -> int:
    """Of shapes, dtypes, and some elements of all tensors: another order of the examples gives another number."""
    digest = zlib.crc32(f"{batch.rows} {batch.count}".encode())
    leaves = pytree.tree_leaves((batch.inputs, batch.target, batch.context.labels, batch.context.index))
    for leaf in {id(leaf): leaf for leaf in leaves}.values():  # the labels are mostly the target
        digest = _add(digest, leaf, LOOKED_AT)
    return digest


def digest_of_tensors(tensors: Iterable[Tensor]) -> int:
    """Of shapes, dtypes and every element."""
    digest = 0
    for tensor in tensors:
        digest = _add(digest, tensor, None)
    return digest


def _add(digest: int, leaf: Any, most: int | None) -> int:
    if not isinstance(leaf, Tensor):
        return zlib.crc32(repr(leaf).encode(), digest) if isinstance(leaf, int | float | str | None) else digest
    digest = zlib.crc32(f"{leaf.dtype} {tuple(leaf.shape)}".encode(), digest)
    elements = leaf.detach().reshape(-1)
    if most is not None:
        elements = elements[:: leaf.numel() // most | 1]  # an odd stride: it does not stay in one column of an image
    return zlib.crc32(elements.cpu().contiguous().view(torch.uint8).numpy().tobytes(), digest)
