"""A training loop for those who have none: epochs, evaluation, early stop, checkpoints, logs."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.batch import Batch, Context, arguments
from synthgrad.core.errors import CheckpointError, ShapeError, SynthgradError
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Started, StepDone
from synthgrad.decoupled import Decoupled
from synthgrad.training.loggers import Logger

__all__ = ["Metric", "Trainer", "error_rate", "expect_decoupled", "parted"]

Metric = Callable[[Any, Any], Tensor]


@dataclass
class _Place:
    """How far a training has come: what a checkpoint holds besides the net's own state.

    Attributes:
        epoch: the one that is under way.
        batch: how many of its batches have been learned.
        random: torch's random state at its beginning, on which the order of its batches depends.
        generator: likewise, of the loader's own generator.
        best: the lowest loss in an evaluation; None before the first.
        worse: how many evaluations have been no better since.
    """

    epoch: int = 0
    batch: int = 0
    random: Tensor | None = None
    generator: Tensor | None = None
    best: float | None = None
    worse: int = 0

    def judge(self, loss: float) -> None:
        """Take in the loss of an evaluation."""
        if self.best is None or loss < self.best:
            self.best, self.worse = loss, 0
        else:
            self.worse += 1


class Trainer:
    """Trains what `decouple` returns, batch by batch, in one process or under torchrun.

        trainer = sg.Trainer(net, epochs=10, loggers=[sg.ProgressBar()], folder="runs/mine")
        trainer.fit(train_loader, valid_loader)

    A training with a folder may be killed at any time: the same script, started again, goes on from its last
    checkpoint, and ends with the bits of one that was not killed. For that the epoch that was under way is begun once
    more, from the random state that it began with, and the batches already learned are passed over. So any loader will
    do whose order and contents depend on nothing but torch's random numbers, `DataLoader(..., shuffle=True)` among
    them; one whose sampler has `set_epoch` is told the epoch.

    With several processes, each iterates the same batches: seed torch equally in all of them before the loader is
    used. Callbacks and loggers are told what the first process sees: agreement at the cuts behind its own stages, and
    the newest loss that has come.

    Learning-rate schedules belong to `decouple(lr_schedule=...)`.

    Args:
        net: made by `decouple`.
        epochs: in all, those before a restart included.
        callbacks: `callback(event)`, told all that happens (`Started`, `StepDone`, `Evaluated`, `Failed`, `Finished`;
            see `synthgrad.core.events`). They read, they do not steer.
        loggers: see `Logger`; told the same.
        log_every: steps between two `StepDone`. Telling one waits for the device.
        metric: for the evaluations; see `evaluate`.
        patience: stop early after so many evaluations in a row whose loss was no lower than the lowest before.
        bf16: run layers in bfloat16 where torch's autocast deems it safe; weights and optimizers stay as they are.
        folder: for checkpoints, seen by all processes; None: nothing is saved.
        save_every: steps between checkpoints; besides, there is one at the end of each epoch.

    Raises:
        SynthgradError: the net is not decoupled, or a number makes no sense.
    """

    def __init__(
        self,
        net: Decoupled,
        *,
        epochs: int,
        callbacks: Sequence[Callable[[Event], None]] = (),
        loggers: Sequence[Logger] = (),
        log_every: int = 10,
        metric: Metric | None = None,
        patience: int | None = None,
        bf16: bool = False,
        folder: str | Path | None = None,
        save_every: int | None = None,
    ) -> None:
        expect_decoupled(net, "Trainer")
        counts = {"epochs": epochs, "log_every": log_every, "patience": patience, "save_every": save_every}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise SynthgradError(f"{name}={count}: expected at least 1")
        if save_every is not None and folder is None:
            raise SynthgradError(f"save_every={save_every}: there is no folder to save to; give folder=")
        self.net, self.epochs, self.metric, self.patience = net, epochs, metric, patience
        self.callbacks, self.loggers, self.log_every = tuple(callbacks), tuple(loggers), log_every
        self.bf16, self.folder, self.save_every = bf16, folder, save_every

    def fit(self, train_loader: Iterable[Any], valid_loader: Iterable[Any] | None = None) -> None:
        """Train, from the newest checkpoint in the folder if there is one; in the end all processes have all weights.

        Args:
            train_loader: of batches: the model's positional arguments, and last the target; iterated once per epoch.
            valid_loader: likewise, evaluated at the end of each epoch.

        Raises:
            SynthgradError: nothing to train on, or to stop early by; besides, all that `Decoupled.step` raises.
            CheckpointError: the checkpoint is not of this training, or cannot be written.
        """
        if isinstance(train_loader, Iterator):  # asking it for one would draw random numbers
            raise SynthgradError(
                f"train_loader: got a {type(train_loader).__name__}, which can be iterated once; give a DataLoader or "
                f"a list of batches, that each epoch can begin anew"
            )
        if self.patience is not None and valid_loader is None:
            raise SynthgradError(f"patience={self.patience}: there is no loss to judge by; give fit a valid_loader")
        place = self._resume()
        began = time.perf_counter()
        with self._told(self._settings(train_loader)):
            while place.epoch < self.epochs and not self._stops(place):
                self._epoch(place, train_loader)
                if valid_loader is not None:
                    found = self.evaluate(valid_loader, split="valid")
                    self._tell(found)
                    place.judge(found.loss)
                place = _Place(place.epoch + 1, best=place.best, worse=place.worse)
                self._save(place)
            with self._autocast():
                self.net.flush()
            self.net.gather()
            self._tell(Finished(self.net.engine.steps, time.perf_counter() - began))

    def evaluate(self, loader: Iterable[Any], metric: Metric | None = None, *, split: str = "test") -> Evaluated:
        """Try the plain model, in eval mode, on all batches of a loader. All processes call it; each computes all.

        Args:
            loader: of batches as for `fit`.
            metric: `metric(output, target)`, a share from 0 to 1: the mean of a batch, or a value for each of its
                examples. By default the share of wrong classes, if outputs are (B, classes) and targets (B,) integers.
            split: what the event calls it.

        Returns:
            The mean loss over all loss terms, and the mean metric over all examples (NaN if there is none).

        Raises:
            ShapeError: a batch does not fit.
            SynthgradError: the loader has no batch.
        """
        loss, terms, wrong, rows = 0.0, 0, 0.0, 0
        measure, criterion = metric or self.metric or error_rate, self.net.stages[-1].loss
        assert criterion is not None
        self.net.gather()
        training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad():
                for inputs, target in self._batches(loader):
                    batch = Batch.of(inputs, target, Context(), criterion)
                    positional, keywords = arguments(inputs)
                    with self._autocast():
                        output = self.net(*positional, **keywords)
                        loss += float(criterion(output, batch)) * batch.count
                    terms, rows = terms + batch.count, rows + batch.rows
                    wrong += float(measure(output, target).double().mean()) * batch.rows
        finally:
            self.net.train(training)
        if not rows:
            raise SynthgradError("evaluate: the loader has no batch")
        return Evaluated(self.net.engine.steps, split, loss / terms, wrong / rows)

    # ---- an epoch ----------------------------------------------------------------------------------------------------

    def _epoch(self, place: _Place, loader: Iterable[Any]) -> None:
        """Learn what is left of the epoch."""
        self.net.train()
        for inputs, target in self._batches(self._ahead(place, loader)):
            self._expect_train_mode()
            with self._autocast():
                step = self.net.step(*inputs, target=target)
            place.batch += 1
            done = self.net.engine.steps
            if done % self.log_every == 0:
                agreement = {name: one.as_dict() for name, one in step.agreement.items()}
                self._tell(StepDone(done, float(step.loss), agreement))
            if self.save_every is not None and done % self.save_every == 0:
                self._save(place)
        if place.batch == 0:
            raise SynthgradError("train_loader: has no batch; with drop_last=True it needs at least one whole batch")

    def _expect_train_mode(self) -> None:
        if not self.net.plain.training:
            raise SynthgradError(
                "Trainer: the model was put into eval mode while it trains, by a callback or the loader; callbacks "
                "read only: leave the mode as it was found, or let fit evaluate (valid_loader=)"
            )

    def _ahead(self, place: _Place, loader: Iterable[Any]) -> Iterator[Any]:
        """The epoch's batches that are not learned yet; those before are passed over, in the epoch's own order."""
        generator = getattr(loader, "generator", None)
        told = getattr(getattr(loader, "sampler", None), "set_epoch", None)
        if told is not None:
            told(place.epoch)
        here = torch.get_rng_state()
        if place.random is None:
            place.random, place.generator = here, generator.get_state() if generator is not None else None
        else:  # the epoch was under way when the checkpoint was written
            torch.set_rng_state(place.random)
            if generator is not None and place.generator is not None:
                generator.set_state(place.generator)
        batches = iter(loader)
        for passed in range(place.batch):
            if next(batches, None) is None:
                raise CheckpointError(
                    f"{self.folder}: {place.batch} batches of epoch {place.epoch} were learned before the checkpoint, "
                    f"but the loader has only {passed}; use the loader that it was saved with"
                )
        if place.batch:
            torch.set_rng_state(here)
        yield from batches

    def _batches(self, batches: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Inputs and target of each batch, where the model is."""
        device = self._device
        for batch in batches:
            inputs, target = parted(batch)
            yield pytree.tree_map_only(Tensor, lambda x: x.to(device), (inputs, target))

    @property
    def _device(self) -> torch.device:
        return next((parameter.device for parameter in self.net.plain.parameters()), torch.device("cpu"))

    def _autocast(self) -> AbstractContextManager[Any]:
        # No cache: within one step a synthesizer may be updated, and would then answer with its old weights.
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    # ---- where it stands ---------------------------------------------------------------------------------------------

    def _resume(self) -> _Place:
        if self.folder is None:
            return _Place()
        found = self.net.load(self.folder)
        if found is None:
            return _Place()
        if not isinstance(found, dict) or found.keys() != asdict(_Place()).keys():
            raise CheckpointError(
                f"{self.folder}: holds a checkpoint that no Trainer has saved; go on with what saved it, or name "
                f"another folder"
            )
        return _Place(**found)

    def _save(self, place: _Place) -> None:
        if self.folder is not None:
            with self._autocast():  # late lessons are learned first
                self.net.save(self.folder, extra=asdict(place))

    def _stops(self, place: _Place) -> bool:
        """Whether it is time for an early stop; the first process decides for all."""
        if self.patience is None:
            return False
        return self.net.engine.tell_all("stop" if place.worse >= self.patience else "go")[0] == "stop"

    def _settings(self, loader: Any) -> dict[str, Any]:
        try:
            steps = len(loader) * self.epochs
        except TypeError:  # an iterable of unknown length
            steps = None
        net = self.net
        return {
            "epochs": self.epochs,
            "steps": steps,
            "cuts": [stage.name for stage in net.stages[:-1]],
            "schedule": net.plan.schedule.name,
            "parameters": sum(parameter.numel() for parameter in net.plain.parameters()),
            "patience": self.patience,
            "bf16": self.bf16,
        }

    # ---- telling -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _told(self, settings: dict[str, Any]) -> Iterator[None]:
        """Loggers are open inside, and closed whatever happens; what goes wrong is told first."""
        with ExitStack() as closing:
            if self.net.engine.first:
                for logger in self.loggers:
                    closing.callback(logger.close)
                    logger.start(settings, self.net.engine.steps)
            if self.net.engine.steps == 0:
                self._tell(Started(settings, tuple(sorted(self.net.locks))))
            try:
                yield
            except SynthgradError as error:
                self._tell(Failed(self.net.engine.steps, str(error)))
                raise

    def _tell(self, event: Event) -> None:
        if self.net.engine.first:
            for tell in (*self.callbacks, *(logger.log for logger in self.loggers)):
                tell(event)


def expect_decoupled(net: Any, who: str) -> None:
    """Raise `SynthgradError` where a net is not what `decouple` returns."""
    if not isinstance(net, Decoupled):
        raise SynthgradError(f"{who}: got {type(net).__name__}, expected what decouple returns; decouple it first")


def parted(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """The model's positional arguments and the target of a batch. Raises `ShapeError` where it is no tuple of them."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ShapeError(
            f"batch: got {type(batch).__name__}, expected a tuple of the model's positional arguments and, last, the "
            f"target; see the loader's collate_fn"
        )
    return tuple(batch[:-1]), batch[-1]


def error_rate(output: Any, target: Any) -> Tensor:
    """The share of examples whose class is told wrong, a scalar; NaN where there are no classes.

    >>> error_rate(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(0.5000)
    """
    classes = isinstance(output, Tensor) and isinstance(target, Tensor) and output.dim() == 2 and target.dim() == 1
    if not classes or target.is_floating_point():
        return torch.tensor(math.nan)
    return (output.argmax(1) != target).float().mean()
