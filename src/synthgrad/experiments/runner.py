"""Runs a comparison: every method with every seed, on the same weights and the same batches.

Shapes: `B` batch, `N` examples, `T` tokens of an example.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.agreement import Alignment
from synthgrad.core.batch import Loss
from synthgrad.core.events import Probed, Started, StepDone
from synthgrad.core.plan import Declaration, Lock, Plan, locks
from synthgrad.data import Split
from synthgrad.decoupled import Decoupled, decouple
from synthgrad.engines.local import Outcome
from synthgrad.engines.trace import trace
from synthgrad.experiments.material import load
from synthgrad.experiments.methods import Method, factory, method_named
from synthgrad.experiments.networks import network_named
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import Comparison, Training
from synthgrad.experiments.turns import Figures, Running, Tell, gather, medians, run_seeds, threads

__all__ = ["Cell", "Keep", "PlainLoop", "run_comparison"]

EVALUATED = 1000  # examples at once, to bound the memory
PROBED = 512  # rows of the validation part that the alignment is measured on, at most
EVALUATIONS = 10  # on the validation part, where there are no epochs to end with one

Keep = Callable[[Result], None]


def run_comparison(
    comparison: Comparison,
    tell: Tell,
    *,
    keep: Keep | None = None,
    provenance: Mapping[str, Any] | None = None,
    traces: Path | None = None,
) -> list[Result]:
    """Train each method with each seed.

    Args:
        comparison: what to run.
        tell: called with each event and its labels, `method` and `seed`; never while a step is timed.
        keep: called with each cell's result once it has ended.
        provenance: what else the results say: `versions`, `hardware`, `command`.
        traces: a folder for a trace of each cell that has stages, `cdni-0` that of cdni with seed 0; none if not given.

    Returns:
        One result for each cell; of a cell that failed, too.

    Raises:
        SettingsError, DataError and the like: before anything is trained.
    """
    with threads(comparison.threads):
        data = load(comparison, 0)

        def cells(seed: int) -> list[Cell]:
            own = load(comparison, seed) if comparison.data_set.folds and seed > 0 else data
            return [
                Cell(comparison, method_named(name), seed, tell, own, traces and traces / f"{name}-{seed}")
                for name in comparison.methods
            ]

        return run_seeds(cells, comparison.seeds, device=data.train_y.device, keep=keep, provenance=provenance)


# ---- what is trained -------------------------------------------------------------------------------------------------


class Net(Protocol):
    """What a cell trains: a `Decoupled`, or a `PlainLoop`."""

    plain: Any
    plan: Plan

    @property
    def locks(self) -> frozenset[Lock]:
        """What updates wait for."""
        ...

    def step(self, *inputs: Tensor, target: Tensor, index: Tensor | None = None) -> Outcome:
        """Learn from a batch."""
        ...

    def probe(self, *inputs: Tensor, target: Tensor, index: Tensor | None = None) -> dict[str, Alignment]:
        """Alignment at each cut."""
        ...


class PlainLoop:
    """Back-propagation as everybody writes it, without our library: the baseline, in results and in time.

    Args:
        model: taking (B, inputs) to (B, classes), or (B, T) to (B, T, classes).
        optimizer: of all its parameters.
        lr_schedule: counts steps.
        plan: says what updates wait for; it is not what is run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_schedule: torch.optim.lr_scheduler.LRScheduler,
        plan: Plan,
    ) -> None:
        self.plain, self.optimizer, self.lr_schedule, self.plan = model, optimizer, lr_schedule, plan

    @property
    def locks(self) -> frozenset[Lock]:
        """What updates wait for."""
        return locks(self.plan)

    def step(self, *inputs: Tensor, target: Tensor, index: Tensor | None = None) -> Outcome:
        """One step of back-propagation."""
        self.optimizer.zero_grad()
        loss = _loss(self.plain(*inputs), target)
        loss.backward()
        self.optimizer.step()
        self.lr_schedule.step()
        return Outcome(loss.detach(), {})

    def probe(self, *inputs: Tensor, target: Tensor, index: Tensor | None = None) -> dict[str, Alignment]:
        """Nothing: there is no synthetic gradient."""
        return {}


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of (B, classes) with (B,), or of (B, T, classes) with (B, T)."""
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


def _tokens(target: Tensor) -> int:
    return target.numel()


def _build(training: Training, method: Method, data: Split, steps: int) -> Net:
    """The network with its optimizers. The model's weights are drawn first, so that they are the same everywhere."""
    sample = (data.train_x[: training.batch_size], data.train_y[: training.batch_size])
    model = network_named(training.model).build(training, tuple(sample[0].shape[1:]), data.classes)
    model.to(sample[0].device)  # drawn on the CPU, whatever the device
    # Fused is the fastest there is, for everybody; without decay AdamW is Adam.
    optimizer = partial(torch.optim.AdamW, lr=training.lr, weight_decay=training.weight_decay, fused=True)
    lr_schedule = partial(_lr_schedule, warm_up=training.warm_up, steps=steps)
    if method.plain:
        own = optimizer(model.parameters())
        stages = (Declaration(synthesizer=False, feedback=frozenset()),) * (len(training.cut_names) + 1)
        return PlainLoop(model, own, lr_schedule(own), Plan(method.schedule(), stages))
    settings = {"classes": data.classes, "outputs": data.classes, "rank": training.rank or None}
    settings["examples"] = len(data.train_y)
    return decouple(
        model,
        at=training.cut_names,
        sample=sample,
        loss=Loss(_loss, terms=_tokens),
        optimizer=optimizer,
        synthesizer=factory(method.synthesizer, **settings),
        input_synthesizer=factory(method.input_synthesizer, **settings),
        synthesizer_optimizer=partial(torch.optim.Adam, lr=training.synthesizer_lr, fused=True),
        lr_schedule=lr_schedule,
        synthesizer_lr_schedule=lr_schedule if training.synthesizer_decay else None,
        schedule=method.schedule(),
        monitor=0,  # the tables show the agreement
    )


def _lr_schedule(optimizer: torch.optim.Optimizer, *, warm_up: int, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A rise along a line over `warm_up` steps, under a fall to 0 along a cosine over all `steps`."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / (warm_up + 1)) * (1 + math.cos(math.pi * step / steps)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


# ---- one method with one seed ----------------------------------------------------------------------------------------


class Cell(Running):
    """One method with one seed.

    Args:
        training: what is trained on what, and how.
        method: the method.
        seed: of the initial weights, of the order of the images, and number of the fold where there are folds.
        tell: called with each event.
        data: as `load` gives it, so that cells may share it; loaded if not given.
        trace_to: a folder for a trace, if it has stages; none is written if not given.

    Raises:
        SettingsError, ShapeError and the like: before anything is trained.
    """

    def __init__(
        self,
        training: Training,
        method: Method,
        seed: int,
        tell: Tell,
        data: Split | None = None,
        trace_to: Path | None = None,
    ) -> None:
        self.split = load(training, seed) if data is None else data
        self.batches = len(self.split.train_y) // training.batch_size  # of an epoch
        super().__init__(method, training, seed, tell, total=training.steps or self.batches * training.epochs)
        self.period = -(-training.steps // EVALUATIONS) if training.steps else self.batches  # steps between evaluations
        self.alignment: Figures = {}
        self._trace_to = trace_to
        self._order = torch.Generator().manual_seed(seed)
        self._epoch = torch.empty(0, dtype=torch.long)  # (N,) numbers of the images, in this epoch's order
        with self.seeded():
            self.net = _build(training, method, self.split, self.total)

    def beginning(self) -> Started:
        """Also what updates wait for."""
        return replace(super().beginning(), locks=self.lock_names)

    def watched(self) -> AbstractContextManager[None]:
        """Traced, if that is asked for; a plain loop has no stages."""
        if self._trace_to is None or not isinstance(self.net, Decoupled):
            return nullcontext()
        return trace(self.net, self._trace_to)

    def advance(self) -> None:
        """Learn from a batch; after an epoch, look at the held-out part."""
        self._step(*self._next_batch())
        if self.steps % self.period == 0:
            self._evaluate("valid", self.split.valid_x, self.split.valid_y)

    def judge(self) -> None:
        """On the test part."""
        self._evaluate("test", self.split.test_x, self.split.test_y)

    @property
    def lock_names(self) -> tuple[str, ...]:
        """What updates wait for, in the order in which a batch meets it."""
        return tuple(lock.value for lock in Lock if lock in self.net.locks)

    def result(self) -> Result:
        """What was measured; of a cell that failed, only how far it came: its figures are on the way to NaN."""
        whole = self.failed is None
        return Result(
            **self.common(),
            **self.errors(),
            locks=self.lock_names,
            agreement=medians(self.agreement) if whole else {},
            alignment=medians(self.alignment) if whole else {},
        )

    def _next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """The next inputs and labels, shuffled anew at each epoch, and their numbers."""
        size, place = self.training.batch_size, self.steps % self.batches
        if place == 0:
            order = torch.randperm(len(self.split.train_y), generator=self._order)
            self._epoch = order.to(self.split.train_y.device)
        chosen = self._epoch[place * size : (place + 1) * size]
        return self.split.train_x[chosen], self.split.train_y[chosen], chosen

    def _step(self, inputs: Tensor, labels: Tensor, index: Tensor) -> None:
        with self.timed(labels.device):
            outcome = self.net.step(inputs, target=labels, index=index)
        loss = float(outcome.loss)
        self.expect_finite(loss, step=self.steps + 1)
        self.steps += 1
        self.tell(StepDone(self.steps, loss, gather(self.agreement, outcome.agreement)))
        if self.is_due(self.training.probes):
            images, target, numbers = self._probed
            aligned = self.net.probe(images, target=target, index=numbers)
            if aligned:
                self.tell(Probed(self.steps, gather(self.alignment, aligned)))

    @property
    def _probed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """On what the alignment is measured: the validation part; but what goes by an example's number knows none."""
        split = self.split
        rows = max(1, PROBED // split.valid_y[0].numel())  # a token is a row
        if any("index" in stage.needs for stage in self.net.plan.stages):
            return split.train_x[:rows], split.train_y[:rows], torch.arange(rows, device=split.train_y.device)
        return split.valid_x[:rows], split.valid_y[:rows], None

    def _evaluate(self, split: str, inputs: Tensor, labels: Tensor) -> None:
        self.net.plain.eval()
        with torch.no_grad():
            parts = inputs.split(max(1, EVALUATED // labels[0].numel()))
            output = torch.cat([self.net.plain(part) for part in parts])  # (N, classes) or (N, T, classes)
        self.net.plain.train()
        loss = float(_loss(output, labels))
        error = float((output.argmax(-1) != labels).cpu().double().mean())
        self.judged(split, loss, error)
