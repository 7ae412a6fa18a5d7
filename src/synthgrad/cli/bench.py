"""`synthgrad bench`: measures, and says what to quote."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from synthgrad.experiments.spec import SettingsError

__all__ = ["Options", "bench", "command"]


@dataclass(frozen=True)
class Options:
    """What `synthgrad bench` can be told.

    Attributes:
        name: step, memory, interface, signals, plan, recurrent, startup, pipeline, latency, trace or transport.
        rounds: how often each side is measured; the median counts. Each benchmark has a number of its own.
        seeds: pipeline and latency: so many runs of MNIST, to see the accuracy, too; 0 for none.
        epochs: pipeline and latency: of each of these runs.
        json: write the measurement to this file, too.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    rounds: int | None = None
    seeds: int | None = None
    epochs: int | None = None
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """The command as tyro wants it."""
    line = shlex.join(["synthgrad", *arguments])

    def run(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
        """Measure step, memory, interface, signals, plan, recurrent, startup, pipeline, latency, trace or transport.

        Stop other work first; then quote.
        """
        return bench(options, line)

    run.__name__ = "bench"
    return run


def bench(options: Options, line: str) -> int:
    """Measure, print a table, and write the JSON if asked.

    Raises:
        SettingsError: no such benchmark, or a file that cannot be written; before anything is measured.
    """
    from synthgrad.experiments.bench import measure  # brings torch

    if options.json is not None:
        _try_write(options.json)
    console = Console()
    measurement = measure(options.name, rounds=options.rounds, seeds=options.seeds, epochs=options.epochs, command=line)
    table = Table(title=f"bench {measurement.name}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in measurement.ratios.items():
        table.add_row(name, "never" if value is None else f"{value:.3f} ×", style="bold")
    for name, value in measurement.figures.items():
        table.add_row(name, "never" if value is None else f"{value:.3f}")
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in measurement.machine.items()), highlight=False)
    if options.json is not None:
        options.json.write_text(measurement.as_json(), encoding="utf-8")
    return 0


def _try_write(path: Path) -> None:
    """Raise `SettingsError` if the file cannot be written to; leaves nothing behind."""
    existed = path.exists()
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written to ({error.strerror}); name another file") from None
    if not existed:
        path.unlink()
