"""Memory for frames, lent again when nothing lies in it any more.

Fresh memory of this size costs more than what is written into it: the system hands it out page by page, each at its
first touch, and cleared. Whether something lies in it is for the memory itself to say: a frame's tensors, and whatever
autograd saves of them, share one storage, which lets go of what it was made from when the last of them has gone.
"""

import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Frame", "Frames", "ordinary"]


class Frame(NamedTuple):
    """A frame that is lent.

    Attributes:
        bytes: uint8 (size,), from a multiple of 64 bytes on; what stands in it is noise.
        place: of its memory among those that are kept; None: it is not kept.
    """

    bytes: Tensor
    place: int | None


def ordinary(_place: int | None, size: int) -> np.ndarray:
    """Memory of this process alone."""
    return torch.empty(size, dtype=torch.uint8).numpy()  # torch's begins where kernels want it


class Frames:
    """Frames of bytes; while anything lies in one, its memory is nobody else's.

    Args:
        most: how many pieces of memory are kept; what is needed beyond that is fresh, and given back to the system.
        make: gives the memory for a place, uint8, of so many bytes or more; it may be what was there before.
    """

    def __init__(self, most: int, make: Callable[[int, int], np.ndarray] = ordinary) -> None:
        self._most, self._make = most, make
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []  # and to whom it is lent

    def take(self, size: int) -> Frame:
        """A frame of `size` bytes."""
        free = [place for place, (_, lent) in enumerate(self._kept) if lent() is None]
        place = free[0] if free else len(self._kept)
        if place >= self._most:
            return Frame(torch.from_numpy(ordinary(None, size)), None)
        memory = self._kept[place][0] if free else None
        if memory is None or memory.size < size:
            memory = self._make(place, size)
        frame = memory[:size]
        self._kept[place : place + 1] = [(memory, weakref.ref(frame))]
        return Frame(torch.from_numpy(frame), place)

    def __len__(self) -> int:
        """How many pieces of memory are kept."""
        return len(self._kept)
