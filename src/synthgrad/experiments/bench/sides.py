"""Ways to train the same network over the same batches, on one process or two; each is made alike on both ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.schedules import Schedule
from synthgrad.core.synthesizers import LinearSynthesizer
from synthgrad.decoupled import Decoupled, decouple
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.models import fully_connected, layer_names

__all__ = [
    "CLASSES",
    "Batches",
    "Network",
    "Side",
    "decoupled",
    "one_process",
    "random_data",
    "torch_ddp",
    "torch_pipeline",
]

CLASSES = 10
RANK = 16  # of the synthesizer's matrix
Batches = Callable[[int], tuple[Tensor, Tensor]]  # of the step
Rate = Callable[[int], float]  # the share of the learning rate at the step


@dataclass(frozen=True)
class Network:
    """Layers of Linear, BatchNorm, ReLU and an output; cut in the middle."""

    inputs: int
    hidden: int
    layers: int

    def build(self, seed: int = 0) -> nn.Sequential:
        """The model, with the initial weights of that seed."""
        torch.manual_seed(seed)
        return fully_connected(self.inputs, CLASSES, hidden=self.hidden, layers=self.layers)

    @property
    def cut(self) -> int:
        """How many layers the first stage has."""
        return self.layers // 2


@dataclass
class Side:
    """One way to train.

    Attributes:
        step: trains on the next batch; None on a rank that has no part in it.
        model: the whole model, or this rank's part.
        threads: of each process.
        net: of ours.
        last: the rank that ends a step.
    """

    step: Callable[[], None] | None
    model: nn.Module
    threads: int = 1
    net: Decoupled | None = None
    last: int = 1

    @property
    def period(self) -> int:
        """After so many steps, steps are alike."""
        return 1 if self.net is None else self.net.plan.schedule.period or 1

    @property
    def engine(self) -> DistributedEngine:
        """Of ours."""
        assert self.net is not None and isinstance(self.net.engine, DistributedEngine)
        return self.net.engine

    def close(self) -> None:
        """See that all that was sent has gone, and give its process groups back."""
        if self.net is not None:
            self.engine.close()

    def turn(self, steps: int, then: Callable[[], Any] = lambda: None) -> None:
        """So many steps, and after each what is to be done then."""
        if self.step is not None:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                for _ in range(steps):
                    self.step()
                    then()
            finally:
                torch.set_num_threads(before)


def optimizer(parameters: Any, lr: float = 1e-3) -> torch.optim.Optimizer:
    """The same for all sides."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def scheduler(optimizer: torch.optim.Optimizer, rate: Rate) -> torch.optim.lr_scheduler.LRScheduler:
    """The same for all sides."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def one_process(rank: int, model: nn.Module, batches: Batches, *, threads: int = 1, rate: Rate | None = None) -> Side:
    """Plain back-propagation on rank 0, without our library."""
    adam = optimizer(model.parameters())
    rates = scheduler(adam, rate) if rate else None
    steps = count()

    def step() -> None:
        x, y = batches(next(steps))
        functional.cross_entropy(model(x), y).backward()
        adam.step()
        adam.zero_grad()
        if rates:
            rates.step()

    return Side(step if rank == 0 else None, model, threads, last=0)


def torch_ddp(rank: int, model: nn.Module, batches: Batches) -> Side:
    """Torch's `DistributedDataParallel`: the whole model in both processes, each with its half of the batch."""
    parallel = nn.parallel.DistributedDataParallel(model)
    adam = optimizer(model.parameters())
    steps = count()

    def step() -> None:
        x, y = (part.chunk(2)[rank] for part in batches(next(steps)))
        functional.cross_entropy(parallel(x), y).backward()
        adam.step()
        adam.zero_grad()

    return Side(step, parallel, last=0)


def torch_pipeline(rank: int, model: nn.Sequential, cut: int, batches: Batches, schedule: str, parts: int) -> Side:
    """One of `torch.distributed.pipelining`'s schedules, by the name of its class, on two processes."""
    from torch.distributed import pipelining

    half = model[:cut] if rank == 0 else model[cut:]
    stage = pipelining.PipelineStage(half, rank, 2, torch.device("cpu"))
    pipeline = getattr(pipelining, schedule)(stage, n_microbatches=parts, loss_fn=functional.cross_entropy)
    adam = optimizer(half.parameters())
    steps = count()

    def step() -> None:
        x, y = batches(next(steps))
        if rank == 0:
            pipeline.step(x)
        else:
            pipeline.step(target=y)
        adam.step()
        adam.zero_grad()

    return Side(step, half)


def decoupled(
    model: nn.Sequential, cut: int, batches: Batches, schedule: Schedule, *, rate: Rate | None = None
) -> Side:
    """Ours on two processes; where the schedule asks for synthetic gradients, linear ones that see the labels.

    Cut after so many layers; after none, both processes hold all of it, each with its half of the batch.
    """
    x, y = batches(0)
    net = decouple(
        model,
        at=layer_names(model)[:cut][-1:],
        sample=(x, y),
        loss=functional.cross_entropy,
        optimizer=optimizer,
        synthesizer=partial(LinearSynthesizer, classes=CLASSES, rank=RANK) if schedule.lateness else None,
        lr_schedule=partial(scheduler, rate=rate) if rate else None,
        schedule=schedule,
    )
    steps = count()

    def step() -> None:
        x, y = batches(next(steps))
        net.step(x, target=y)

    return Side(step, model, net=net)


def random_data(network: Network, rows: int, batches: int = 8) -> Batches:
    """So many batches, again and again; the same on all ranks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batches, rows, network.inputs, generator=generator)
    y = torch.randint(0, CLASSES, (batches, rows), generator=generator)
    return lambda step: (x[step % batches], y[step % batches])
