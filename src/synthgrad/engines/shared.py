"""Memory of one process into which another one of the same machine writes.

A socket copies what goes through it twice, and keeps a thread busy at both ends. Where the sender can open the
receiver's memory, it writes a message's content into the buffer that stands ready there, and only the header takes the
socket, behind it.

    receiver                                          sender
    offer: buffer in place 3 for message 7, 1 MB      find: what stands ready for message 7, if that is large enough

Both look at one file, which has no name and so goes with the last process that has it open:

    | board | place 0 | place 1 | ...                 far apart: what nobody has touched takes no memory

Nobody waits for the board. What does not stand on it when a message is sent, or is half written, or too small, goes
through the socket like everything that goes to another machine.
"""

import mmap
import os
import secrets
import struct
import weakref
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Address", "OwnMemory", "PeerMemory"]

STRIDE = 1 << 40  # bytes from one place to the next
WRITTEN = 0x5347  # "SG": nothing that was never written agrees with it
_OFFER = struct.Struct("<4q")  # number of the message, place, size, and a number that all three make


class Address(NamedTuple):
    """Where another process of the machine finds the file.

    Attributes:
        process: its owner's number.
        descriptor: of the file, in its owner.
        token: a part of its name that no other one has; 0: there is no such file.
    """

    process: int = 0
    descriptor: int = 0
    token: int = 0


class OwnMemory:
    """The receiver's side.

    Args:
        places: how many buffers there may be; of them, those for so many messages may stand ready.

    Raises:
        OSError: the system has no such memory.
    """

    def __init__(self, places: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("memory that has no name is known to Linux alone")
        token = 1 + secrets.randbits(62)
        self._file = os.memfd_create(_name(token))
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, (1 + places) * STRIDE)
        self._board = mmap.mmap(self._file, _OFFER.size * places)
        self.address = Address(os.getpid(), self._file, token)

    def make(self, place: int, size: int) -> np.ndarray:
        """Memory for the buffer in this place, uint8 (size,); what lay there before may be the same memory."""
        return _map(self._file, (1 + place) * STRIDE, size)

    def offer(self, number: int, place: int, size: int) -> None:
        """Tell the sender that the buffer in this place stands ready for the message of this number."""
        start = number * _OFFER.size % len(self._board)
        _OFFER.pack_into(self._board, start, number, place, size, _check(number, place, size))


class PeerMemory:
    """The sender's side.

    Args:
        address: the receiver's.
        places: as there.

    Raises:
        OSError: it cannot be opened; the receiver may be on another machine.
    """

    def __init__(self, address: Address, places: int) -> None:
        path = f"/proc/{address.process}/fd/{address.descriptor}"
        if not address.token or _name(address.token) not in os.readlink(path):
            raise FileNotFoundError(path)  # or another process's file, of the same number
        self._file = os.open(path, os.O_RDWR)
        weakref.finalize(self, os.close, self._file)
        self._board = mmap.mmap(self._file, _OFFER.size * places)
        self._places: dict[int, np.ndarray] = {}

    def find(self, number: int, size: int) -> Tensor | None:
        """The beginning of the buffer that stands ready for this message, uint8 (size,); None: send it."""
        wanted, place, room, check = _OFFER.unpack_from(self._board, number * _OFFER.size % len(self._board))
        if wanted != number or room < size or check != _check(number, place, room):
            return None
        memory = self._places.get(place)
        if memory is None or memory.size < room:
            memory = self._places[place] = _map(self._file, (1 + place) * STRIDE, room)
        return torch.from_numpy(memory[:size])


def _check(number: int, place: int, size: int) -> int:
    return number ^ place << 40 ^ size ^ WRITTEN


def _name(token: int) -> str:
    return f"synthgrad-{token:x}"


def _map(file: int, start: int, size: int) -> np.ndarray:
    """So many bytes of the file, uint8 (size,)."""
    return np.frombuffer(mmap.mmap(file, size, offset=start), dtype=np.uint8)
