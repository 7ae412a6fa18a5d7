"""Replicas: processes that hold the same stages, each with rows of its own of every batch.

                  stage 0     stage 1          a `DeviceMesh` ("stage", "data") of the ranks
    replica 0     rank 0  ->  rank 2
    replica 1     rank 1  ->  rank 3

Each replica is a row of processes that talk to each other as though they were alone. The processes that hold the same
stage add up their gradients just before an optimizer takes its step: of the stage at `U`, of a synthesizer behind its
last lesson. Each gradient is that of the mean over the whole batch, as far as one's own rows go: what was summed over
rows has been divided by the count of the whole. So the sum is the gradient, and parts need not be of equal size.

torch's DistributedDataParallel would begin to add up in a backward pass, once for each forward pass; here a synthesizer
answers now and learns later, and a stage may go backward several times before it is updated.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from synthgrad.core.errors import PartitionError, SynthgradError, TransportError

__all__ = ["Replicas", "expect_whole", "mesh_of"]

NO_BATCH = -1  # in the place of a digest: what begins is no step, but a flush, or a gather


def expect_whole(model: nn.Module) -> None:
    """Raise `PartitionError` where others spread the model's weights, or its gradients, over processes already."""
    remedy = "pass the model as it was; start more processes than stages, and they add their gradients up"
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise PartitionError(
            f"the model is wrapped in DistributedDataParallel, which would add up gradients in every backward pass, "
            f"before a stage has learned from all of its microbatches; {remedy}"
        )
    sharded: Any = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())  # imported by whoever shards
    for name, parameter in model.named_parameters():
        if isinstance(parameter, sharded):
            raise PartitionError(
                f"{name!r} is sharded (fully_shard, a DTensor), expected whole weights: a stage's processes would "
                f"have to meet for every layer, in every forward and backward pass; {remedy}, or cut the model into "
                f"more stages if one is too large for its device"
            )


def mesh_of(places: int, replicas: int) -> DeviceMesh:
    """The ranks by place and replica; collective."""
    backends: dict[int | str, Any] = {"stage": "gloo", "data": "gloo"}
    names = ("stage", "data")
    return init_device_mesh("cpu", (places, replicas), mesh_dim_names=names, backend_override=backends)


class Replicas:
    """This process among those that hold the same stages. All of them make the same calls, in the same order.

    Args:
        mesh: of all ranks.
        timeout: how many seconds to wait for another replica.

    Attributes:
        number: of this replica.
        ranks: of all replicas of this place.
    """

    def __init__(self, mesh: DeviceMesh, timeout: float) -> None:
        self.mesh, self.timeout = mesh, timeout
        self.number = mesh.get_local_rank("data")
        self._group: Any = mesh.get_group("data")
        self.ranks = dist.get_process_group_ranks(self._group)
        self.step = -1
        self._begun: tuple[dist.Work, Tensor, list[Tensor]] | None = None

    # ---- the same steps, and the same batches ------------------------------------------------------------------------

    def begin(self, step: int, digest: int | None) -> None:
        """A step begins, on a batch of this digest; or, without one, a flush or gather. Nobody is waited for yet."""
        self.step = step
        mine = torch.tensor([step, NO_BATCH if digest is None else digest])
        found = [torch.empty_like(mine) for _ in self.ranks]
        with self._watched("beginning"):
            work = dist.all_gather(found, mine, self._group, async_op=True)
        assert work is not None
        self._begun = work, mine, found

    def meet(self) -> None:
        """See that all have begun the same.

        Raises:
            TransportError: they have not; or one is gone, or does not come in time.
        """
        if self._begun is None:
            return
        (work, mine, found), self._begun = self._begun, None
        with self._watched("hearing what the others have begun"):
            work.wait(timedelta(seconds=self.timeout))
        for rank, theirs in zip(self.ranks, found, strict=True):
            if not torch.equal(theirs, mine):
                got, expected = (_said(*one.tolist()) for one in (theirs, mine))
                raise TransportError(
                    f"ranks {self.ranks} hold the same stage, and are not at the same: rank {rank} is at {got}, "
                    f"expected {expected} as here; give every rank the whole batch, the same on all (no distributed "
                    f"sampler: each takes its own rows of it), and call step and flush equally often"
                )

    # ---- sums --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make each parameter's gradient the sum over all replicas; None stays None where nobody has one.

        Raises:
            TransportError: as `meet`.
            SynthgradError: a sparse gradient.
        """
        self.meet()
        alike: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in parameters:
            alike.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for same in alike.values():
            self._add_up(same)

    def _add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Of one dtype and device: all gradients in one piece, and behind them whether each is there at all."""
        grads = [parameter.grad for parameter in parameters]
        if sparse := [grad.layout for grad in grads if grad is not None and grad.layout is not torch.strided]:
            raise SynthgradError(f"gradients: got a {sparse[0]} one, expected dense ones: replicas add up no others")
        there = parameters[0].new_tensor([float(grad is not None) for grad in grads])
        parts = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, grads, strict=True)]
        flat = torch.cat([*(part.reshape(-1) for part in parts), there]).cpu()  # one wait for a device, not many
        self._add(flat, "adding up gradients")
        *sums, found = flat.split([*(part.numel() for part in parts), len(parts)])
        for parameter, total, count in zip(parameters, sums, found.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            if parameter.grad is not None:
                parameter.grad.copy_(total.view(parameter.shape))

    def sum(self, value: Tensor) -> Tensor:
        """Over all replicas, on every one. Raises `TransportError` as `meet`."""
        self.meet()
        total = value.detach().cpu().clone()
        self._add(total, "adding up")
        return total.to(value.device)

    def total(self, number: int) -> int:
        """As `sum`, of a whole number."""
        return int(self.sum(torch.tensor(number)))

    def _add(self, tensor: Tensor, doing: str) -> None:
        with self._watched(doing):
            work = dist.all_reduce(tensor, group=self._group, async_op=True)
            assert work is not None
            work.wait(timedelta(seconds=self.timeout))

    # ---- what is not learned from gradients --------------------------------------------------------------------------

    @torch.no_grad()
    def align(self, step: int, buffers: Iterable[Tensor]) -> None:
        """Give all replicas the first one's values. Raises `TransportError` as `meet`."""
        self.begin(step, None)
        self.meet()
        for buffer in buffers:
            value = buffer.detach().cpu().contiguous()
            with self._watched("taking over the first replica's buffers"):
                work = dist.broadcast(value, self.ranks[0], self._group, async_op=True)
                assert work is not None
                work.wait(timedelta(seconds=self.timeout))
            if self.number:
                buffer.copy_(value)

    # ---- faults ------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Have the others notice, at once, that this replica has given up.

        What gloo does when a wait has run out of time is just that: it closes the connection, on both sides.
        """
        for place in range(len(self.ranks)):
            if place != self.number:
                never = torch.empty(1)
                with suppress(RuntimeError):
                    self._group.recv([never], place, 0).wait(timedelta(milliseconds=1))

    @property
    def groups(self) -> list[Any]:
        """This process's process groups of the mesh."""
        return [self.mesh.get_group(name) for name in ("stage", "data")]

    @contextmanager
    def _watched(self, doing: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            seconds = time.monotonic() - begun
            fault = "one of the others is gone, or has given up"
            if seconds >= self.timeout:
                fault = f"one of the others did not come within {self.timeout:g} s"
            raise TransportError(
                f"ranks {self.ranks} hold the same stage; rank {self.ranks[self.number]}, step {self.step}, {doing}: "
                f"{fault} ({str(error).splitlines()[0]}); look for the first error of the others"
            ) from error


def _said(step: int, digest: int) -> str:
    return f"step {step}, a flush or gather before it" if digest == NO_BATCH else f"step {step}, batch {digest:08x}"
