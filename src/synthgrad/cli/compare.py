"""`synthgrad compare`: methods side by side on the digits."""

import argparse
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from synthgrad.core.events import Event, Failed, Finished
from synthgrad.experiments.folder import RunFolder
from synthgrad.experiments.provenance import hardware, versions
from synthgrad.experiments.results import Result, ResultsError, encode_result, summarize
from synthgrad.experiments.spec import Comparison
from synthgrad.experiments.tables import Board, cuts_table, legend, summary_table

__all__ = ["Options", "command", "compare"]

REFRESH_EVERY = 0.15  # seconds
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True)
class Options:
    """What `synthgrad compare` can be told.

    Attributes:
        comparison: what is compared.
        config: take the settings from the run.toml of an earlier run; options given beside it win.
        name: of the run's folder; a fresh one if not given.
        runs_dir: where the runs' folders are.
        results: append the results to this file, too, a line of JSON for each method and seed.
        quiet: no live table and no explanations, only the results.
    """

    comparison: Annotated[Comparison, tyro.conf.arg(name="")] = field(default_factory=Comparison)
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    runs_dir: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    results: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    quiet: bool = False


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """The command as tyro wants it: a function whose defaults are those that `--config` names, if it is there."""
    default = Options(comparison=_configured(arguments))
    line = shlex.join(["synthgrad", *arguments])

    def run(options: Annotated[Options, tyro.conf.arg(name="")] = default) -> int:
        """Train the same network by several methods, on handwritten digits, and compare them."""
        return compare(options, line)

    run.__name__ = "compare"
    return run


def _configured(arguments: Sequence[str]) -> Comparison:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path, nargs="?")
    path = parser.parse_known_args(list(arguments))[0].config
    return Comparison() if path is None else Comparison.read(path)


def compare(options: Options, line: str) -> int:
    """Run a comparison, show it, and keep it in a folder.

    Args:
        options: what to run.
        line: the command line, for the record.

    Returns:
        The exit status: 0; 1 if a cell failed; 130 if interrupted.

    Raises:
        SynthgradError: bad settings, or a place that cannot be written to; before anything is trained.
    """
    console = Console()
    comparison = options.comparison
    provenance = {"versions": versions(), "hardware": hardware(comparison.threads), "command": line}
    if options.results is not None:
        _try_append(options.results)
    folder = RunFolder(options.runs_dir, options.name, {"comparison": comparison.as_table()} | provenance)
    results: list[Result] = []
    try:
        with folder, Interrupt() as interrupt, Display(console, comparison, quiet=options.quiet) as display:
            _run(comparison, provenance, (folder, display, interrupt), results)
    except KeyboardInterrupt:
        _report(console, results, quiet=options.quiet)
        console.print(f"Stopped. What there is of the run is in {folder.path}, marked unfinished.", soft_wrap=True)
        return INTERRUPTED
    if options.results is not None:
        _append(options.results, results)
    _report(console, results, quiet=options.quiet)
    console.print(f"Kept in {folder.path}", soft_wrap=True, highlight=False)
    return 1 if any(result.failed for result in results) else 0


def _run(
    comparison: Comparison,
    provenance: Mapping[str, Any],
    listeners: tuple[RunFolder, "Display", "Interrupt"],
    results: list[Result],
) -> None:
    """Train; whatever interrupts it, `results` holds the cells that have ended."""
    from synthgrad.experiments.runner import run_comparison  # brings torch: the table is there before it

    def tell(event: Event, labels: Mapping[str, Any]) -> None:
        for listener in listeners:
            listener.tell(event, labels)

    def keep(result: Result) -> None:
        listeners[0].keep(result)
        results.append(result)

    run_comparison(comparison, tell, keep=keep, provenance=provenance)


def _try_append(path: Path) -> None:
    """Raise now what `_append` would after the training; leaves no empty file."""
    new = not path.exists()
    _append(path, [])
    if new:
        path.unlink()


def _append(path: Path, results: Sequence[Result]) -> None:
    try:
        with path.open("ab") as file:
            file.write("".join(f"{encode_result(result)}\n" for result in results).encode())
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be written to ({error.strerror}); name another file for --results"
        ) from None


def _report(console: Console, results: Sequence[Result], *, quiet: bool) -> None:
    if not results:
        return
    summaries = summarize(results)
    if not quiet and any(summary.alignment for summary in summaries):
        console.print(cuts_table(summaries), "", sep="\n")
    console.print(summary_table(summaries, width=console.width))
    if not quiet:
        console.print(Padding(legend(summaries), (1, 0)), highlight=False, style="dim")
    for result in results:
        if result.failed is not None:
            where = Text(f"{result.method}, seed {result.seed}, failed: ", style="bold red")
            console.print(where.append(result.failed, style="default"), soft_wrap=True)


class Interrupt:
    """Ctrl-C stops between two steps, a second one at once. A context manager.

    Raised anywhere, an interrupt may be swallowed, as it is in places while torch is imported.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        # Only in place of Python's own: a process that is to ignore Ctrl-C goes on ignoring it.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Stop here, if asked to."""
        if self.pressed:
            raise KeyboardInterrupt

    def _press(self, *_: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


class Display:
    """The live table in a terminal; elsewhere a line for each seed that is done. A context manager.

    It is drawn between steps, by the thread that trains: a thread of its own would take time from the steps timed.
    """

    def __init__(self, console: Console, comparison: Comparison, *, quiet: bool) -> None:
        self.board = Board(comparison)
        self.console = console
        self.quiet = quiet
        self.live = Live(self.board, console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._ended = 0

    def __enter__(self) -> "Display":
        if self.animated:
            self.live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    @property
    def animated(self) -> bool:
        """Whether the table is drawn again and again."""
        return self.console.is_terminal and not self.quiet

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event and, where it is time to, draw."""
        self.board.tell(event, labels)
        if self.animated and time.monotonic() - self._drawn > REFRESH_EVERY:
            self.live.refresh()
            self._drawn = time.monotonic()
        elif not self.animated and not self.quiet and isinstance(event, Finished | Failed):
            self._ended += 1
            if self._ended % len(self.board.comparison.methods) == 0:
                self.console.print(self.board.headline(), highlight=False)
