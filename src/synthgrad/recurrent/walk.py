"""A walk: one way to take nets of all kinds over a stretch of time.

Legend: B sequences, T steps.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.errors import ShapeError, StateError
from synthgrad.core.preserve import random_preserved
from synthgrad.recurrent.state import State

__all__ = ["Walk"]


class Walk:
    """Takes a net over a stretch of time, at once where it takes sequences, else step by step.

    Args:
        module: an `nn.LSTM`, `nn.GRU` or `nn.RNN`, one of their cells, or any `(input, state) -> (output, state)`.
        batch_first: the stretch is (B, T, ...), else (T, B, ...); torch's own nets know it themselves.
        each_step: the module takes one step (B, ...) at a time; cells do.
    """

    def __init__(self, module: nn.Module, *, batch_first: bool | None = None, each_step: bool = False) -> None:
        if isinstance(module, nn.RNNBase):
            if batch_first not in (None, module.batch_first):
                raise ShapeError(
                    f"batch_first={batch_first}: the module has batch_first={module.batch_first}; leave it out"
                )
            batch_first = module.batch_first
        self.module = module
        self.is_cell = isinstance(module, nn.RNNCellBase)
        self.each_step = each_step or self.is_cell
        self.time_dim = 1 if batch_first else 0

    def __call__(self, stretch: Any, state: State | None) -> tuple[Any, State]:
        """The outputs, laid out as the stretch, and the state behind its last step."""
        if not self.each_step:
            return self._pair(self.module(stretch, state))
        outputs = []
        for step in range(self.size(stretch)[0]):
            taken = pytree.tree_map(lambda leaf, step=step: leaf.select(self.time_dim, step), stretch)
            output, state = self._step(taken, state)
            outputs.append(output)
        return pytree.tree_map(lambda *leaves: torch.stack(leaves, self.time_dim), *outputs), state

    def size(self, stretch: Any) -> tuple[int, int]:
        """T and B. Raises `ShapeError` where a tensor has no such dimensions, or they disagree."""
        leaves = [leaf for leaf in pytree.tree_leaves(stretch) if isinstance(leaf, Tensor)]
        sizes = {(leaf.shape[self.time_dim], leaf.shape[1 - self.time_dim]) for leaf in leaves if leaf.dim() > 1}
        if len(sizes) != 1 or any(leaf.dim() < 2 for leaf in leaves) or 0 in next(iter(sizes)):
            order = "(B, T, ...)" if self.time_dim else "(T, B, ...)"
            got = ", ".join(str(tuple(leaf.shape)) for leaf in leaves) or "no tensor"
            raise ShapeError(
                f"chunk: got {got}, expected {order} with at least one step and one sequence; "
                f"pass batch_first= if the dimensions stand the other way"
            )
        return next(iter(sizes))

    def part(self, stretch: Any, low: int, high: int) -> Any:
        """The steps from `low` to below `high`, a view."""
        return pytree.tree_map(lambda leaf: leaf.narrow(self.time_dim, low, high - low), stretch)

    def join(self, first: Any, second: Any) -> Any:
        """Two stretches, one behind the other."""
        return pytree.tree_map(lambda *leaves: torch.cat(leaves, self.time_dim), first, second)

    def sample(self) -> Tensor:
        """A stretch of zeros, to try torch's own nets with.

        Raises:
            StateError: the module is none of them.
        """
        if not isinstance(self.module, nn.RNNBase | nn.RNNCellBase):
            raise StateError(
                f"{type(self.module).__name__}: how its state is laid out is not known before it has run; pass "
                f"sample=, a chunk of the stream"
            )
        return next(self.module.parameters()).new_zeros(2, 2, self.module.input_size)

    def state_of(self, stretch: Any, initial: Callable[[int], State] | None) -> State:
        """The state behind a stretch, of a net that is tried out and left as it is.

        Args:
            stretch: to try it with.
            initial: `initial(B)`, the state to begin with; None where that is zeros, which None must stand for.

        Raises:
            StateError: the net keeps a state of its own, or begins with another one than zeros, unknown to us.
        """
        tried = _Tried(self)
        buffers = {name: buffer.clone() for name, buffer in tried.named_buffers()}

        def run(state: State | None) -> tuple[Any, State]:
            with torch.no_grad(), random_preserved(_tensors(stretch)):
                return torch.func.functional_call(tried, buffers, (stretch, state))

        begin = None if initial is None else initial(self.size(stretch)[1])
        (output, state), (again, _) = run(begin), run(begin)
        name = type(self.module).__name__
        if not _same(output, again):
            raise StateError(
                f"{name}: the same steps from the same state gave another output the second time: it keeps a state of "
                f"its own; let it take and give back all it carries on: (input, state) -> (output, state)"
            )
        if initial is None:
            zeros = pytree.tree_map(torch.zeros_like, state)
            if not _same(output, run(zeros)[0]):
                raise StateError(
                    f"{name}: begins, for state None, with something else than zeros, and sequences that end could not "
                    f"begin anew; pass initial=, a function of B that gives that state"
                )
        return state

    def _step(self, taken: Any, state: State | None) -> tuple[Any, State]:
        if not self.is_cell:
            return self._pair(self.module(taken, state))
        state = self.module(taken, state)
        return (state[0] if isinstance(state, tuple) else state), state

    def _pair(self, given: Any) -> tuple[Any, State]:
        if not isinstance(given, tuple) or len(given) != 2:
            raise StateError(
                f"{type(self.module).__name__}: got {type(given).__name__} back, expected (output, state); wrap a "
                f"module that carries nothing on in one that does"
            )
        return given


class _Tried(nn.Module):
    """The walk as a module, so that its buffers can stand on trial."""

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self.module = walk.module
        self.walk = walk

    def forward(self, stretch: Any, state: State | None) -> tuple[Any, State]:
        return self.walk(stretch, state)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_tensors(one), _tensors(other), strict=True))
