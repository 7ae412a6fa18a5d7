"""`synthgrad reproduce`: a table of the paper, measured again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from synthgrad.cli.comparison import command_line
from synthgrad.cli.display import INTERRUPTED, Display, Interrupt, told_to
from synthgrad.experiments.provenance import hardware, versions
from synthgrad.experiments.settings import check_number
from synthgrad.experiments.suites.catalog import suite_named
from synthgrad.experiments.suites.store import Store
from synthgrad.experiments.suites.suite import AnyResult, Cell, Suite, Table, Where
from synthgrad.experiments.suites.tables import SuiteBoard, suite_table

__all__ = ["Options", "command", "reproduce"]

RESULTS = Path("results", "reproduce")


@dataclass(frozen=True)
class Options:
    """What `synthgrad reproduce` can be told.

    Attributes:
        name: table1, table2, single, sporadic, unlock or two-speeds.
        budget: small, shorter than the paper's; or full, the paper's.
        seeds: how many, of weights and batches.
        only: the rows whose names begin so, such as FCN or 'FCN 3'.
        data_dir: the folder of MNIST (table1: of Penn Treebank); a usual place if not given.
        cifar_dir: the folder of CIFAR-10 in its binary version; without it, its rows are left out.
        download: fetch MNIST if it is not there.
        device: where to train: cpu, cuda, cuda:1, mps.
        threads: threads of torch.
        results: the folder with the results; what is there is not trained again.
        quiet: no live table, only the results.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    budget: str = "small"
    seeds: int = 3
    only: Annotated[str, tyro.conf.arg(metavar="ROW")] = ""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    cifar_dir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    download: bool = False
    device: str = "cpu"
    threads: int = 1
    results: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = RESULTS
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("seeds", "threads"):
            check_number(name, getattr(self, name), at_least=1)

    @property
    def where(self) -> Where:
        """Where to train, and where the data are."""
        return Where(self.data_dir, self.cifar_dir, self.download, self.device, self.threads)


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """The command as tyro wants it."""

    def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
        """Measure a table of the paper again: table1, table2, single, sporadic, unlock or two-speeds.

        Whatever stops it, the same command goes on: each cell, a method with a seed, is kept as soon as it has ended.
        """
        return reproduce(options, command_line(arguments))

    run.__name__ = "reproduce"
    return run


def reproduce(options: Options, line: str) -> int:
    """Train what is missing of a suite, and show the table.

    Args:
        options: what to train.
        line: the command line, for the record.

    Returns:
        The exit status: 0; 1 if a cell failed; 130 if interrupted.

    Raises:
        SynthgradError: bad settings, missing data, or a place that cannot be written to; before anything is trained.
    """
    console = Console()
    whole = suite_named(options.name, options.budget)
    suite, where = whole.only(options.only), options.where
    store = Store(options.results / suite.file)
    for broken in store.broken:
        console.print(Text("Passed over: ", style="bold red").append(broken, style="default"), soft_wrap=True)
    chosen = [cell for cell in suite.cells(options.seeds) if where.has(cell.entry.training)]
    cells = store.missing(chosen)
    with Interrupt() as interrupt:
        try:
            if cells:
                store.check_writable()
                provenance = {"versions": versions(), "hardware": hardware(options.threads), "command": line}
                _train(console, suite, cells, options, store, interrupt, provenance)
        except KeyboardInterrupt:
            _show(console, whole, store)
            console.print(
                f"Stopped; {len(store.missing(cells))} of {len(cells)} cells are left, and the same command goes on "
                f"with them.",
                soft_wrap=True,
            )
            return INTERRUPTED
    _show(console, whole, store)
    if left_out := len(suite.entries) * options.seeds - len(chosen):
        console.print(f"{left_out} cells on CIFAR-10 are left out; name its folder with --cifar-dir.", soft_wrap=True)
    return 1 if any(result.failed for result in store.results) else 0


def _train(
    console: Console,
    suite: Suite,
    cells: Sequence[Cell],
    options: Options,
    store: Store,
    interrupt: Interrupt,
    provenance: Mapping[str, Any],
) -> None:
    board = SuiteBoard(suite, store.results, cells, options.seeds)
    with Display(console, board, quiet=options.quiet) as display:
        from synthgrad.experiments.suites.runner import run_cells  # brings torch: the table is there before it

        def keep(result: AnyResult) -> None:
            store.keep(result)
            board.keep(result)

        interrupt.stop_if_pressed()  # while torch was imported
        run_cells(cells, options.where, told_to(display, interrupt), keep=keep, provenance=provenance)


def _show(console: Console, suite: Suite, store: Store) -> None:
    """The whole table as far as it goes, and what it shows."""
    table = Table.of(suite, store.results)
    if not table.figures:
        return
    console.print(suite_table(table), "", sep="\n")
    for claim in suite.claims(table):
        console.print(f"- {claim}", soft_wrap=True, highlight=False)
    console.print(f"Kept in {store.path}", soft_wrap=True, highlight=False)
