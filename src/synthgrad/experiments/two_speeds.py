"""Trains two nets at two speeds on a stream of digits, and judges what the slow one counts on digits not learned from.

Shapes: `T` period, `B` lanes, `M` features of a message, `C` counts that there may be.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.batch import Context
from synthgrad.core.events import StepDone
from synthgrad.data import DigitStream, DigitWindow, Split
from synthgrad.experiments.methods import Method, factory
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import StreamTraining
from synthgrad.experiments.turns import Running, Tell, gather, medians
from synthgrad.recurrent.two_speeds import TwoSpeeds
from synthgrad.recurrent.walk import Walk

__all__ = ["StreamCell"]

CUT = "message"
EVALUATIONS = 4  # on the validation part
STRETCHES = 10  # that one is judged on, of `LANES` each
LANES = 500
DRAWN = 1  # the seed of the streams that are judged: the same for all


class _Reader(nn.Module):
    """A digit's features, and a GRU on them: (T, B, pixels) to (T, B, M)."""

    def __init__(self, pixels: int, units: int) -> None:
        super().__init__()
        self.encoder, self.core = nn.Sequential(nn.Linear(pixels, units), nn.ReLU()), nn.GRU(units, units)

    def forward(self, images: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.core(self.encoder(images), state)


def _build(training: StreamTraining, method: Method, data: Split) -> TwoSpeeds:
    """Both nets with what trains them. The nets' weights are drawn first, so that they are the same everywhere."""
    period, units, pixels = training.period, training.hidden, data.train_x.shape[1]
    counts = period**2 + 1
    device = data.train_x.device
    fast, slow = _Reader(pixels, units), nn.GRU(units, units)
    fast_head, slow_head = nn.Linear(units, period + 1), nn.Linear(units, counts)
    settings = {"classes": counts, "outputs": counts, "rank": training.rank or None, "examples": len(data.train_y)}
    return TwoSpeeds(
        fast.to(device),
        slow.to(device),
        fast_head=fast_head.to(device),
        slow_head=slow_head.to(device),
        loss=functional.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=training.lr, fused=True),
        synthesizer=factory(method.synthesizer, **settings),
        synthesizer_optimizer=partial(torch.optim.Adam, lr=training.synthesizer_lr, fused=True),
        sample=torch.zeros(period, training.batch_size, pixels, device=device),
    )


class StreamCell(Running):
    """One method with one seed; a step is a stretch of T^2 digits in every lane.

    Args:
        training: what is trained on what, and how.
        method: what stands at the message: its synthesizer, or None, where both nets go back together.
        seed: of the initial weights, and of the digits that are drawn to learn from.
        tell: called with each event.
        data: images as rows of pixels, (N, pixels).

    Raises:
        ShapeError and the like: before anything is trained.
    """

    def __init__(self, training: StreamTraining, method: Method, seed: int, tell: Tell, data: Split) -> None:
        super().__init__(method, training, seed, tell, total=training.steps)
        self.split = data
        lanes, period = training.batch_size, training.period
        self._stream = DigitStream(data.train_x, data.train_y, period=period, lanes=lanes, seed=seed)
        with self.seeded():
            self.nets = _build(training, method, data)

    def advance(self) -> None:
        """Learn from a stretch; now and then, look at the held-out part."""
        self._step()
        if self.is_due(EVALUATIONS):
            self._evaluate("valid", self.split.valid_x, self.split.valid_y)

    def judge(self) -> None:
        """On the test part."""
        self._evaluate("test", self.split.test_x, self.split.test_y)

    def result(self) -> Result:
        """What was measured; of a cell that failed, only how far it came."""
        return Result(
            **self.common(),
            **self.errors(),
            agreement=medians(self.agreement) if self.failed is None else {},
        )

    def _step(self) -> None:
        """Learn from a stretch; the count that it comes to is known in training from its beginning on."""
        windows = [next(self._stream) for _ in range(self.training.period)]
        context = Context(windows[-1].threes)
        with self.timed(self.split.train_y.device):
            *_, told = [
                self.nets.step(x, target=odd, slow_target=threes, context=context) for x, odd, threes in windows
            ]
        self.steps += 1
        assert told.slow_loss is not None  # as it is the last of the stretch
        agreement = {} if told.agreement is None else {CUT: told.agreement}
        self.tell(StepDone(self.steps, float(told.slow_loss), gather(self.agreement, agreement)))

    def _evaluate(self, part: str, images: Tensor, labels: Tensor) -> None:
        """Judge the counts of threes on a stream of a part's digits."""
        period = self.training.period
        stream = DigitStream(images, labels, period=period, lanes=LANES, seed=DRAWN)
        scores, threes = _counted(self.nets, [next(stream) for _ in range(STRETCHES * period)])
        loss = float(functional.cross_entropy(scores, threes))
        error = float((scores.argmax(-1) != threes).cpu().double().mean())
        self.judged(part, loss, error)


@torch.no_grad()
def _counted(nets: TwoSpeeds, windows: list[DigitWindow]) -> tuple[Tensor, Tensor]:
    """What the slow net says at the end of each stretch, (N, C), and what is so, (N,); states go on between them."""
    parts = nets.nets
    fast, slow = Walk(parts["fast"]), Walk(parts["slow"])
    state = slow_state = None
    scores, threes = [], []
    for images, _, count in windows:
        outputs, state = fast(images, state)
        messages, slow_state = slow(outputs[-1:], slow_state)
        if count is not None:
            scores.append(parts["slow_head"](messages[-1]))
            threes.append(count)
    return torch.cat(scores), torch.cat(threes)
