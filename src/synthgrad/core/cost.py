"""What something costs, counted and not timed: its arithmetic, and the bytes that autograd saves for its backward pass.

Arithmetic is that of matrix products and convolutions, by torch's own formulas; and of solving equations by Cholesky's
factorization, for which torch has none.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["arithmetic_of", "saved_by"]

# Golub and Van Loan, Matrix Computations: n^3 / 3 for the factor, and 2 n^2 for each right-hand side.
_SOLVING: dict[Any, Callable[..., float]] = {
    torch.ops.aten.linalg_cholesky_ex: lambda matrix, **_: matrix.shape[-1] * matrix.numel() / 3,
    torch.ops.aten.cholesky_solve: lambda sides, factor, **_: 2 * sides.numel() * factor.shape[-1],
}


def arithmetic_of(run: Callable[[], Any]) -> int:
    """Floating point operations of `run()`."""
    with _Counter() as counter:
        run()
    return counter.operations


class _Counter(TorchDispatchMode):
    """Without the hooks of torch's `FlopCounterMode`, which do not bear a gradient taken by itself."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if (formula := flop_registry.get(packet)) is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        elif packet in _SOLVING:
            self.operations += round(_SOLVING[packet](*args, **(kwargs or {})))
        return out


def saved_by(run: Callable[[], Any], without: Iterable[Tensor]) -> int:
    """Bytes of distinct storages that autograd saves while `run()` goes on.

    Args:
        run: returns what holds the graph.
        without: tensors that are there anyhow, such as parameters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in without}
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # what is saved must not go before the end: its place would be taken again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = run()
    del graph
    return sum(found.values())
