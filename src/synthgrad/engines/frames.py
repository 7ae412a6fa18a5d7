"""Memory for frames, lent again when nothing lies in it any more.

Fresh memory of this size costs more than what is written into it: the system hands it out page by page, each at its
first touch, and cleared. Whether something lies in it is for the memory itself to say: a frame's tensors, and whatever
autograd saves of them, share one storage, which lets go of what it was made from when the last of them has gone.
"""

import weakref

import numpy as np
import torch
from torch import Tensor

__all__ = ["Frames"]


class Frames:
    """Frames of bytes; while anything lies in one, its memory is nobody else's.

    Args:
        most: how many pieces of memory are kept; what is needed beyond that is fresh, and given back to the system.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []  # and to whom it is lent

    def take(self, size: int) -> Tensor:
        """A frame of `size` bytes, uint8 (size,), that begins at a multiple of 64 bytes; what stands in it is noise."""
        free = [place for place, (_, lent) in enumerate(self._kept) if lent() is None]
        place = free[0] if free else len(self._kept)
        memory = self._kept[place][0] if free else None
        if memory is None or memory.size < size:
            memory = torch.empty(size, dtype=torch.uint8).numpy()  # torch's begins where kernels want it
        frame = memory[:size]
        if place < self._most:
            self._kept[place : place + 1] = [(memory, weakref.ref(frame))]
        return torch.from_numpy(frame)

    def __len__(self) -> int:
        """How many pieces of memory are kept."""
        return len(self._kept)
