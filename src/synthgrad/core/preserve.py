"""Looking without touching: run a module and leave its buffers, and the random state, as they were."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["call_preserved", "random_preserved"]


def call_preserved(module: nn.Module, *args: Any) -> Any:
    """`module(*args)`, on copies of its buffers: BatchNorm's statistics, say, do not learn from this pass.

    The originals are put aside, not restored by copying: autograd may have saved them, and would see them change.
    """
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, copies, args) if copies else module(*args)


@contextmanager
def random_preserved(tensors: list[Tensor]) -> Generator[None]:
    """Restore the random state of the CPU, and of the devices that hold the tensors."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        yield
