"""Carrying out a comparison of any kind: it is run, shown, kept in a folder, and drawn as a page."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from synthgrad.cli.display import INTERRUPTED, Board, Display, Interrupt, told_to
from synthgrad.cli.output import check_writable
from synthgrad.core.errors import SynthgradError
from synthgrad.experiments.folder import RunFolder
from synthgrad.experiments.provenance import hardware, versions
from synthgrad.experiments.results import ResultsError, encode_result

__all__ = ["USUAL", "Keeping", "carry_out", "command_line"]


@dataclass(frozen=True)
class Keeping:
    """Where the settings of a comparison come from, and where its results go.

    Attributes:
        config: take the settings from the run.toml of an earlier run; options given beside it win.
        name: of the run's folder; a fresh one if not given.
        runs_dir: where the runs' folders are.
        results: append the results to this file, too, a line of JSON for each method and seed.
        quiet: no live table and no explanations, only the results.
    """

    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    runs_dir: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    results: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    quiet: bool = False


USUAL = Keeping()


def command_line(arguments: Sequence[str]) -> str:
    """The command as it can be given again, for the record."""
    return shlex.join(["synthgrad", *arguments])


def carry_out(
    comparison: Any,
    keeping: Keeping,
    *,
    line: str,
    stem: str,
    board: Board,
    runner: Callable[[], Callable[..., Any]],
    show: Callable[[Console, Sequence[Any], bool], None],
    trace: bool = False,
) -> int:
    """Run a comparison, show it, and keep it in a folder.

    Args:
        comparison: what to run.
        keeping: where the results go.
        line: the command line, for the record.
        stem: what the names of folders begin with that are given none.
        board: the live table.
        runner: called once the table is there, for it brings torch; gives the function that runs the comparison, such
            as `run_comparison`.
        show: prints what came out: takes the results, and whether to do without explanations.
        trace: have the runner write traces into the folder; only that of `compare` can.

    Returns:
        The exit status: 0; 1 if a cell failed; 130 if interrupted.

    Raises:
        SynthgradError: bad settings, or a place that cannot be written to; before anything is trained.
    """
    console = Console()
    provenance = {"versions": versions(), "hardware": hardware(comparison.threads), "command": line}
    if keeping.results is not None:
        check_writable(keeping.results, "--results")
    results: list[Any] = []  # whatever interrupts the run, of the cells that have ended
    with Interrupt() as interrupt:
        folder = RunFolder(
            keeping.runs_dir, keeping.name, {"comparison": comparison.as_table()} | provenance, stem=stem
        )

        more = {"traces": folder.working / "trace"} if trace else {}

        def keep(result: Any) -> None:
            folder.keep(result)
            results.append(result)

        try:
            with folder, Display(console, board, quiet=keeping.quiet) as display:
                run = runner()
                interrupt.stop_if_pressed()  # while torch was imported
                run(comparison, told_to(folder, display, interrupt), keep=keep, provenance=provenance, **more)
        except KeyboardInterrupt:
            _report(console, results, show, quiet=keeping.quiet)
            console.print(f"Stopped. What there is of the run is in {folder.path}, marked unfinished.", soft_wrap=True)
            return INTERRUPTED
    if keeping.results is not None:
        _append(keeping.results, results)
    _report(console, results, show, quiet=keeping.quiet)
    console.print(f"Kept in {folder.path}", soft_wrap=True, highlight=False)
    if trace:
        console.print(f"Traced: synthgrad trace {shlex.quote(str(folder.path))}", soft_wrap=True, highlight=False)
    _write_page(console, folder.path)
    return 1 if any(result.failed for result in results) else 0


def _append(path: Path, results: Sequence[Any]) -> None:
    try:
        with path.open("ab") as file:
            file.write("".join(f"{encode_result(result)}\n" for result in results).encode())
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be written to ({error.strerror}); name another file for --results"
        ) from None


def _report(
    console: Console, results: Sequence[Any], show: Callable[[Console, Sequence[Any], bool], None], *, quiet: bool
) -> None:
    if not results:
        return
    show(console, results, quiet)
    for result in results:
        if result.failed is not None:
            where = Text(f"{result.method}, seed {result.seed}, failed: ", style="bold red")
            console.print(where.append(result.failed, style="default"), soft_wrap=True)


def _write_page(console: Console, folder: Path) -> None:
    """The page of a run; that it cannot be written takes nothing from the run."""
    from synthgrad.experiments.report import write_report

    try:
        console.print(f"Report: {write_report(folder)}", soft_wrap=True, highlight=False)
    except SynthgradError as error:
        console.print(Text("No report: ", style="bold red").append(str(error), style="default"), soft_wrap=True)
