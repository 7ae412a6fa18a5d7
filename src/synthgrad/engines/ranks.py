"""The processes that work together: how many there are, who holds which stage, and what they do all at once."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from synthgrad.core.errors import ScheduleError, TransportError

__all__ = ["found_by_first", "spread", "together", "world_size"]


def world_size() -> int:
    """How many processes work together: 1, unless `torch.distributed` has been initialized for more."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def spread(stages: int, world: int) -> tuple[int, ...]:
    """For each stage its place in a row of processes: neighbors together, as equally many at each place as can be.

    With more processes than stages there are several such rows, replicas of each other; see `Replicas`.

    Raises:
        ScheduleError: more processes than stages, and no multiple of them.

    >>> spread(5, 2), spread(2, 4)
    ((0, 0, 0, 1, 1), (0, 1))
    """
    if world > stages and world % stages:
        raise ScheduleError(
            f"{world} processes for {stages} stages: where there are more processes than stages, as many hold each "
            f"stage, so expected a multiple of {stages}; start {world - world % stages} or "
            f"{world - world % stages + stages} (torchrun --nproc-per-node), or cut the model at {world - 1} places"
        )
    places = min(stages, world)
    return tuple(stage * places // stages for stage in range(stages))


@contextmanager
def together(what: str, timeout: float) -> Iterator[None]:
    """What all ranks do together: a rank that does not come, or dies, is told as our error."""
    try:
        yield
    except TransportError:
        raise
    except RuntimeError as error:
        raise TransportError(
            f"{what}: a rank is gone, or did not come within {timeout:g} s ({str(error).splitlines()[0]}); look for "
            f"the first error of the others, and see that all ranks call decouple, step, flush and gather equally often"
        ) from error


def found_by_first(find: Callable[[], Any], doing: str, timeout: float) -> Any:
    """What rank 0 finds, given to all ranks, which wait for it and find nothing themselves; collective.

    Args:
        find: gives what JSON can hold; called on rank 0 alone.
        doing: what is being done, in words.
        timeout: how many seconds the others wait.

    Raises:
        TransportError: rank 0 could not, as it tells; or a rank is gone, or does not come in time. On rank 0: what
            `find` raises.
    """
    if world_size() == 1:
        return find()
    rank, found, fault = dist.get_rank(), None, None
    with together(f"rank {rank} {doing}", timeout):
        group: Any = dist.new_group(timeout=timedelta(seconds=timeout), backend="gloo")
        if rank == 0:
            try:
                found = find()
            except Exception as error:
                fault = error
        told = json.dumps([found, fault and f"{type(fault).__name__}: {fault}"]).encode()
        size = torch.tensor(len(told))
        dist.broadcast(size, 0, group)
        text = torch.empty(int(size), dtype=torch.uint8)
        if rank == 0:
            text = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        dist.broadcast(text, 0, group)
    dist.destroy_process_group(group)
    if fault is not None:
        raise fault
    found, reason = json.loads(bytes(text.tolist()))
    if reason is not None:
        raise TransportError(f"{doing}: rank 0 could not, {reason}")
    return found
