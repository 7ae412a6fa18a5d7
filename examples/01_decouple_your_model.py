"""Decouple a network of your own: six lines more than plain PyTorch.

python examples/01_decouple_your_model.py
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.data import digits


class Residual(nn.Module):
    """Any model will do. This one is no chain, and is not changed to become one."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(4))
        self.join = nn.ModuleList(nn.ReLU() for _ in range(4))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for block, join in zip(self.blocks, self.join, strict=True):
            h = join(h + block(h))
        return self.head(h)


def main(epochs: int = 15) -> float:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = digits(fold=0)
    model = Residual()
    net = sg.decouple(
        model,
        at=["join.1", "join.3"],  # the outputs of these submodules are the cuts
        sample=(split.train_x[:64], split.train_y[:64]),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=10),
        optimizer=partial(torch.optim.Adam, lr=1e-3),
    )
    print("an update waits for:", ", ".join(sorted(net.locks)))
    for epoch in range(epochs):
        for rows in torch.randperm(len(split.train_y)).split(64)[:-1]:
            step = net.step(split.train_x[rows], target=split.train_y[rows])  # every stage learns as the batch passes
        agreement = ", ".join(f"{name} {float(a.cosine):+.2f}" for name, a in step.agreement.items())
        print(f"epoch {epoch:2}  loss {float(step.loss):.3f}  agreement {agreement}")
    net.eval()  # from here on it is the plain model: no synthesizer runs
    error = (net(split.test_x).argmax(1) != split.test_y).float().mean().item()
    print(f"test error {100 * error:.1f} %; the trained model is the one you made: {net.plain is model}")
    return error


if __name__ == "__main__":
    main()
