"""Looking without touching: run a module and leave its buffers, and the random state, as they were."""

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["call_preserved", "random_preserved", "uncompiled"]


def call_preserved(module: nn.Module, *args: Any, **keywords: Any) -> Any:
    """`module(*args, **keywords)`, on copies of its buffers: BatchNorm's statistics, say, do not learn from this pass.

    The originals are put aside, not restored by copying: autograd may have saved them, and would see them change.
    """
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, copies, args, keywords) if copies else module(*args, **keywords)


@contextmanager
def random_preserved(tensors: list[Tensor]) -> Generator[None]:
    """Restore the random state of the CPU, and of the devices that hold the tensors."""
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        yield


def uncompiled() -> AbstractContextManager[Any]:
    """Run modules that torch compiles as they are written: what looks at them with hooks is then called, always.

    Hooks on a module inside a compiled one are compiled along with it, and never if they come later.
    """
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled; and importing it takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
