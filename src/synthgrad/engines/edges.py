"""An edge: one direction between two ranks, and how its two ends meet."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from synthgrad.engines.shared import Address, OwnMemory, PeerMemory

__all__ = ["Edge", "edges_of"]


@dataclass(frozen=True)
class Edge:
    """One direction between two ranks.

    Attributes:
        source: the rank that sends.
        target: the rank that receives.
        group: a process group of these two, for this edge alone.
        window: how many messages may be on their way; the same on both sides.
        timeout: how long to wait, in seconds.
        own: the target's memory, there, for the source to write into; None elsewhere, or if there is none.
        peer: the same, as the source has it; None elsewhere, or if it cannot reach it.
    """

    source: int
    target: int
    group: Any  # dist.ProcessGroup; on other ranks torch gives a number
    window: int
    timeout: float
    own: OwnMemory | None = None
    peer: PeerMemory | None = None

    @property
    def places(self) -> int:
        """How many of the target's buffers are kept: those that are posted, and as many that are being learned from."""
        return 2 * self.window + 2

    def __str__(self) -> str:
        return f"rank {self.source} -> rank {self.target}"

    def send(self, tensor: Tensor, tag: int) -> dist.Work:
        """Begin to; past `dist.isend`, which looks everything up again for every message."""
        return self.group.send([tensor], self._place(self.target), tag)

    def receive(self, tensor: Tensor, tag: int) -> dist.Work:
        """Begin to."""
        return self.group.recv([tensor], self._place(self.source), tag)

    def _place(self, rank: int) -> int:
        """In the group, where ranks stand in their order."""
        return int(rank == max(self.source, self.target))

    def wait(self, work: dist.Work) -> None:
        """Until the work is done. Raises `RuntimeError` if it fails or takes too long; the edge is then of no use."""
        work.wait(self._limit)

    @cached_property
    def _limit(self) -> timedelta:
        return timedelta(seconds=self.timeout)


def edges_of(pairs: Mapping[tuple[int, int], int], timeout: float, *, share: bool = True) -> list[Edge]:
    """An edge for each ordered pair of ranks, with its window; every rank of the world must call it alike.

    With `share`, a source writes into its target's memory where it can: where both are on one machine, with Linux.
    """
    limit = timedelta(seconds=timeout)
    edges = [
        Edge(source, target, dist.new_group([source, target], timeout=limit, backend="gloo"), window, timeout)
        for (source, target), window in sorted(pairs.items())
    ]
    return _introduced(edges) if share else edges


def _introduced(edges: Iterable[Edge]) -> list[Edge]:
    """The sources have heard where their targets' memory is."""
    rank = dist.get_rank()
    edges = [replace(edge, own=_own_memory(edge)) if edge.target == rank else edge for edge in edges]
    works: list[tuple[Edge, dist.Work, Tensor]] = []
    for edge in edges:
        back = replace(edge, source=edge.target, target=edge.source)
        address = torch.tensor(Address() if edge.own is None else edge.own.address)
        if rank in (edge.source, edge.target):
            works.append((edge, (back.send if rank == back.source else back.receive)(address, 0), address))
    for edge, work, _ in works:
        edge.wait(work)
    heard = {edge: Address(*address.tolist()) for edge, _, address in works if edge.source == rank}
    return [replace(edge, peer=_peer_memory(edge, heard[edge])) if edge in heard else edge for edge in edges]


def _own_memory(edge: Edge) -> OwnMemory | None:
    with suppress(OSError):
        return OwnMemory(edge.places)
    return None


def _peer_memory(edge: Edge, address: Address) -> PeerMemory | None:
    with suppress(OSError):
        return PeerMemory(address, edge.places)
    return None
