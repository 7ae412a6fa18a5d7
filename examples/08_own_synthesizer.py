"""A synthesizer of your own: written, checked against the contract, and used.

python examples/08_own_synthesizer.py
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.data import digits


class DiagonalSynthesizer(sg.Synthesizer):
    """g = s * h + V[y]: as the linear one, with a number for each feature instead of a matrix. It starts at zero."""

    needs = frozenset({"labels"})  # what it looks at besides the activation

    def __init__(self, shape: tuple[int, ...], *, classes: int) -> None:
        super().__init__()
        self.classes = classes  # so that labels out of range are refused before anything has changed
        self.scale = nn.Parameter(torch.zeros(shape))
        self.by_class = nn.Parameter(torch.zeros(classes, *shape))

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:  # (B, D) to (B, D)
        return activation * self.scale + context.one_hot(self.classes, activation.dtype) @ self.by_class


def main(epochs: int = 15) -> float:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    factory = partial(DiagonalSynthesizer, classes=10)
    sg.testing.check_synthesizer(factory, shape=(256,), classes=10)  # says what is wrong with it, if anything is
    split = digits(fold=0)
    layers = [nn.Sequential(nn.Linear(width, 256), nn.ReLU()) for width in (64, 256, 256)]
    net = sg.decouple(
        nn.Sequential(*layers, nn.Linear(256, 10)),
        at=["0", "1"],
        sample=(split.train_x[:64], split.train_y[:64]),
        loss=F.cross_entropy,
        synthesizer=factory,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
    )
    for epoch in range(epochs):
        for rows in torch.randperm(len(split.train_y)).split(64):
            step = net.step(split.train_x[rows], target=split.train_y[rows])
        print(f"epoch {epoch:2}  loss {step.loss.item():.3f}")
    error = (net.eval()(split.test_x).argmax(1) != split.test_y).float().mean().item()
    print(f"test error {100 * error:.1f} %")
    return error


if __name__ == "__main__":
    main()
