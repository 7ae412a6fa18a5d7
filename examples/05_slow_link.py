"""Two processes behind a slow link, 50 ms one way: who waits for gradients waits for the link, twice in every step.

torchrun --nproc-per-node 2 examples/05_slow_link.py
"""

import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.data import digits
from synthgrad.engines.latency import slow_links


def train(schedule: sg.Schedule, latency: float, steps: int = 40) -> float:
    """Steps in a second."""
    torch.manual_seed(0)
    split = digits(fold=0)
    layers = [
        nn.Sequential(nn.Linear(width, 1024), nn.BatchNorm1d(1024), nn.ReLU()) for width in (64, 1024, 1024, 1024)
    ]
    net = sg.decouple(
        nn.Sequential(*layers, nn.Linear(1024, 10)),
        at=["1"],
        sample=(split.train_x[:256], split.train_y[:256]),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam,
        schedule=schedule,
    )
    assert isinstance(net.engine, sg.DistributedEngine)
    slow_links(net.engine.transport, latency)
    order = torch.Generator().manual_seed(0)
    dist.barrier()
    start = time.perf_counter()
    for _ in range(steps):
        rows = torch.randperm(len(split.train_y), generator=order)[:256]
        net.step(split.train_x[rows], target=split.train_y[rows])
    net.flush()
    dist.barrier()
    return steps / (time.perf_counter() - start)


def main() -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for schedule in (sg.backprop(), sg.one_f_one_b(4), sg.update_unlocked(delay=10)):
        near, far = (train(schedule, latency) for latency in (0.0, 0.05))
        if dist.get_rank() == 0:
            print(f"{schedule.name:25} {near:5.0f} steps a second, {far:5.0f} behind the slow link: {far / near:.2f} ×")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
