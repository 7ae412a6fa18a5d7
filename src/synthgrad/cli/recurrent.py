"""`synthgrad recurrent`: recurrent nets that learn past their window."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.padding import Padding

from synthgrad.cli.comparison import USUAL, Keeping, carry_out, command_line
from synthgrad.cli.settings import configured
from synthgrad.experiments.recurrent.results import RecurrentResult, recurrent_summaries
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.tables import RecurrentBoard, recurrent_legend, recurrent_table

__all__ = ["app", "command"]


def app(arguments: Sequence[str]) -> tyro.extras.SubcommandApp:
    """The group of commands, as tyro wants it."""
    group = tyro.extras.SubcommandApp()
    group.command(command(arguments))
    return group


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """`compare` as tyro wants it: its defaults suit the task, or are those that `--config` names."""
    asked = list(arguments[:2]) == ["recurrent", "compare"]
    default = configured(RecurrentComparison, arguments) if asked else RecurrentComparison()

    def compare(
        comparison: Annotated[RecurrentComparison, tyro.conf.arg(name="")] = default,
        keeping: Annotated[Keeping, tyro.conf.arg(name="")] = USUAL,
    ) -> int:
        """Train the same recurrent net with and without synthetic gradients at its windows' ends, and compare."""
        return carry_out(
            comparison,
            keeping,
            line=command_line(arguments),
            stem=comparison.task,
            board=RecurrentBoard(comparison),
            runner=_runner,
            show=partial(_show, comparison),
        )

    return compare


def _runner() -> Callable[..., Any]:
    from synthgrad.experiments.recurrent.runner import run_recurrent_comparison

    return run_recurrent_comparison


def _show(comparison: RecurrentComparison, console: Console, results: Sequence[RecurrentResult], quiet: bool) -> None:
    console.print(recurrent_table(recurrent_summaries(results)))
    if not quiet:
        console.print(Padding(recurrent_legend(comparison), (1, 0)), highlight=False, style="dim")
