"""A state: whatever a recurrent net carries from one step to the next, a tree of tensors.

Legend: B sequences, S features of the whole state (for an LSTM those of h and c, of all layers).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.errors import StateError

__all__ = ["Layout", "State", "map_state"]

State = Any  # a tensor, or any tree of tensors: (h, c), a dict, a list of layers


@dataclass(frozen=True)
class Layout:
    """How a state is laid out: its tree, and shape and type of each leaf.

    Attributes:
        tree: the tree without its leaves.
        shapes: of each leaf, without B.
        dtypes: of each leaf. Those that are not floating (a counter, a mask) are carried on, but have no gradient.
        batch_dim: the dimension of every leaf in which the sequences lie.
    """

    tree: pytree.TreeSpec
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    batch_dim: int

    @classmethod
    def of(cls, state: State, batch_dim: int | None = None) -> "Layout":
        """The layout of a state.

        Args:
            state: a tree of tensors.
            batch_dim: where the sequences lie. If not given, 1 where all leaves have three dimensions, as those of
                `nn.LSTM` (layers, B, H); else 0, as those of the cells (B, H).

        Raises:
            StateError: a leaf is no tensor or has no such dimension, none is floating, or they disagree on B.
        """
        leaves, tree = pytree.tree_flatten(state)
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise StateError(f"state: got {_said(state)}, expected a tree of tensors; start with zeros")
        if batch_dim is None:
            batch_dim = 1 if all(leaf.dim() == 3 for leaf in leaves) else 0
        if any(leaf.dim() <= batch_dim for leaf in leaves):
            raise StateError(f"state: got {_said(state)}, expected the sequences in dimension {batch_dim}; {_REMEDY}")
        shapes = tuple(_without(leaf.shape, batch_dim) for leaf in leaves)
        layout = cls(tree, shapes, tuple(leaf.dtype for leaf in leaves), batch_dim)
        if not any(dtype.is_floating_point for dtype in layout.dtypes):
            raise StateError(f"state: got {_said(state)}, expected a floating tensor: nothing here has a gradient")
        layout.rows(state)
        return layout

    @property
    def features(self) -> int:
        """S: the size of a row, all floating leaves together."""
        return sum(
            shape.numel() for shape, dtype in zip(self.shapes, self.dtypes, strict=True) if dtype.is_floating_point
        )

    def count(self, state: State) -> int:
        """B."""
        return pytree.tree_leaves(state)[0].shape[self.batch_dim]

    def rows(self, state: State) -> Tensor:
        """The floating leaves of a state, side by side, (B, S), with their graph.

        Raises:
            StateError: the state is laid out in another way, or its leaves disagree on B.
        """
        self.check(state)
        leaves = [leaf for leaf in pytree.tree_leaves(state) if leaf.is_floating_point()]
        if len({leaf.shape[self.batch_dim] for leaf in leaves}) > 1:
            raise StateError(f"state: got {_said(state)}, expected as many sequences in each; {_REMEDY}")
        parts = [leaf.movedim(self.batch_dim, 0).flatten(1) for leaf in leaves]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def check(self, state: State) -> None:
        """Raise `StateError` if the state is not laid out so."""
        leaves, tree = pytree.tree_flatten(state)
        same = tree == self.tree and all(
            isinstance(leaf, Tensor)
            and leaf.dtype == dtype
            and leaf.dim() > self.batch_dim
            and _without(leaf.shape, self.batch_dim) == shape
            for leaf, shape, dtype in zip(leaves, self.shapes, self.dtypes, strict=True)
        )
        if not same:
            raise StateError(
                f"state: got {_said(state)}, expected {self._said()} as before; a net must give back a state of the "
                f"tree, shapes and types that it was given; after a change of precision, begin anew"
            )

    def restarted(self, state: State, ends: Tensor, initial: Callable[[int], State] | None = None) -> State:
        """The state with the rows of ended sequences begun anew: with zeros, or as `initial(B)` says.

        Args:
            state: as laid out here.
            ends: (B,), bool.
            initial: gives a state for so many sequences.
        """
        leaves = pytree.tree_leaves(state)
        fresh = [torch.zeros_like(leaf) for leaf in leaves]
        if initial is not None:
            begun = initial(self.count(state))
            self.check(begun)
            fresh = [leaf.detach() for leaf in pytree.tree_leaves(begun)]
        chosen = [
            torch.where(_along(ends.to(leaf.device), leaf, self.batch_dim), new, leaf)
            for new, leaf in zip(fresh, leaves, strict=True)
        ]
        return pytree.tree_unflatten(chosen, self.tree)

    def _said(self) -> str:
        named = [f"{_short(dtype)}{list(shape)}" for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]
        return f"{', '.join(named)} for each sequence"


_REMEDY = "pass batch_dim= (1 for the states of nn.LSTM, nn.GRU and nn.RNN, 0 for those of their cells)"


def map_state(function: Callable[[Tensor], Any], state: State) -> State:
    """The function of each leaf, in the same tree."""
    return pytree.tree_map(function, state)


def _without(shape: torch.Size, dim: int) -> torch.Size:
    return torch.Size([*shape[:dim], *shape[dim + 1 :]])


def _along(ends: Tensor, leaf: Tensor, dim: int) -> Tensor:
    """(B,) as (1, B, 1), say: it holds for all features of a row."""
    return ends.view([-1 if place == dim else 1 for place in range(leaf.dim())])


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _said(state: State) -> str:
    leaves = pytree.tree_leaves(state)
    named = (
        f"{_short(leaf.dtype)}{list(leaf.shape)}" if isinstance(leaf, Tensor) else repr(leaf)[:40] for leaf in leaves
    )
    return f"{type(state).__name__}({', '.join(named)})"
