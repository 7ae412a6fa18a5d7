"""Runs a comparison in time: every method with every seed, on the same initial weights and the same stream.

The methods of a seed take turns, as in `synthgrad.experiments.turns`.

Shapes: `B` lanes, `T` steps of a window.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Context, Loss
from synthgrad.core.events import Solved, StepDone
from synthgrad.core.synthesizers import Averaged, CriticSynthesizer, MLPSynthesizer, Replay, Synthesizer, mlp_head
from synthgrad.data import Characters
from synthgrad.experiments.material import device_named
from synthgrad.experiments.recurrent.results import RecurrentResult
from synthgrad.experiments.recurrent.spec import Method, RecurrentComparison
from synthgrad.experiments.recurrent.streams import Copies, Stream, Text, Window, load, stream_of
from synthgrad.experiments.recurrent.tasks import in_bits
from synthgrad.experiments.turns import Running, Tell, gather, medians, run_seeds, threads
from synthgrad.models import Recurrent
from synthgrad.recurrent import TruncatedBPTT
from synthgrad.recurrent.bp_lambda import bp_lambda

__all__ = ["RecurrentCell", "run_recurrent_comparison"]

LOOKS = 1000  # events of a cell that tell of a step, at most
EVALUATED = 100_000  # characters of the validation part that are read while training, at most
CUT = "window"  # what the one cut is called in events


def run_recurrent_comparison(
    comparison: RecurrentComparison, tell: Tell, *, keep: Any = None, provenance: Mapping[str, Any] | None = None
) -> list[RecurrentResult]:
    """Train each method with each seed.

    Args:
        comparison: what to run.
        tell: called with each event and its labels, `method` and `seed`; never while a step is timed.
        keep: called with each cell's result once it has ended.
        provenance: what else the results say: `versions`, `hardware`, `command`.

    Returns:
        One result for each cell; of a cell that failed, too.

    Raises:
        SettingsError, DataError and the like: before anything is trained.
    """
    methods = [comparison.method(name) for name in comparison.methods]
    with threads(comparison.threads):
        device = device_named(comparison.device)
        text = load(comparison)

        def cells(seed: int) -> list[RecurrentCell]:
            return [RecurrentCell(method, seed, tell, text, device) for method in methods]

        return run_seeds(cells, comparison.seeds, device=device, keep=keep, provenance=provenance)


# ---- what is trained -------------------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """What a window gave: its loss, a scalar, and the agreement, if there is any."""

    loss: Tensor
    agreement: Agreement | None


class Learner(Protocol):
    """What a cell trains: a `TruncatedBPTT`, as `bp_lambda` gives one, too, or a `PlainLoop`."""

    def step(self, chunk: Any, *, target: Any, ends: Tensor, context: Context) -> Any:
        """Learn from a window."""
        ...


class PlainLoop:
    """Truncated back-propagation as everybody writes it, without our library: the baseline, in results and in time.

    Args:
        model: (input, state) -> (output, state).
        loss: of the outputs of a window, (B * T, ...).
        optimizer: of all its parameters.
    """

    def __init__(self, model: Recurrent, loss: Loss, optimizer: torch.optim.Optimizer) -> None:
        self.plain, self.loss, self.optimizer = model, loss.function, optimizer
        self.state: Any = None

    def step(self, chunk: Any, *, target: Any, ends: Tensor, context: Context) -> Learned:
        """Learn from a window; back-propagation ends where it begins, and what is to come is not looked at."""
        self.optimizer.zero_grad()
        scores, state = self.plain(chunk, self.state)
        flat = tuple(part.flatten(0, 1) for part in target) if isinstance(target, tuple) else target.flatten(0, 1)
        loss = self.loss(scores.flatten(0, 1), flat)
        loss.backward()
        self.optimizer.step()
        parts = [part.detach() for part in (state if isinstance(state, tuple) else (state,))]  # (layers, B, U) each
        if bool(ends.any()):
            parts = [part.masked_fill(ends[:, None], 0.0) for part in parts]
        self.state = tuple(parts) if isinstance(state, tuple) else parts[0]
        return Learned(loss.detach(), None)


def _synthesizer(method: Method, stream: Stream, seed: int, shape: tuple[int, ...]) -> Synthesizer:
    """The synthesizer of a state of this shape, with what is around it."""
    training = method.training
    built: Synthesizer = MLPSynthesizer(shape, hidden=training.hidden)
    if method.kind.learns:
        built = CriticSynthesizer(
            shape,
            classes=training.ahead * stream.outputs,
            learns=method.kind.learns,
            head=partial(mlp_head, hidden=training.hidden),
            value=training.value,
            loss=stream.coming_loss,
        )
    if training.average:
        built = Averaged(built, training.average)
    return Replay(built, training.replay, training.memory, seed=seed) if training.replay else built


def _build(method: Method, stream: Stream, seed: int, device: torch.device) -> tuple[Recurrent, Learner]:
    """The net with what trains it. The net's weights are drawn first, so that they are the same everywhere."""
    training = method.training
    model = stream.model(training).to(device)
    optimizer = partial(torch.optim.Adam, lr=training.lr, fused=True)
    if not method.kind.synthetic:
        return model, PlainLoop(model, stream.loss, optimizer(model.parameters()))
    learn = partial(torch.optim.Adam, lr=training.synthesizer_lr, fused=True)
    if method.kind.online:
        numbers = {"lambda_": training.reach, "gamma": training.scale}
        trained = {"loss": stream.loss, "optimizer": optimizer, "synthesizer_optimizer": learn}
        return model, bp_lambda(model.core, head=model.output, **numbers, **trained)
    sample: Any = torch.zeros(training.batch, training.unroll, dtype=torch.long, device=device)
    if isinstance(stream, Copies):
        sample = torch.zeros(training.batch, training.unroll, stream.copying.inputs, device=device)
    learner = TruncatedBPTT(
        model,
        unroll=training.unroll,
        loss=stream.loss,
        optimizer=optimizer,
        synthesizer=partial(_synthesizer, method, stream, seed),
        synthesizer_optimizer=learn,
        auxiliary=method.kind.auxiliary,
        scale=training.scale,
        batch_first=True,
        sample=sample,
    )
    return model, learner


# ---- a cell ----------------------------------------------------------------------------------------------------------


class RecurrentCell(Running):
    """One method with one seed.

    Args:
        method: the method, with its settings.
        seed: of the initial weights and of the sequences.
        tell: called with each event.
        text: as `load` gives it, so that cells may share it.
        device: where to train.

    Raises:
        SettingsError, DataError and the like: before anything is trained.
    """

    def __init__(self, method: Method, seed: int, tell: Tell, text: Characters | None, device: torch.device) -> None:
        super().__init__(method, method.training, seed, tell, total=method.training.updates)
        self.device = device
        self.stream = stream_of(method.training, seed, text, device)
        self.every = -(-self.total // LOOKS)
        self.curve: list[tuple[int, float]] = []  # update and score
        self._nats, self._terms = 0.0, 0  # since the last event
        with self.seeded():
            self.model, self.learner = _build(method, self.stream, seed, device)

    def advance(self) -> None:
        """Learn from a window; now and then, look at the held-out part."""
        self._step(self.stream.window())
        if self.is_due(self.training.evaluations):
            self._evaluate("valid", most=EVALUATED if self.steps < self.total else None)

    def judge(self) -> None:
        """On the test part."""
        self._evaluate("test")

    def result(self) -> RecurrentResult:
        """What was measured; of a cell that failed, only how far it came: its figures are on the way to NaN."""
        whole = self.failed is None
        solved = self.stream.curriculum.solved if isinstance(self.stream, Copies) and whole else None
        bits = {part: in_bits(one.loss) for part, one in self.evaluated.items()} if whole else {}
        return RecurrentResult(
            **self.common(),
            task=self.training.task,
            unroll=self.training.unroll,
            characters=self.steps * self.training.unroll * self.training.batch,
            solved=solved,
            valid_bits=bits.get("valid"),
            test_bits=bits.get("test"),
            seconds=sum(self.seconds),
            agreement=medians(self.agreement).get(CUT, {}) if whole else {},
            curve=tuple(self.curve),
        )

    def _step(self, window: Window) -> None:
        context = Context(labels=window.coming)
        with self.timed(self.device):
            learned = self.learner.step(window.inputs, target=window.target, ends=window.ends, context=context)
        nats, terms = self.stream.cost()
        self.expect_finite(nats, step=self.steps + 1)
        self.steps += 1
        self._nats, self._terms = self._nats + nats, self._terms + terms
        if isinstance(self.stream, Copies) and self.stream.learned():
            self.curve.append((self.steps, float(self.stream.curriculum.solved)))
            self.tell(Solved(self.steps, self.stream.curriculum.solved))
        if self.steps % self.every == 0 or self.steps == self.total:
            self._look(learned.agreement)

    def _look(self, agreement: Agreement | None) -> None:
        """Tell of the steps since the last event; figures are read here, and only here."""
        loss = self._nats / self._terms if self._terms else float("nan")
        self._nats, self._terms = 0.0, 0
        self.tell(StepDone(self.steps, loss, gather(self.agreement, {} if agreement is None else {CUT: agreement})))

    def _evaluate(self, part: str, most: int | None = None) -> None:
        """Read a part of a text, or its beginning."""
        if not isinstance(self.stream, Text):
            return
        tokens: Tensor = getattr(self.stream.text, part)
        self.model.eval()
        nats, error = self.stream.evaluate(self.model, tokens[:most])
        self.model.train()
        self.judged(part, nats, error)
        if part == "valid":
            self.curve.append((self.steps, in_bits(nats)))
