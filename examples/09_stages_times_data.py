"""Two stages, two processes for each: every process trains its stage on its own rows of every batch.

python examples/09_stages_times_data.py
torchrun --nproc-per-node 4 examples/09_stages_times_data.py

With two processes, one for each stage; with six, three. Here cuts are chosen by measuring, once for all processes.
"""

import os
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.data import digits


def main(epochs: int = 6) -> float:
    if "WORLD_SIZE" in os.environ:  # torchrun has started us
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    torch.manual_seed(0)  # every process makes the same model
    torch.set_num_threads(1)
    split = digits(fold=0)
    layers = [nn.Sequential(nn.Linear(width, 256), nn.ReLU()) for width in (64, 256, 256)]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    sample = (split.train_x[:64], split.train_y[:64])
    net = sg.decouple(
        model,
        at=sg.balanced_cuts(model, sample, stages=2, seconds=1.0),
        sample=sample,
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=10),
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        clip=1.0,  # each stage by its own norm
    )
    order = torch.Generator().manual_seed(0)  # the whole batch for every process: it takes its own rows of it
    for epoch in range(epochs):
        for rows in torch.randperm(len(split.train_y), generator=order).split(64):
            step = net.step(split.train_x[rows], target=split.train_y[rows])
        if first:
            print(f"epoch {epoch:2}  loss {float(step.loss):.3f}")  # of the whole batch
    net.flush()
    net.gather()
    net.eval()
    error = (net(split.test_x).argmax(1) != split.test_y).float().mean().item()
    if first:
        print(f"test error {100 * error:.2f} %")
    if dist.is_initialized():
        dist.destroy_process_group()
    return error


if __name__ == "__main__":
    main()
