"""`synthgrad compare`: methods side by side on the same network and data."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from synthgrad.cli.display import INTERRUPTED, Display, Interrupt
from synthgrad.cli.settings import configured
from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import Event
from synthgrad.experiments.folder import RunFolder
from synthgrad.experiments.provenance import hardware, versions
from synthgrad.experiments.results import Result, ResultsError, encode_result, summarize
from synthgrad.experiments.spec import Comparison
from synthgrad.experiments.tables import Board, cuts_table, legend, summary_table

__all__ = ["Options", "append_results", "command", "compare", "try_append", "write_page"]


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
    """The command as tyro wants it: a function whose defaults suit the data, or are those that `--config` names."""
    asked = list(arguments[:1]) == ["compare"]
    default = Options(comparison=configured(Comparison, arguments)) if asked else Options()
    line = shlex.join(["synthgrad", *arguments])

    def run(options: Annotated[Options, tyro.conf.arg(name="")] = default) -> int:
        """Train the same network by several methods, and compare them."""
        return compare(options, line)

    run.__name__ = "compare"
    return run


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
        try_append(options.results)
    results: list[Result] = []
    with Interrupt() as interrupt:
        description = {"comparison": comparison.as_table()} | provenance
        folder = RunFolder(options.runs_dir, options.name, description, stem=comparison.data_set.name)
        try:
            with folder, Display(console, Board(comparison), quiet=options.quiet) as display:
                _run(comparison, provenance, (folder, display, interrupt), results)
        except KeyboardInterrupt:
            _report(console, results, quiet=options.quiet)
            console.print(f"Stopped. What there is of the run is in {folder.path}, marked unfinished.", soft_wrap=True)
            return INTERRUPTED
    if options.results is not None:
        append_results(options.results, results)
    _report(console, results, quiet=options.quiet)
    console.print(f"Kept in {folder.path}", soft_wrap=True, highlight=False)
    write_page(console, folder.path)
    return 1 if any(result.failed for result in results) else 0


def _run(
    comparison: Comparison,
    provenance: Mapping[str, Any],
    listeners: tuple[RunFolder, Display, Interrupt],
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

    listeners[2].stop_if_pressed()  # while torch was imported
    run_comparison(comparison, tell, keep=keep, provenance=provenance)


def try_append(path: Path) -> None:
    """Raise now what `append_results` would after the training; leaves no empty file."""
    new = not path.exists()
    append_results(path, [])
    if new:
        path.unlink()


def append_results(path: Path, results: Sequence[Any]) -> None:
    """Append results to a file. Raises `ResultsError` if it cannot be written to."""
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


def write_page(console: Console, folder: Path) -> None:
    """The page of a run; that it cannot be written takes nothing from the run."""
    from synthgrad.experiments.report import write_report

    try:
        console.print(f"Report: {write_report(folder)}", soft_wrap=True, highlight=False)
    except SynthgradError as error:
        console.print(Text("No report: ", style="bold red").append(str(error), style="default"), soft_wrap=True)
