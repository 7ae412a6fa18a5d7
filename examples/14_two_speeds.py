"""Two nets at two speeds; the fast one never waits: python examples/14_two_speeds.py (arXiv:1608.05343, section 3.2).

The fast net tells every 3 digits how many are odd; the slow one, ticking on its messages, every 9 how many are threes.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.data import DigitStream, digits

T, LANES, UNITS = 3, 32, 64


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.core = nn.Sequential(nn.Linear(64, UNITS), nn.ReLU()), nn.GRU(UNITS, UNITS)

    def forward(self, images: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.core(self.encoder(images), state)


def train(synthesizer: partial | type | None, stretches: int) -> float:
    """The share of wrong counts of threes, over the last 50 stretches, each judged before it is learned from."""
    torch.manual_seed(0)
    nets = sg.TwoSpeeds(
        Reader(),
        nn.GRU(UNITS, UNITS),
        fast_head=nn.Linear(UNITS, T + 1),
        slow_head=nn.Linear(UNITS, T * T + 1),
        loss=F.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        synthesizer=synthesizer,  # None: both wait until the threes are judged, and go back through both nets
        synthesizer_optimizer=partial(torch.optim.Adam, lr=5e-3),
        sample=torch.zeros(T, LANES, 64),
    )
    split, wrong = digits(fold=0), []
    stream = DigitStream(split.train_x, split.train_y, period=T, lanes=LANES, seed=0)
    for _ in range(stretches):
        periods = [next(stream) for _ in range(T)]
        coming = sg.Context(periods[-1].threes)  # in training it is known
        for images, odd, threes in periods:
            told = nets.step(images, target=odd, slow_target=threes, context=coming)
        assert threes is not None  # of the last period
        wrong.append(float((told.slow.argmax(-1) != threes).float().mean()))
    return sum(wrong[-50:]) / 50


def main(stretches: int = 1000) -> list[float]:
    critic = partial(sg.CriticSynthesizer, classes=T * T + 1, head=partial(sg.mlp_head, hidden=64))
    return [train(synthesizer, stretches) for synthesizer in (None, critic, sg.ZeroSynthesizer)]


if __name__ == "__main__":
    both, critic, nothing = main()
    print(f"threes told wrong: {both:.2f} back-propagated, {critic:.2f} with a critic, {nothing:.2f} without")
