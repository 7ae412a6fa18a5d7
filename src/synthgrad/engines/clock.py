"""Whose clock: how far the clocks of several processes are apart, so that what they wrote can be laid side by side.

Processes of one machine share the clock that `time.perf_counter` reads. Between machines its zero differs, and is
estimated as NTP does (Mills 1991, RFC 1305): what the other clock showed, against the middle of asking and hearing.
"""

import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from synthgrad.core.errors import TransportError

__all__ = ["machine", "offset_to_first"]

ROUNDS = 8  # of which the fastest counts: it was held up the least


def machine() -> str:
    """The same for all processes that share a clock: since this start of the machine."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()


def offset_to_first(rank: int, group: Any = None) -> tuple[float, float]:
    """How many seconds rank 0's clock is ahead of this one, and by how many that may be wrong; collective.

    Args:
        rank: of this process.
        group: the gloo process group of all; the default one if not given.

    Raises:
        TransportError: a rank is gone, or does not come in time.
    """
    found = (0.0, 0.0)
    said = torch.zeros(1, dtype=torch.float64)
    try:
        for other in range(1, dist.get_world_size(group)):
            if rank == 0:
                for _ in range(ROUNDS):
                    dist.recv(said, other, group)
                    dist.send(said.fill_(time.perf_counter()), other, group)
            elif rank == other:
                found = min((_round(said, group) for _ in range(ROUNDS)), key=lambda one: one[1])
    except RuntimeError as error:
        raise TransportError(
            f"rank {rank} comparing its clock with rank 0: a rank is gone, or did not come in time "
            f"({str(error).splitlines()[0]}); begin the trace on all ranks, between the same two steps"
        ) from error
    return found


def _round(said: torch.Tensor, group: Any) -> tuple[float, float]:
    asked = time.perf_counter()
    dist.send(said, 0, group)
    dist.recv(said, 0, group)
    heard = time.perf_counter()
    return said.item() - (asked + heard) / 2, (heard - asked) / 2
