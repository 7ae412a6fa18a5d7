"""Trains two nets at two speeds on a stream of digits, and judges what the slow one counts on digits not learned from.

Shapes: `T` period, `B` lanes, `M` features of a message, `C` counts that there may be.
"""

import math
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Context
from synthgrad.core.errors import NumericalError
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Started, StepDone
from synthgrad.data import DigitStream, DigitWindow, Split
from synthgrad.experiments.material import synchronize
from synthgrad.experiments.methods import Method, factory
from synthgrad.experiments.recipes import recipe_of
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import StreamTraining
from synthgrad.experiments.turns import TURN, Tell
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


class StreamCell:
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
        self.training, self.method, self.seed, self.split = training, method, seed, data
        self._tell = tell
        self.steps = 0
        self.seconds: list[float] = []  # of each step
        self.agreement: dict[str, list[float]] = {}
        self.evaluated: dict[str, Evaluated] = {}  # the last of each split
        self.failed: str | None = None
        lanes, period = training.batch_size, training.period
        self._stream = DigitStream(data.train_x, data.train_y, period=period, lanes=lanes, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.nets = _build(training, method, data)

    def turns(self) -> Iterator[None]:
        """Train, pausing after every `TURN` steps; whatever runs in the pauses changes nothing here."""
        began, total = time.perf_counter(), self.training.steps
        self.tell(Started(self.training.as_table()))
        try:
            while self.steps < total:
                for _ in range(min(TURN, total - self.steps)):
                    self._step()
                    if self.steps * EVALUATIONS // total > (self.steps - 1) * EVALUATIONS // total:
                        self._evaluate("valid", self.split.valid_x, self.split.valid_y)
                yield
            self._evaluate("test", self.split.test_x, self.split.test_y)
            self.tell(Finished(self.steps, time.perf_counter() - began))
        except NumericalError as error:
            self.failed = str(error)
            self.tell(Failed(self.steps, self.failed))

    def tell(self, event: Event) -> None:
        """Pass on an event, saying where it happened."""
        self._tell(event, {"method": self.method.name, "seed": self.seed})

    def result(self) -> Result:
        """What was measured; of a cell that failed, only how far it came."""
        whole = self.failed is None
        test, valid = (self.evaluated.get(split) if whole else None for split in ("test", "valid"))
        medians = {name: median(values) for name, values in self.agreement.items()}
        return Result(
            method=self.method.name,
            seed=self.seed,
            steps=self.steps,
            test_error=test.error if test else None,
            test_loss=test.loss if test else None,
            valid_error=valid.error if valid else None,
            valid_loss=valid.loss if valid else None,
            ms_per_step=1e3 * median(self.seconds) if self.seconds else None,
            agreement={CUT: medians} if whole and medians else {},
            failed=self.failed,
            settings=self.training.as_table(),
            recipe=recipe_of(self.method),
        )

    def _step(self) -> None:
        """Learn from a stretch; the count that it comes to is known in training from its beginning on."""
        windows = [next(self._stream) for _ in range(self.training.period)]
        context = Context(windows[-1].threes)
        device = self.split.train_y.device
        synchronize(device)
        start = time.perf_counter()
        *_, told = [self.nets.step(x, target=odd, slow_target=threes, context=context) for x, odd, threes in windows]
        synchronize(device)
        self.seconds.append(time.perf_counter() - start)
        self.steps += 1
        assert told.slow_loss is not None  # of a stretch's last period
        self.tell(StepDone(self.steps, float(told.slow_loss), self._look(told.agreement)))

    def _look(self, agreement: Agreement | None) -> dict[str, dict[str, float]]:
        figures = {} if agreement is None else agreement.as_dict()
        for name, value in figures.items():
            self.agreement.setdefault(name, []).append(value)
        return {CUT: figures} if figures else {}

    def _evaluate(self, part: str, images: Tensor, labels: Tensor) -> None:
        """Judge the counts of threes on a stream of a part's digits."""
        period = self.training.period
        stream = DigitStream(images, labels, period=period, lanes=LANES, seed=DRAWN)
        scores, threes = _counted(self.nets, [next(stream) for _ in range(STRETCHES * period)])
        loss = float(functional.cross_entropy(scores, threes))
        if not math.isfinite(loss):
            raise NumericalError(f"the loss on the {part} part is {loss} after step {self.steps}", stage=-1)
        error = float((scores.argmax(-1) != threes).cpu().double().mean())
        self.evaluated[part] = Evaluated(self.steps, part, loss, error)
        self.tell(self.evaluated[part])


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
