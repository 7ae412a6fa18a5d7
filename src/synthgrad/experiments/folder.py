"""The folder of a run: under a temporary name until the run is over, so that nothing half-written looks finished.

runs/digits/run.toml        what was run, on what, and whether it came to its end; `--config` runs it again
runs/digits/events.jsonl    all that happened, see `synthgrad.core.events`
runs/digits/metrics.csv     losses and errors, a row for each evaluation
runs/digits/results.jsonl   a line for each cell, see `synthgrad.experiments.results`
runs/digits/trace/cdni-0/   where asked for, the trace of a cell, see `synthgrad.engines.trace`
"""

import csv
import io
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import Evaluated, Event, StepDone, encode
from synthgrad.experiments.results import encode_result
from synthgrad.experiments.toml import to_toml

__all__ = ["FolderError", "RunFolder"]

COLUMNS = ("method", "seed", "step", "split", "loss", "error", "train_loss")


class FolderError(SynthgradError, ValueError):
    """A run's folder cannot be made or written."""


class RunFolder:
    """Keeps what a run leaves; a context manager.

    Left normally, the run is finished. Left by an interrupt or a defect, what there is stays, marked unfinished. Left
    by an error of ours (bad input), nothing stays.

    Args:
        runs_dir: where the runs' folders are; made if need be.
        name: of the folder; if not given, `digits`, or else `digits-2` and so on.
        description: what `run.toml` says besides the status.
        stem: what the names that are not given begin with, in place of `digits`.

    Raises:
        FolderError: the name is taken or no name for a folder, or the place cannot be written to.
    """

    def __init__(
        self, runs_dir: Path, name: str | None, description: Mapping[str, Any], *, stem: str = "digits"
    ) -> None:
        self.description = dict(description)
        if name is not None and (not name or name.startswith(".") or "/" in name or os.sep in name):
            raise FolderError(f"name {name!r}: expected a plain folder name that does not start with a dot")
        self._made = _missing(runs_dir)
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            self.path, self._partial = _claim(runs_dir, name, stem)
            self._write_description("unfinished")
            # Unbuffered: each line is one write, so whatever ends the process, the lines before are whole.
            self._files = {file: open(self._partial / file, "ab", buffering=0) for file in _FILES}
        except OSError as error:
            self._remove()
            raise FolderError(
                f"{runs_dir}: cannot be written to ({error.strerror}); choose another place with --runs-dir"
            ) from None
        self._train_losses: dict[tuple[Any, Any], list[float]] = {}  # by method and seed, since the last evaluation
        self._write("metrics.csv", _row(COLUMNS))

    @property
    def working(self) -> Path:
        """Where the folder is until the run is over."""
        return self._partial

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Keep an event; `labels` hold the method and the seed."""
        self._write("events.jsonl", encode(event, **labels))
        losses = self._train_losses.setdefault((labels.get("method"), labels.get("seed")), [])
        if isinstance(event, StepDone):
            losses.append(event.loss)
        elif isinstance(event, Evaluated):
            mean = sum(losses) / len(losses) if losses else ""
            where = (labels.get("method"), labels.get("seed"))
            self._write("metrics.csv", _row((*where, event.step, event.split, event.loss, event.error, mean)))
            losses.clear()

    def keep(self, result: Any) -> None:
        """Keep the result of a cell."""
        self._write("results.jsonl", encode_result(result))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if isinstance(error, SynthgradError):
            self._remove()
            return
        if error is None:
            self._write_description("finished")
        # The name was free when it was claimed, and whoever claims it looks for the partial folder too.
        os.rename(self._partial, self.path)

    def _remove(self) -> None:
        """Leave nothing: neither this folder nor those made for it, unless somebody else has come to use them."""
        if hasattr(self, "_partial"):
            shutil.rmtree(self._partial, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()

    def _write(self, file: str, line: str) -> None:
        self._files[file].write(f"{line}\n".encode())

    def _write_description(self, status: str) -> None:
        """Write `run.toml` anew, in one go: a reader finds the old one or the new one."""
        draft = self._partial / "run.toml.partial"
        draft.write_text(to_toml({"status": status} | self.description), encoding="utf-8")
        os.replace(draft, self._partial / "run.toml")


_FILES = ("events.jsonl", "metrics.csv", "results.jsonl")


def _missing(folder: Path) -> list[Path]:
    """The folder and those around it that are not there yet, the inner ones first."""
    return [one for one in (folder, *folder.parents) if not one.exists()]


def _claim(runs_dir: Path, name: str | None, stem: str) -> tuple[Path, Path]:
    """The folder to be and its temporary stand-in, which is made here: only one run can."""
    if name is not None:
        if (claimed := _try(runs_dir, name)) is None:
            raise FolderError(
                f"{runs_dir / name}: there is a run of this name, or one under way (.{name}.partial); choose another "
                f"--name, leave it out to have a fresh one, or remove the folder"
            )
        return claimed
    number = 1
    while (claimed := _try(runs_dir, stem if number == 1 else f"{stem}-{number}")) is None:
        number += 1
    return claimed


def _try(runs_dir: Path, name: str) -> tuple[Path, Path] | None:
    final, partial = runs_dir / name, runs_dir / f".{name}.partial"
    if final.exists():
        return None
    try:
        partial.mkdir()
    except FileExistsError:
        return None
    if final.exists():  # the run that held the name ended between the two looks
        partial.rmdir()
        return None
    return final, partial


def _row(values: tuple[Any, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
