"""Remember a bit for 12 steps, with back-propagation that reaches back 3: python examples/03_past_the_window.py."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg

STEPS, WINDOW, ROWS = 12, 3, 64
AHEAD = STEPS - WINDOW


def sequences() -> tuple[Tensor, Tensor]:
    """A bit at the first step, then noise; at the last step the bit is asked for, and nothing before."""
    x = torch.randn(STEPS, ROWS, 2) * torch.tensor([0.0, 0.5])
    target = torch.full((STEPS + AHEAD, ROWS), -1)  # -1: no target; so it is behind the end, too
    target[STEPS - 1] = torch.randint(2, (ROWS,))
    x[0, :, 0] = 2.0 * target[STEPS - 1] - 1.0
    return x, target


def loss_ahead(scores: Tensor, coming: Tensor) -> Tensor:
    """Of the targets to come (ROWS, AHEAD), as a critic at the window's end predicts them; summed."""
    return F.cross_entropy(scores.view(-1, 2), coming.flatten(), ignore_index=-1, reduction="sum")


def train(unroll: int, synthesizer: partial | None, batches: int) -> float:
    torch.manual_seed(0)
    bptt = sg.TruncatedBPTT(
        nn.LSTM(2, 32),
        head=nn.Linear(32, 2),
        unroll=unroll,
        loss=partial(F.cross_entropy, reduction="none", ignore_index=-1),
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        synthesizer=synthesizer,
        synthesizer_optimizer=partial(torch.optim.Adam, lr=3e-2),
    )
    for _ in range(batches):
        x, target = sequences()
        for low in range(0, STEPS, unroll):
            high = low + unroll
            coming = sg.Context(labels=target[high : high + AHEAD].T)
            bptt.step(x[low:high], target=target[low:high], ends=torch.full((ROWS,), high == STEPS), context=coming)
    tests = [sequences() for _ in range(20)]
    return sum((bptt(x)[0][-1].argmax(-1) == y[STEPS - 1]).float().mean().item() / 20 for x, y in tests)


def main(batches: int = 100) -> list[float]:
    head = partial(sg.mlp_head, hidden=64)
    critic = partial(sg.CriticSynthesizer, classes=2 * AHEAD, head=head, loss=loss_ahead, learns=("gradient",))
    return [train(unroll, made, batches) for unroll, made in ((STEPS, None), (WINDOW, None), (WINDOW, critic))]


if __name__ == "__main__":
    for share, what in zip(main(), ("all 12 steps", "3 steps", "3 steps, a critic beyond"), strict=True):
        print(f"back-propagation through {what:25} the bit is told right in {100 * share:3.0f} % of cases")
