"""No loop of your own: epochs, evaluation, early stop, logs, and a run that may be killed and started again.

python examples/13_trainer.py runs/trainer
torchrun --nproc-per-node 2 examples/13_trainer.py runs/trainer
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import synthgrad as sg
from synthgrad.data import digits


def main(epochs: int = 15, folder: str | None = None) -> float:
    if "WORLD_SIZE" in os.environ:  # torchrun has started us
        dist.init_process_group("gloo")
    torch.manual_seed(0)  # with several processes, the same in all: they iterate the same batches
    torch.set_num_threads(1)
    split = digits(fold=0)
    layers = [nn.Sequential(nn.Linear(width, 256), nn.ReLU()) for width in (64, 256, 256)]
    net = sg.decouple(
        nn.Sequential(*layers, nn.Linear(256, 10)),
        at=["0", "1"],
        sample=(split.train_x[:64], split.train_y[:64]),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=10),
        optimizer=partial(torch.optim.Adam, lr=1e-3),
    )
    logs = [sg.ProgressBar(), *([sg.CSVLogger(Path(folder) / "figures.csv")] if folder else [])]
    trainer = sg.Trainer(net, epochs=epochs, patience=5, folder=folder, loggers=logs)
    train = DataLoader(TensorDataset(split.train_x, split.train_y), 64, shuffle=True)
    trainer.fit(train, DataLoader(TensorDataset(split.valid_x, split.valid_y), 256))
    found = trainer.evaluate(DataLoader(TensorDataset(split.test_x, split.test_y), 256))
    if net.engine.first:  # the first process, or the only one
        print(f"test error {100 * found.error:.1f} %, after {found.step} batches")
    if dist.is_initialized():
        dist.destroy_process_group()
    return found.error


if __name__ == "__main__":
    main(folder=sys.argv[1] if len(sys.argv) > 1 else None)
