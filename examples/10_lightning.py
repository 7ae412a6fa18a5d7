"""Lightning trains a decoupled net: its loop, loggers, callbacks and checkpoints, our stages.

python examples/10_lightning.py          (pip install synthgrad[lightning])
"""

from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import synthgrad as sg
from synthgrad.data import digits
from synthgrad.integrations.lightning import DecoupledModule


def main(epochs: int = 15) -> float:
    torch.manual_seed(0)
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
    train = DataLoader(TensorDataset(split.train_x, split.train_y), 64, shuffle=True)
    test = DataLoader(TensorDataset(split.test_x, split.test_y), 256)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **quiet)
    module = DecoupledModule(net)
    trainer.fit(module, train)
    error = trainer.test(module, test, verbose=False)[0]["test_error"]
    print(f"test error {100 * error:.1f} %, after {trainer.global_step} batches")
    return error


if __name__ == "__main__":
    main()
