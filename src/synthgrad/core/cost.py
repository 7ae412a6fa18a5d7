"""What something costs, counted and not timed: its arithmetic, and the bytes that autograd saves for its backward pass.

Arithmetic is that of matrix products and convolutions, by torch's own formulas.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["arithmetic_of", "saved_by"]


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
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
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
