"""`synthgrad`: reads the command line, hands over to a command, and turns our errors into one readable message."""

import sys
from collections.abc import Sequence
from importlib.metadata import version

import tyro
from rich.console import Console
from rich.text import Text

from synthgrad.cli import bench, compare, recurrent, reproduce, schedule, train
from synthgrad.cli.check import check
from synthgrad.cli.display import INTERRUPTED
from synthgrad.cli.plan import plan
from synthgrad.cli.report import report
from synthgrad.cli.trace import trace
from synthgrad.core.errors import SynthgradError

__all__ = ["main"]

DESCRIPTION = """Train neural networks without their layers waiting for each other.

`synthgrad COMMAND --help` explains a command; `synthgrad --version` tells the version."""

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those of the process if not given.

    Returns:
        The exit status: 0, 1 where `check` refuses, 2 for bad input, 130 for Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if given == ["--version"]:
        Console().print(f"synthgrad {version('synthgrad')}", highlight=False)
        return 0
    try:
        app = tyro.extras.SubcommandApp()
        app.command(compare.command(given))
        app.command(train.command(given))
        app.command(report)
        app.command(trace)
        app.command(plan)
        app.command(check)
        app.command(bench.command(given))
        app.command(reproduce.command(given))
        app.command(recurrent.app(given), name="recurrent", help="Recurrent nets that learn past their window.")
        app.command(schedule.app(), name="schedule", help="Look at a schedule, check one, or play one on a clock.")
        return app.cli(args=given, prog="synthgrad", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
    except SynthgradError as error:
        Console(stderr=True).print(Text("synthgrad: ", style="bold red"), Text(str(error)), sep="", soft_wrap=True)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
