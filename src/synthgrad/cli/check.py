"""`synthgrad check`: whether a model of one's own can be cut, and what that costs, before anything is trained."""

from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from synthgrad.cli.plan import load

__all__ = ["check"]

REFUSED = 1


def check(
    build: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE:FUNCTION")],
    *,
    at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")],
) -> int:
    """Look whether a model can be cut at some submodules, what crosses there, and what it costs.

    The exit status is 1 if it cannot.

    Args:
        build: a function without arguments that returns the model and a sample batch, (model, (x, target)), and
            perhaps the loss, (model, (x, target), loss).
        at: names of submodules, behind which to cut; apart by spaces or commas.
    """
    model, sample, loss = load(build)
    from synthgrad.doctor import check as look  # brings torch, as the model has

    report = look(model, at=[name for given in at for name in given.split(",")], sample=sample, loss=loss)
    Console(highlight=False).print(Text(str(report)), soft_wrap=True)
    return 0 if report.ok else REFUSED
