"""`synthgrad compare`: methods side by side on the same network and data."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.padding import Padding

from synthgrad.cli.comparison import USUAL, Keeping, carry_out, command_line
from synthgrad.cli.settings import configured
from synthgrad.cli.trace import untraced
from synthgrad.experiments.methods import method_named
from synthgrad.experiments.results import Result, summarize
from synthgrad.experiments.spec import Comparison, SettingsError
from synthgrad.experiments.tables import Board, cuts_table, legend, summary_table

__all__ = ["command"]


def command(arguments: Sequence[str]) -> Callable[..., int]:
    """The command as tyro wants it: a function whose defaults suit the data, or are those that `--config` names."""
    asked = list(arguments[:1]) == ["compare"]
    default = configured(Comparison, arguments) if asked else Comparison()

    def compare(
        comparison: Annotated[Comparison, tyro.conf.arg(name="")] = default,
        keeping: Annotated[Keeping, tyro.conf.arg(name="")] = USUAL,
        trace: bool = False,
    ) -> int:
        """Train the same network by several methods, and compare them.

        Args:
            comparison: what to compare.
            keeping: where the results go.
            trace: write down what each stage does and waits for, too; `synthgrad trace` draws it from the run's folder.
        """
        plain = [name for name in comparison.methods if trace and method_named(name).plain]
        if plain and len(plain) == len(comparison.methods):
            raise SettingsError(untraced(plain[0]))
        if plain and not keeping.quiet:
            Console(highlight=False).print(untraced(plain[0]), soft_wrap=True)
        return carry_out(
            comparison,
            keeping,
            line=command_line(arguments),
            stem=comparison.data_set.name,
            board=Board(comparison),
            runner=_runner,
            show=_show,
            trace=trace,
        )

    return compare


def _runner() -> Callable[..., Any]:
    from synthgrad.experiments.runner import run_comparison

    return run_comparison


def _show(console: Console, results: Sequence[Result], quiet: bool) -> None:
    summaries = summarize(results)
    if not quiet and any(summary.alignment for summary in summaries):
        console.print(cuts_table(summaries), "", sep="\n")
    console.print(summary_table(summaries, width=console.width))
    if not quiet:
        console.print(Padding(legend(summaries), (1, 0)), highlight=False, style="dim")
