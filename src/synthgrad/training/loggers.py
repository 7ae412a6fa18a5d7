"""Where a training writes down what happens: files, a progress bar, trackers. Each is told the same events."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import Evaluated, Event, Probed, Started, StepDone, decode, encode

__all__ = ["CSVLogger", "JSONLLogger", "Logger", "ProgressBar", "TensorBoardLogger", "WandbLogger", "figures"]


class Logger(Protocol):
    """Told what happens in a training; three methods are all that a logger needs.

    With several processes, only the first one's loggers are told anything.
    """

    def start(self, settings: Mapping[str, Any], step: int) -> None:
        """A training begins, or goes on behind `step`; what was logged of later steps is to be forgotten."""
        ...

    def log(self, event: Event) -> None:
        """Something has happened; see `synthgrad.core.events`."""
        ...

    def close(self) -> None:
        """The training is over, or has failed. May be started again."""
        ...


def figures(event: Event) -> dict[str, float]:
    """The finite numbers in an event, by name; none in most kinds.

    >>> figures(Evaluated(10, "valid", 0.5, 0.25))
    {'valid/loss': 0.5, 'valid/error': 0.25}
    """
    match event:
        case StepDone(_, loss, agreement):
            found = {"train/loss": loss, **_flat("agreement", agreement)}
        case Probed(_, alignment):
            found = _flat("alignment", alignment)
        case Evaluated(_, split, loss, error):
            found = {f"{split}/loss": loss, f"{split}/error": error}
        case _:
            found = {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _flat(kind: str, by_cut: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{kind}/{cut}/{name}": value for cut, values in by_cut.items() for name, value in values.items()}


# ---- files -----------------------------------------------------------------------------------------------------------


class _LineLogger:
    """A text file that grows by whole lines, each one write: whatever ends the process, those before are there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: Any = None

    def start(self, settings: Mapping[str, Any], step: int) -> None:
        """Open the file, with those lines of an earlier one that are whole and not of a later step."""
        before = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if step and self.path.exists() else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.partial")
        kept = (line for line in before if line.endswith("\n") and self._step(line) <= step)
        draft.write_text("".join(kept), encoding="utf-8")
        os.replace(draft, self.path)
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: str) -> None:
        self._file.write(f"{line}\n".encode())

    def _step(self, line: str) -> float:
        """To which step a line belongs; what begins a file comes before all of them, what is not ours behind."""
        raise NotImplementedError


class JSONLLogger(_LineLogger):
    """Each event as a line of JSON; `synthgrad.core.events.decode` reads it back.

    A training that goes on from a checkpoint goes on in its file, behind the last line of the checkpoint's step.

    Args:
        path: of the file; a new training begins it anew.
    """

    def log(self, event: Event) -> None:
        """Write a line."""
        self._write(encode(event))

    def _step(self, line: str) -> float:
        try:
            event, _ = decode(line)
        except ValueError:
            return math.inf
        if isinstance(event, StepDone | Evaluated | Probed):
            return event.step
        return -math.inf if isinstance(event, Started) else math.inf


class CSVLogger(_LineLogger):
    """The figures, a row for each: step, name, value. Goes on as `JSONLLogger` does.

    Args:
        path: of the file; a new training begins it anew.
    """

    def start(self, settings: Mapping[str, Any], step: int) -> None:
        """Open the file, and write the names of the columns if it is new."""
        super().start(settings, step)
        if self.path.stat().st_size == 0:
            self._write("step,name,value")

    def log(self, event: Event) -> None:
        """Write a row for each figure."""
        for name, value in figures(event).items():
            row = io.StringIO()
            csv.writer(row, lineterminator="").writerow((getattr(event, "step", 0), name, value))
            self._write(row.getvalue())

    def _step(self, line: str) -> float:
        step = line.partition(",")[0]
        return -math.inf if step == "step" else int(step) if step.isdecimal() else math.inf


# ---- people and trackers ---------------------------------------------------------------------------------------------


class ProgressBar:
    """A line in the terminal: how far it has come, and the newest figures."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._figures: dict[str, float] = {}

    def start(self, settings: Mapping[str, Any], step: int) -> None:
        """Draw it."""
        from rich.progress import BarColumn as Bar
        from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = Bar(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
        self._bar, self._figures = Progress(*columns, auto_refresh=False), {}
        self._task = self._bar.add_task("", total=settings.get("steps"), completed=step)
        self._bar.start()

    def log(self, event: Event) -> None:
        """Draw it anew."""
        self._figures |= {name: value for name, value in figures(event).items() if not name.startswith("a")}
        told = "  ".join(f"{name} {value:.4g}" for name, value in self._figures.items())
        self._bar.update(self._task, completed=getattr(event, "step", None), description=told, refresh=True)

    def close(self) -> None:
        """Leave the terminal as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class TensorBoardLogger:
    """The figures as TensorBoard draws them.

    Args:
        folder: for its files.

    Raises:
        SynthgradError: tensorboard is not installed; told when a training begins.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def start(self, settings: Mapping[str, Any], step: int) -> None:
        """Open a file of its own; TensorBoard hides what earlier files say of later steps."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("TensorBoardLogger", "tensorboard") from None
        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)
        self._writer.add_text("settings", f"`{json.dumps(dict(settings), default=str)}`", step)

    def log(self, event: Event) -> None:
        """Add the figures."""
        for name, value in figures(event).items():
            self._writer.add_scalar(name, value, getattr(event, "step", 0))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbLogger:
    """The figures as Weights & Biases draws them.

    Args:
        settings: for `wandb.init`: `project=`, `mode="offline"`, or `id=` and `resume="allow"` to go on with a run.

    Raises:
        SynthgradError: wandb is not installed; told when a training begins.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self._run: Any = None

    def start(self, settings: Mapping[str, Any], step: int) -> None:
        """Begin a run."""
        try:
            import wandb  # pyrefly: ignore
        except ImportError:
            raise _missing("WandbLogger", "wandb") from None
        self._run = wandb.init(**{"config": dict(settings), **self.settings})

    def log(self, event: Event) -> None:
        """Send the figures; to W&B a step's figures are complete when a later one's come."""
        if found := figures(event):
            self._run.log(found, step=getattr(event, "step", 0))

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _missing(logger: str, package: str) -> SynthgradError:
    return SynthgradError(
        f"{logger}: the package {package} is not installed; install synthgrad[{package}], or log to a file with "
        f"JSONLLogger or CSVLogger"
    )
