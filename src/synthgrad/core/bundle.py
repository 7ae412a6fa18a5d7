"""Several tensors that cross one cut, as one: whatever stands at the cut sees a single activation.

a submodule returns                 crosses the cut   the piece behind it finds
(h (B, T, D), c (B, T, E))          (B, T, D + E)     (h, c)
{"x": (B, D), "map": (B, C, H, W)}  (B, D + C*H*W)    {"x": ..., "map": ...}
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.errors import ShapeError

__all__ = ["Bundle"]


@dataclass(frozen=True)
class Bundle:
    """Which tensors of a submodule's output cross the cut behind it, and how they become one and are parted again.

    Attributes:
        leaves: their places in the tree that the submodule returns.
        dim: along which they are joined; None: each one's rows are laid flat first, (B, D). One alone stays as it is.
    """

    leaves: tuple[int, ...]
    dim: int | None = None

    @classmethod
    def of(cls, output: Any, leaves: tuple[int, ...]) -> "Bundle":
        """Joined along their features where they agree in all else: channels of (B, C, H, W), else what comes last.

        Failing that, along another dimension in which alone they differ, such as the time of (B, T, D). What the sample
        shows is kept for all batches.
        """
        tensors = _chosen(output, leaves)
        dims = tensors[0].dim()
        fitting = (dim for dim in (1 if dims == 4 else dims - 1, *range(1, dims)) if _agree(tensors, dim))
        return cls(leaves, next(fitting, None))

    def tensors(self, output: Any) -> list[Tensor]:
        """Those that cross, of all that the submodule returned."""
        return _chosen(output, self.leaves)

    def pack(self, output: Any) -> Tensor:
        """Those tensors of all that the submodule returned, as one (B, ...), of the widest of their types.

        Raises:
            ShapeError: they differ where in the sample they agreed.
        """
        return self.join(self.tensors(output))

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """As `pack`, of the tensors themselves."""
        if len(tensors) == 1:
            return tensors[0]
        if self.dim is None:
            return torch.cat([_whole_gradient(one).flatten(1) for one in tensors], 1)
        if not _agree(tensors, self.dim):
            raise ShapeError(
                f"got tensors of shapes {', '.join(str(tuple(one.shape)) for one in tensors)} at one cut, expected "
                f"them to agree in all dimensions but {self.dim}, as in the sample; pass a sample in which they differ"
            )
        return torch.cat([_whole_gradient(one) for one in tensors], self.dim)

    def unpack(self, packed: Tensor, like: Any) -> Any:
        """What the submodule returned: these tensors in their places, and whatever `like` has in the others.

        Args:
            packed: what `pack` made.
            like: a tree such as the submodule returns, with tensors of the shapes and types to part into.
        """
        leaves, structure = pytree.tree_flatten(like)
        for place, tensor in zip(self.leaves, self._part(packed, self.tensors(like)), strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, structure)

    def _part(self, packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        if len(like) == 1:
            return [packed]
        widths = [math.prod(one.shape[1:]) if self.dim is None else one.shape[self.dim] for one in like]
        starts = [sum(widths[:index]) for index in range(len(widths))]
        # One view each, not `split`: autograd lets nobody write into one of several views of the same tensor.
        views = [packed.narrow(self.dim or 1, start, width) for start, width in zip(starts, widths, strict=True)]
        return [view.reshape(one.shape).contiguous().to(one.dtype) for view, one in zip(views, like, strict=True)]


def _whole_gradient(tensor: Tensor) -> Tensor:
    """The same; its gradient will not be a view of the bundle's, over which sums would run in another order."""
    view = tensor.view_as(tensor)
    if view.requires_grad:
        view.register_hook(Tensor.contiguous)
    return view


def _agree(tensors: Sequence[Tensor], dim: int) -> bool:
    """Whether they could be joined along this dimension."""
    return len({(one.dim(), *one.shape[:dim], *one.shape[dim + 1 :]) for one in tensors}) == 1


def _chosen(tree: Any, places: Sequence[int]) -> list[Tensor]:
    leaves = pytree.tree_leaves(tree)
    return [leaves[place] for place in places]
