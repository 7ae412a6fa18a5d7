"""`synthgrad train`: one method, and the plain model that comes out, in a file that needs none of ours to be read."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from synthgrad.cli.display import INTERRUPTED, Display, Interrupt, told_to
from synthgrad.cli.output import check_writable
from synthgrad.cli.settings import configured
from synthgrad.cli.trace import untraced
from synthgrad.experiments.measures import Measure, measure_of
from synthgrad.experiments.methods import method_named
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import Comparison, SettingsError, Training
from synthgrad.experiments.tables import Board

__all__ = ["Options", "command", "train"]


@dataclass(frozen=True)
class Options:
    """What `synthgrad train` can be told.

    Attributes:
        method: out of bp, zero, dni, cdni, unlock, logistic, sobolev, critic, local, local-block, predsim, dfa, stale,
            staged.
        training: what is trained on what, and how.
        seed: of weights and batches; on the digits, also which fifth is tested.
        out: the file for the plain model; what it holds is replaced.
        config: take the settings from the run.toml of an earlier run; options given beside it win.
        trace: write down what each stage does, when, and what it waits for, into this folder; `synthgrad trace FOLDER`
            draws it.
        quiet: no live table, only the result.
    """

    method: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("model.safetensors")
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    trace: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    quiet: bool = False


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """The command as tyro wants it; as in `compare`, its defaults suit the data or the configuration."""
    asked = list(arguments[:1]) == ["train"]
    default = Options(tyro.MISSING, configured(Training, arguments) if asked else Training())

    def run(options: Annotated[Options, tyro.conf.arg(name="")] = default) -> int:
        """Train by one method, and save the plain model."""
        return train(options)

    run.__name__ = "train"
    return run


def train(options: Options) -> int:
    """Train, show it, and save the plain model.

    Args:
        options: what to train, and where to put it.

    Returns:
        The exit status: 0; 1 if the training failed; 130 if interrupted; but for 0, nothing is saved.

    Raises:
        SynthgradError: bad settings, or a place that cannot be written to; before anything is trained.
    """
    console = Console()
    if method_named(options.method).plain and options.trace is not None:
        raise SettingsError(untraced(options.method))
    if options.seed < 0:
        raise SettingsError(f"seed is {options.seed}: expected 0 or more")
    check_writable(options.out, "--out")
    settings = {one.name: getattr(options.training, one.name) for one in fields(Training)}
    shown = Comparison(methods=(options.method,), seeds=1, **settings)
    try:
        with Interrupt() as interrupt, Display(console, Board(shown), quiet=options.quiet) as display:
            result = _run(options, (display, interrupt))
    except KeyboardInterrupt:
        console.print("Stopped. Nothing has been saved.")
        return INTERRUPTED
    if result.failed is not None:
        console.print(Text("failed: ", style="bold red").append(result.failed, style="default"), soft_wrap=True)
        return 1
    console.print(f"{options.method}: {_figures(result)}, after {result.steps} steps", highlight=False)
    console.print(f"The plain model is in {options.out}", soft_wrap=True, highlight=False)
    if options.trace is not None:
        console.print(f"Traced: synthgrad trace {shlex.quote(str(options.trace))}", soft_wrap=True, highlight=False)
    return 0


def _run(options: Options, listeners: tuple[Display, Interrupt]) -> Result:
    """Train and, if that went well, save."""
    from synthgrad.experiments.runner import Cell  # brings torch: the table is there before it
    from synthgrad.experiments.saving import save_plain
    from synthgrad.experiments.turns import threads

    listeners[1].stop_if_pressed()  # while torch was imported
    with threads(options.training.threads):
        tell = told_to(*listeners)
        cell = Cell(options.training, method_named(options.method), options.seed, tell, trace_to=options.trace)
        for _ in cell.turns():
            pass
    result = cell.result()
    if result.failed is None:
        save_plain(cell.net.plain, result, options.out)
    return result


def _figures(result: Result) -> str:
    """The error or loss, on the test part and on the validation part."""
    measure = measure_of(result.settings)
    test = measure.of(error=result.test_error, loss=result.test_loss)
    valid = measure.of(error=result.valid_error, loss=result.valid_loss)
    return f"test {measure.name} {_written(test, measure)}, validation {measure.name} {_written(valid, measure)}"


def _written(value: float | None, measure: Measure) -> str:
    return "-" if value is None else measure.with_unit(value)
