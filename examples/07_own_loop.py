"""Keep your own loop: two modules in the model, one more line around the loss.

python examples/07_own_loop.py

The learning is that of `decouple`. There is no gain in time or memory: for that there are `decouple` and several
processes (02).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.data import digits


class Network(nn.Module):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, width), nn.Linear(width, width)
        self.third, self.head = nn.Linear(width, width), nn.Linear(width, 10)
        self.lower = sg.Interface(sg.LinearSynthesizer((width,), classes=10))
        self.upper = sg.Interface(sg.LinearSynthesizer((width,), classes=10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lower(torch.relu(self.first(x)))  # what comes back here is a synthetic gradient
        h = self.upper(torch.relu(self.second(h)))
        return self.head(torch.relu(self.third(h)))


def main(epochs: int = 15) -> float:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = digits(fold=0)
    model = Network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # one for all; the synthesizers are parts of the model
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        for rows in torch.randperm(len(split.train_y)).split(64):
            x, y = split.train_x[rows], split.train_y[rows]
            optimizer.zero_grad()
            with sg.context(model, labels=y):  # what the synthesizers may see besides the activation
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
        print(f"epoch {epoch:2}  loss {loss.item():.3f}")
    model.eval()  # from here on an interface is the identity, for gradients too
    error = (model(split.test_x).argmax(1) != split.test_y).float().mean().item()
    print(f"test error {100 * error:.1f} %")
    return error


if __name__ == "__main__":
    main()
