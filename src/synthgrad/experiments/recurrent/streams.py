"""What a recurrent net learns from, window by window, whatever the task: sequences to copy, or a text in lanes.

Shapes: `B` lanes, `T` steps of a window, `M` steps of a lane, `C` steps behind a window, `K` scores of a step.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from synthgrad.core.batch import Loss
from synthgrad.data import Characters, Copying, CopyStream, Curriculum, characters, lanes, ptb
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.spec import RecurrentTraining
from synthgrad.models import Recurrent

__all__ = ["Copies", "Stream", "Text", "Window", "load", "stream_of"]


class Window(NamedTuple):
    """The next T steps of all lanes.

    Attributes:
        inputs: (B, T, D), or tokens (B, T).
        target: what the loss takes, each tensor (B, T, ...).
        ends: bool (B,), the lanes whose sequence ends with this window.
        coming: the targets of the C steps behind this window, (B, C, ...); -1 where nothing counts, or nothing comes.
    """

    inputs: Tensor
    target: Any
    ends: Tensor
    coming: Tensor


class Stream(ABC):
    """What a cell learns from; each cell has its own.

    `loss` is what the net is trained by. Its value is the step's mean nats; the sum that it was divided by is what a
    synthesizer speaks of. `outputs` are the scores of a step, K.
    """

    loss: Loss
    outputs: int

    @abstractmethod
    def model(self, training: RecurrentTraining) -> Recurrent:
        """A net that fits, its weights drawn from torch's global generator."""

    @abstractmethod
    def window(self) -> Window:
        """The next window."""

    @abstractmethod
    def coming_loss(self, scores: Tensor, coming: Tensor) -> Tensor:
        """The loss of the steps to come, summed: a critic's own, of the scores it predicts, (B, C * K)."""

    @abstractmethod
    def cost(self) -> tuple[float, int]:
        """Nats of the last window, summed over its loss terms, and how many these were; as `loss` was last asked."""


class Copies(Stream):
    """Sequences to copy, ever longer ones; see `CopyStream`.

    Args:
        training: the settings.
        seed: of the sequences.
        device: where the windows are to be.
    """

    def __init__(self, training: RecurrentTraining, seed: int, device: torch.device) -> None:
        copying = Copying(training.task == "repeat-copy", training.width)
        self.copying, self.lanes, self.device = copying, training.batch, device
        self.curriculum = Curriculum(copying, training.limit)
        self._stream = CopyStream(self.curriculum, training.batch, training.unroll, seed=seed, ahead=training.ahead)
        self.outputs = copying.outputs
        self._nats, self._terms = torch.zeros(0), 0
        # All that a sequence has still to come is in what its lane's synthesizer speaks of, whatever part of it falls
        # into this window: so the divisor is the number of lanes, always.
        self.loss = Loss(self._mean, terms=lambda _target: self.lanes)

    def model(self, training: RecurrentTraining) -> Recurrent:
        """From inputs (B, T, D) to log-odds (B, T, K)."""
        sizes = {"units": training.units, "layers": training.layers, "core": training.core}
        return Recurrent(self.copying.inputs, self.copying.outputs, **sizes)

    def window(self) -> Window:
        """The next T steps."""
        inputs, targets, mask, _first, left, coming = next(self._stream)
        self._terms = int(mask.sum())
        parts = (inputs, targets, mask, left == 0, coming)
        inputs, targets, mask, ends, coming = (part.to(self.device) for part in parts)
        return Window(inputs, (targets, mask), ends, coming)

    def coming_loss(self, scores: Tensor, coming: Tensor) -> Tensor:
        """As the net's, for coming digits (B, C, K)."""
        return self.copying.loss(scores.view_as(coming), coming.clamp_min(0.0), coming[..., 0] >= 0).sum()

    def cost(self) -> tuple[float, int]:
        """Nats and number of the steps that counted."""
        return float(self._nats.sum()), self._terms

    def learned(self) -> bool:
        """Tell the curriculum how the last window went. Returns whether it has advanced."""
        return self._stream.score(self._nats.view(self.lanes, -1).sum(1))

    def _mean(self, scores: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of a window's steps, (B * T, K), summed over steps, mean over lanes."""
        nats = self.copying.loss(scores, *target)  # (B * T,)
        self._nats = nats.detach()
        return nats.sum() / self.lanes


class Text(Stream):
    """A text in lanes, read again and again.

    Args:
        training: the settings.
        text: in three parts.
        device: where the windows are to be.

    Raises:
        SettingsError: a window longer than a lane.
        DataError: fewer characters than lanes.
    """

    def __init__(self, training: RecurrentTraining, text: Characters, device: torch.device) -> None:
        inputs, targets = lanes(text.train, training.batch)  # (B, M)
        steps = inputs.shape[1]
        if training.unroll > steps:
            raise SettingsError(
                f"unroll is {training.unroll}: the text has {steps} characters for each of {training.batch} lanes; "
                f"take a shorter window, fewer lanes with --batch, or a longer text"
            )
        self.text, self.device, self.unroll = text, device, training.unroll
        self._inputs, self._targets = inputs.to(device), targets.to(device)
        self._windows = steps // training.unroll  # what is left over is not read
        nothing = torch.full((training.batch, training.ahead), NOTHING, device=device)
        read = self._targets[:, : self._windows * training.unroll]
        self._coming, self._ahead = torch.cat([read, nothing], dim=1), training.ahead
        self.outputs = len(text.vocabulary)
        self._read = 0
        self._nats, self._terms = torch.zeros(()), inputs.shape[0] * training.unroll
        self.loss = Loss(self._mean)

    def model(self, training: RecurrentTraining) -> Recurrent:
        """From tokens (B, T) to scores of the next ones (B, T, classes)."""
        sizes = {"units": training.units, "layers": training.layers, "core": training.core}
        return Recurrent(self.outputs, self.outputs, tokens=True, **sizes)

    def window(self) -> Window:
        """The next T characters; the last window of a lane ends its sequence."""
        place = self._read % self._windows
        part = slice(place * self.unroll, (place + 1) * self.unroll)
        inputs, targets = self._inputs[:, part], self._targets[:, part]
        self._read += 1
        ends = torch.full((len(inputs),), place == self._windows - 1, device=self.device)
        return Window(inputs, targets, ends, self._coming[:, part.stop : part.stop + self._ahead])

    def coming_loss(self, scores: Tensor, coming: Tensor) -> Tensor:
        """As the net's, for coming tokens (B, C)."""
        each = scores.view(-1, self.outputs)  # (B * C, K)
        return functional.cross_entropy(each, coming.flatten(), ignore_index=NOTHING, reduction="sum")

    def cost(self) -> tuple[float, int]:
        """Nats and number of the characters."""
        return float(self._nats) * self._terms, self._terms

    def _mean(self, scores: Tensor, target: Tensor) -> Tensor:
        loss = functional.cross_entropy(scores, target)
        self._nats = loss.detach()
        return loss

    @torch.no_grad()
    def evaluate(self, model: Recurrent, tokens: Tensor, side_by_side: int = 32) -> tuple[float, float]:
        """Nats of a character, and share of those that were not the likeliest, read from the beginning to the end.

        Args:
            model: the net.
            tokens: (M,).
            side_by_side: into so many lanes they are parted, fewer if there are not as many.
        """
        inputs, targets = lanes(tokens, min(side_by_side, len(tokens) - 1))
        state, nats, wrong = None, 0.0, 0
        for part, wanted in zip(inputs.split(EVALUATED_AT_ONCE, 1), targets.split(EVALUATED_AT_ONCE, 1), strict=True):
            scores, state = model(part.to(self.device), state)
            scores, wanted = scores.flatten(0, 1), wanted.to(self.device).flatten()
            nats += float(functional.cross_entropy(scores, wanted, reduction="sum"))
            wrong += int((scores.argmax(-1) != wanted).sum())
        return nats / inputs.numel(), wrong / inputs.numel()


EVALUATED_AT_ONCE = 100  # steps, to bound the memory
NOTHING = -1  # in place of a target: nothing counts there


def load(training: RecurrentTraining) -> Characters | None:
    """The text of a task; None where there is none to read.

    Raises:
        DataError: the files are missing or broken.
    """
    if training.task == "ptb":
        return ptb(training.data_dir)
    if not training.kind_of_task.text:
        return None
    assert training.data_dir is not None  # see `Task.check`
    return characters(Path(training.data_dir))


def stream_of(training: RecurrentTraining, seed: int, text: Characters | None, device: torch.device) -> Stream:
    """The stream of a cell.

    Raises:
        SettingsError, DataError: it cannot be had so.
    """
    return Copies(training, seed, device) if text is None else Text(training, text, device)
