"""Accelerate places the data, casts and checkpoints; the loop is yours, and the stages learn in it.

python examples/11_accelerate.py          (pip install synthgrad[accelerate])
"""

from functools import partial

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import synthgrad as sg
from synthgrad.data import digits
from synthgrad.integrations.accelerate import AcceleratedNet


def main(epochs: int = 15) -> float:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = digits(fold=0)
    layers = [nn.Sequential(nn.Linear(width, 256), nn.ReLU()) for width in (64, 256, 256)]
    accelerator = Accelerator(cpu=True)  # mixed_precision="bf16" works as well
    net = AcceleratedNet(
        accelerator,
        sg.decouple(
            nn.Sequential(*layers, nn.Linear(256, 10)),
            at=["0", "1"],
            sample=(split.train_x[:64], split.train_y[:64]),
            loss=F.cross_entropy,
            synthesizer=partial(sg.LinearSynthesizer, classes=10),
            optimizer=partial(torch.optim.Adam, lr=1e-3),
        ),
    )
    loader = accelerator.prepare(DataLoader(TensorDataset(split.train_x, split.train_y), 64, shuffle=True))
    for epoch in range(epochs):
        for x, y in loader:
            step = net.step(x, target=y)
        print(f"epoch {epoch:2}  loss {step.loss.item():.3f}")
    net.net.eval()
    x, y = split.test_x.to(accelerator.device), split.test_y.to(accelerator.device)
    error = (net(x).argmax(1) != y).float().mean().item()
    print(f"test error {100 * error:.1f} %")
    return error


if __name__ == "__main__":
    main()
