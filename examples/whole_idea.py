"""Synthetic gradients, the whole idea in one file. Plain PyTorch; nothing is imported from the package beside it.

    python examples/whole_idea.py

A network is trained on 1,797 real handwritten digits in five ways. Read from top to bottom; it takes five minutes.

Back-propagation locks a layer three times. It cannot run before the layers below it (forward lock); it cannot update
before the layers above have run forward (update lock) and backward (backward lock). Jaderberg et al. 2016,
arXiv:1608.05343, open the locks with small models that guess what a layer would have to wait for:

    a synthesizer          guesses, from a layer's output, the gradient that will come back: update at once
    an input synthesizer   guesses, from the batch, what the layers below will send up: do not even wait for that

Shapes: B examples in a batch, D features of a layer, C classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

PIXELS, D, C, LAYERS = 64, 128, 10, 4
BATCH, EPOCHS, RATE = 64, 15, 1e-3

Batches = list[tuple[Tensor, Tensor]]


# ---- the network: LAYERS hidden layers, and an output layer, as a plain list -----------------------------------------


def make_layers() -> list[nn.Module]:
    sizes = [PIXELS] + [D] * LAYERS
    pairs = zip(sizes, sizes[1:], strict=False)
    return [*(nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairs), nn.Linear(D, C)]


def make_optimizers(modules: Sequence[nn.Module]) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(module.parameters(), lr=RATE) for module in modules]


def update(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


# ---- 1. back-propagation ---------------------------------------------------------------------------------------------
#
#   x ──> layer 0 ──> layer 1 ──> ... ──> loss          Nobody updates before the loss is known and the gradient
#           <──────────<──────────  ...  <──            has come back all the way.


def train_backprop(layers: list[nn.Module], batches: Batches) -> None:
    optimizers = make_optimizers(layers)
    for x, y in batches:
        h = x
        for layer in layers:
            h = layer(h)
        F.cross_entropy(h, y).backward()
        for optimizer in optimizers:
            update(optimizer)


# ---- 2. synthetic gradients ------------------------------------------------------------------------------------------
#
# A synthesizer predicts, for each row of the activation h, the gradient of the *summed* loss: dL/dh, (B, D). Summed, so
# that the size of the batch does not matter to what it learns. It is linear, which is the paper's best here, and it
# starts at zero, so at first nothing below it moves. With the label to look at it is called conditional (cDNI). That
# matters: of a network that fits, the gradient averages out to about zero over the labels it could have been.


class Synthesizer(nn.Module):
    def __init__(self, sees_label: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.label = nn.Parameter(torch.empty(C, D)) if sees_label else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        g = self.linear(h)  # (B, D)
        return g if self.label is None else g + F.one_hot(y, C).float() @ self.label


# Each layer, as the batch passes:
#
#            cut                 cut
#   h_in ─────┊──> layer k ──> h ─┊──> layer k+1           F  run forward on a detached input: no graph reaches below
#             ┊                   ┊                        S  ask M_k for dL/dh, back-propagate it through layer k alone
#             ┊<── h_in.grad      M_k                      U  update layer k, now
#             ┊         │                                  T  what S left in h_in.grad is the target of M_{k-1}
#           M_{k-1} <───┘
#
# The target is made with a synthetic gradient itself ("bootstrapped", like a value function in reinforcement learning);
# only the last layer sees the true loss, and the truth trickles down from synthesizer to synthesizer, batch by batch.


def train_decoupled(layers: list[nn.Module], synthesizers: list[Synthesizer] | None, batches: Batches) -> None:
    last = len(layers) - 1
    optimizers = make_optimizers(layers)
    teachers = make_optimizers(synthesizers or [])
    for x, y in batches:
        h, below = x, None  # below: the synthetic gradient at the cut below, with M's graph, waiting for its target
        for k, layer in enumerate(layers):
            h_in = h.detach().requires_grad_(k > 0)  # the cut
            h = layer(h_in)  # F
            if k == last:
                F.cross_entropy(h, y).backward()  # B: the true loss
                synthetic = None
            elif synthesizers is None:
                synthetic = None  # "zero": no gradient at all; only the last layer learns. The baseline to beat.
                h.backward(torch.zeros_like(h))
            else:
                synthetic = synthesizers[k](h.detach(), y)  # S: predict ...
                h.backward(synthetic.detach() / len(x))  # ... and inject; the loss is a mean, M speaks of the sum
            if below is not None:
                target = h_in.grad * len(x)  # T: teach M_{k-1}
                (F.mse_loss(below, target, reduction="sum") / len(x)).backward()
                update(teachers[k - 1])
            update(optimizers[k])  # U: layer k+1 has not even seen the batch yet
            below = synthetic


# ---- 3. the complete unlock ------------------------------------------------------------------------------------------
#
# Layer k > 0 learns on a predicted input I_k(x), so it need not wait for the layers below either: all layers could work
# on the same batch at the same time. Off that path the batch goes through the real chain once, without gradients: it
# gives I_k its target, and BatchNorm the statistics that the trained network will use. Only training is decoupled; the
# trained network is the plain chain, and never sees a synthetic input.


def train_unlocked(
    layers: list[nn.Module],
    synthesizers: list[Synthesizer],
    predictors: list[nn.Module],
    batches: Batches,
) -> None:
    last = len(layers) - 1
    optimizers = make_optimizers(layers)
    teachers, input_teachers = make_optimizers(synthesizers), make_optimizers(predictors)
    for x, y in batches:
        real, below = x, None
        for k, layer in enumerate(layers):
            if k == 0:
                h_in = x
                h = layer(h_in)  # F
            else:
                predicted = predictors[k - 1](x)  # P: a guess of what the layer below will send
                h_in = predicted.detach().requires_grad_()
                h = functional_call(layer, {name: b.clone() for name, b in layer.named_buffers()}, h_in)
                squared = F.mse_loss(predicted, real, reduction="sum")  # Q: teach I_k, when the real input has come
                (squared / len(x)).backward()
                update(input_teachers[k - 1])
            if k == last:
                F.cross_entropy(h, y).backward()
                synthetic = None
            else:
                synthetic = synthesizers[k](h.detach(), y)  # S
                h.backward(synthetic.detach() / len(x))
            if below is not None:
                (F.mse_loss(below, h_in.grad * len(x), reduction="sum") / len(x)).backward()  # T
                update(teachers[k - 1])
            update(optimizers[k])  # U
            with torch.no_grad():
                real = h.detach() if k == 0 else layer(real)  # F: the real chain
            below = synthetic


# ---- the race --------------------------------------------------------------------------------------------------------


def load_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every fifth image is for the test: train x (1437, 64), train y, test x (360, 64), test y."""
    arrays = np.load(Path(__file__).parents[1] / "src" / "synthgrad" / "data" / "digits.npz")
    images, labels = torch.from_numpy(arrays["images"]).flatten(1) / 16, torch.from_numpy(arrays["labels"]).long()
    test = torch.arange(len(labels)) % 5 == 0
    return images[~test], labels[~test], images[test], labels[test]


def make_batches(x: Tensor, y: Tensor, epochs: int, seed: int) -> Batches:
    shuffle = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(x), generator=shuffle) for _ in range(epochs)]
    return [(x[rows], y[rows]) for order in orders for rows in order.split(BATCH)]


def test_error(layers: list[nn.Module], x: Tensor, y: Tensor) -> float:
    network = nn.Sequential(*layers).eval()
    return (network(x).argmax(1) != y).float().mean().item()


def main(seed: int = 0) -> None:
    torch.set_num_threads(1)  # layers this small only get in each other's way on more
    train_x, train_y, test_x, test_y = load_digits()
    batches = make_batches(train_x, train_y, EPOCHS, seed)

    def race(name: str, waits_for: str, train: Callable[[list[nn.Module]], None]) -> None:
        torch.manual_seed(seed)  # every racer starts from the same weights
        layers = make_layers()
        train(layers)
        print(f"{name:34}{waits_for:28}{100 * test_error(layers, test_x, test_y):5.1f} %")

    def synthesizers(sees_label: bool) -> list[Synthesizer]:
        return [Synthesizer(sees_label) for _ in range(LAYERS)]

    def predictors() -> list[nn.Module]:
        return [nn.Sequential(nn.Linear(PIXELS, D), nn.ReLU(), nn.Linear(D, D)) for _ in range(LAYERS)]

    print(f"{'':34}{'an update waits for':28}test error")
    race("back-propagation", "forward, update, backward", lambda layers: train_backprop(layers, batches))
    race("zero gradient", "forward", lambda layers: train_decoupled(layers, None, batches))
    race("synthetic gradient (DNI)", "forward", lambda layers: train_decoupled(layers, synthesizers(False), batches))
    race(
        "... that sees the label (cDNI)", "forward", lambda layers: train_decoupled(layers, synthesizers(True), batches)
    )
    race("complete unlock", "-", lambda layers: train_unlocked(layers, synthesizers(True), predictors(), batches))


if __name__ == "__main__":
    main()
