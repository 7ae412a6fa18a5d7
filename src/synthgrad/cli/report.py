"""`synthgrad report`: the page of a run, from what its folder holds."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

__all__ = ["report"]


def report(folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]) -> int:
    """Write the report of a run anew, and say where it is.

    Args:
        folder: of the run, such as runs/digits.
    """
    from synthgrad.experiments.report import write_report

    Console().print(f"Report: {write_report(folder)}", soft_wrap=True, highlight=False)
    return 0
