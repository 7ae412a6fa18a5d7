"""`synthgrad recurrent`: recurrent nets that learn past their window."""

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from synthgrad.cli.compare import append_results, try_append, write_page
from synthgrad.cli.display import INTERRUPTED, Display, Interrupt
from synthgrad.core.events import Event
from synthgrad.experiments.folder import RunFolder
from synthgrad.experiments.provenance import hardware, versions
from synthgrad.experiments.recurrent.results import RecurrentResult, recurrent_summaries
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.tables import RecurrentBoard, recurrent_legend, recurrent_table
from synthgrad.experiments.spec import settings_in

__all__ = ["Options", "app", "compare"]


@dataclass(frozen=True)
class Options:
    """What `synthgrad recurrent compare` can be told.

    Attributes:
        comparison: what is compared.
        config: take the settings from the run.toml of an earlier run; options given beside it win.
        name: of the run's folder; a fresh one if not given.
        runs_dir: where the runs' folders are.
        results: append the results to this file, too, a line of JSON for each method and seed.
        quiet: no live table and no explanations, only the results.
    """

    comparison: Annotated[RecurrentComparison, tyro.conf.arg(name="")] = field(default_factory=RecurrentComparison)
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    runs_dir: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    results: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    quiet: bool = False


def app(arguments: Sequence[str]) -> tyro.extras.SubcommandApp:
    """The group of commands, as tyro wants it."""
    group = tyro.extras.SubcommandApp()
    group.command(command(arguments))
    return group


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """`compare` as tyro wants it: its defaults suit the task, or are those that `--config` names."""
    asked = list(arguments[:2]) == ["recurrent", "compare"]
    default = Options(comparison=_configured(arguments)) if asked else Options()
    line = shlex.join(["synthgrad", *arguments])

    def run(options: Annotated[Options, tyro.conf.arg(name="")] = default) -> int:
        """Train the same recurrent net with and without synthetic gradients at its windows' ends, and compare."""
        return compare(options, line)

    run.__name__ = "compare"
    return run


def _configured(arguments: Sequence[str]) -> RecurrentComparison:
    """The settings that the other options change: those of the task, and of `--config`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path, nargs="?")
    parser.add_argument("--task", nargs="?")
    parser.add_argument("--data-dir", "--data_dir", nargs="?")
    given = vars(parser.parse_known_args(list(arguments))[0])
    path = given.pop("config")
    table: dict[str, Any] = {} if path is None else settings_in(path)
    table |= {name: value for name, value in given.items() if value is not None}
    return RecurrentComparison.from_table(table, str(path) if path is not None else "the command line")


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
    results: list[RecurrentResult] = []
    with Interrupt() as interrupt:
        description = {"comparison": comparison.as_table()} | provenance
        folder = RunFolder(options.runs_dir, options.name, description, stem=comparison.task)
        try:
            with folder, Display(console, RecurrentBoard(comparison), quiet=options.quiet) as display:
                _run(comparison, provenance, (folder, display, interrupt), results)
        except KeyboardInterrupt:
            _report(console, comparison, results, quiet=options.quiet)
            console.print(f"Stopped. What there is of the run is in {folder.path}, marked unfinished.", soft_wrap=True)
            return INTERRUPTED
    if options.results is not None:
        append_results(options.results, results)
    _report(console, comparison, results, quiet=options.quiet)
    console.print(f"Kept in {folder.path}", soft_wrap=True, highlight=False)
    write_page(console, folder.path)
    return 1 if any(result.failed for result in results) else 0


def _run(
    comparison: RecurrentComparison,
    provenance: Mapping[str, Any],
    listeners: tuple[RunFolder, Display, Interrupt],
    results: list[RecurrentResult],
) -> None:
    """Train; whatever interrupts it, `results` holds the cells that have ended."""
    from synthgrad.experiments.recurrent.runner import run_recurrent_comparison  # brings torch

    def tell(event: Event, labels: Mapping[str, Any]) -> None:
        for listener in listeners:
            listener.tell(event, labels)

    def keep(result: RecurrentResult) -> None:
        listeners[0].keep(result)
        results.append(result)

    listeners[2].stop_if_pressed()  # while torch was imported
    run_recurrent_comparison(comparison, tell, keep=keep, provenance=provenance)


def _report(
    console: Console, comparison: RecurrentComparison, results: Sequence[RecurrentResult], *, quiet: bool
) -> None:
    if not results:
        return
    console.print(recurrent_table(recurrent_summaries(results)))
    if not quiet:
        console.print(Padding(recurrent_legend(comparison), (1, 0)), highlight=False, style="dim")
    for result in results:
        if result.failed is not None:
            where = Text(f"{result.method}, seed {result.seed}, failed: ", style="bold red")
            console.print(where.append(result.failed, style="default"), soft_wrap=True)
