"""A run that may be killed at any time: started anew, it goes on from its last checkpoint, to the same end.

python examples/04_restart.py runs/restart
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nproc-per-node 2 --max-restarts 3 examples/04_restart.py runs/restart

torchrun starts all processes anew when one of them fails; without that variable they may look for the dead ones.
"""

import os
import sys
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.data import digits

EPOCHS = 6


def main(folder: str) -> float:
    if "WORLD_SIZE" in os.environ:  # torchrun has started us
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = digits(fold=0)
    layers = [nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Dropout(0.1)) for width in (64, 128)]
    net = sg.decouple(
        nn.Sequential(*layers, nn.Linear(128, 10)),
        at=["0"],
        sample=(split.train_x[:64], split.train_y[:64]),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=10),
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        timeout=30.0,
    )
    done = net.load(folder) or 0  # epochs; there is no checkpoint the first time
    for epoch in range(done, EPOCHS):
        order = torch.randperm(len(split.train_y), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64):
            step = net.step(split.train_x[rows], target=split.train_y[rows])
        net.save(folder, extra=epoch + 1)
        if first:
            print(f"epoch {epoch}  loss {float(step.loss):.3f}")
    net.gather()
    net.eval()
    error = (net(split.test_x).argmax(1) != split.test_y).float().mean().item()
    if first:
        print(f"test error {100 * error:.2f} %")
    if dist.is_initialized():
        dist.destroy_process_group()
    return error


if __name__ == "__main__":
    main(sys.argv[1])
