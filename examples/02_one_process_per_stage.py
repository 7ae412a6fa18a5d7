"""The same script in one process, or with one process for each stage.

python examples/02_one_process_per_stage.py
torchrun --nproc-per-node 2 examples/02_one_process_per_stage.py
"""

import os
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.data import digits


def main(epochs: int = 10) -> float:
    if "WORLD_SIZE" in os.environ:  # torchrun has started us
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    torch.manual_seed(0)  # every process makes the same model, and keeps one stage of it up to date
    torch.set_num_threads(1)
    split = digits(fold=0)
    layers = [nn.Sequential(nn.Linear(width, 256), nn.BatchNorm1d(256), nn.ReLU()) for width in (64, 256, 256)]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    net = sg.decouple(
        model,
        at=["1"],  # two stages
        sample=(split.train_x[:64], split.train_y[:64]),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=10),
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        schedule=sg.update_unlocked(delay=1),
    )
    order = torch.Generator().manual_seed(0)  # of its own: all processes iterate the same batches
    for epoch in range(epochs):
        for rows in torch.randperm(len(split.train_y), generator=order).split(64):
            step = net.step(split.train_x[rows], target=split.train_y[rows])
        if first:
            print(f"epoch {epoch:2}  loss {float(step.loss):.3f}")  # with several processes, the newest that has come
    net.flush()  # the lessons that are late by one step
    net.gather()  # all weights to all processes
    net.eval()
    error = (net(split.test_x).argmax(1) != split.test_y).float().mean().item()
    if first:
        print(f"test error {100 * error:.2f} %")
    if dist.is_initialized():
        dist.destroy_process_group()
    return error


if __name__ == "__main__":
    main()
