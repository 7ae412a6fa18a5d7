"""`synthgrad plan`: what decoupling a model of one's own would gain on some devices, before anything is changed."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from synthgrad.core.errors import PlanningError
from synthgrad.core.links import parse_links
from synthgrad.experiments.report.drawing import shortened
from synthgrad.planning.advice import Advice, plan_for, size_text, time_text
from synthgrad.planning.balance import prediction
from synthgrad.planning.options import Family
from synthgrad.planning.script import script

__all__ = ["load", "plan"]

NUMBERS = 66  # columns of the terminal that the table of stages takes but its first column
_FORM = "expected FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION"


def plan(
    build: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE:FUNCTION")],
    *,
    devices: int,
    link: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LINK [LINK ...]")] = (),
    microbatches: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    at: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = (),
    seconds: float = 15.0,
) -> int:
    """Measure a model, choose its cuts, and compare the ways to train it on several devices.

    Args:
        build: a function without arguments that returns the model and a sample batch, (model, (x, target)), and
            perhaps the loss, (model, (x, target), loss).
        devices: how many there are, each like this one.
        link: between them, such as 1GBps,20ms; and where one differs, 0-1=100MBps,50ms. Not given, it costs nothing.
        microbatches: into how many parts pipelines split a batch; chosen if not given.
        at: names of submodules; cut only there.
        seconds: to measure for.
    """
    if devices < 1:
        raise PlanningError(f"devices is {devices}: expected 1 or more")
    if microbatches is not None and microbatches < 1:
        raise PlanningError(f"microbatches is {microbatches}: expected 1 or more")
    if not 0.0 < seconds < float("inf"):
        raise PlanningError(f"seconds is {seconds}: expected more than 0")
    parse_links(link, devices)
    model, sample, loss = load(build)
    advice = plan_for(
        model,
        sample,
        devices=devices,
        links=link,
        microbatches=microbatches,
        loss=loss,
        among=at or None,
        seconds=seconds,
    )
    console = Console(highlight=False)
    console.print(_table(advice))
    console.print(Text(_COLUMNS.replace("\n", " "), style="dim"))
    if any(option.replicas > 1 for option in advice.options):
        console.print(Text(_SHARED, style="dim"))
    console.print()
    for paragraph in advice.words():
        console.print(Text(paragraph))
        console.print()
    if advice.decoupled is not None:
        console.print(_stages(advice, console.width))
        console.print(Text(_OF_STAGES.replace("\n", " "), style="dim"))
        console.print()
        console.print(Text(script(advice, build, sample[-1], loss=loss is not None)), soft_wrap=True)
    console.print(Text(advice.command), soft_wrap=True)
    return 0


def _table(advice: Advice) -> Table:
    links = " ".join(advice.links) or "links that cost nothing"
    title = f"{advice.devices} devices, {links}; a batch in {advice.microbatches} parts where pipelines split it"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("schedule", overflow="fold")
    for heading in ("step", "idle", "memory", "per link", "extra"):
        table.add_column(heading, justify="right", no_wrap=True)
    for family in Family:
        if of_family := advice.of(family):
            table.add_section()
            table.add_row(Text(family.value, style="italic"))
        for option in of_family:
            table.add_row(
                option.title,
                time_text(option.seconds),
                f"{100 * option.idle:.0f} %",
                size_text(option.memory),
                size_text(option.traffic),
                f"{100 * option.extra:.0f} %",
                style="bold" if option is advice.fastest else None,
            )
    return table


def _stages(advice: Advice, width: int) -> Table:
    option = advice.taken
    title = f"Stages of {option.title}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("stage", no_wrap=True)
    for heading in ("forward", "backward", "update", "extra", "kept", "sends", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    stages = advice.stages(option)
    for index, (stage, memory) in enumerate(zip(stages, option.memories, strict=True)):
        extra = stage.extra if option.family is Family.UNLOCKED else 0.0
        if option.predicts_inputs and index > 0:
            extra += prediction(stages[index - 1], stage.forward)
        times = (stage.forward, stage.backward, stage.update, extra)
        sizes = (stage.activation, stage.boundary, memory)
        written = [time_text(value) if value else "-" for value in times]
        written += [size_text(value) if value else "-" for value in sizes]
        table.add_row(shortened(f"{index} {stage.name}", max(12, width - NUMBERS)), *written)
    return table


_OF_STAGES = """\
Of a whole batch. A stage goes by the name of its last submodule. extra: what synthesizers add. kept: activations that
autograd keeps for the backward pass. sends: the activation at its cut."""
_COLUMNS = """\
step: on one batch, once all devices are busy. memory: on the fullest device, with Adam's averages. per link: bytes a
step, one way, on the busiest link. extra: synthesizers' work, as a share of the model's own."""
_SHARED = """\
stages × devices: so many devices hold each stage and share the batch; only the fastest such pipeline of each kind."""


# ---- the user's model ------------------------------------------------------------------------------------------------


def load(build: str) -> tuple[Any, Any, Any]:
    """Model, sample and loss (or None), from the function that `FILE.py:FUNCTION` names.

    Raises:
        PlanningError: no such file or function, one that fails, or one that returns something else.
    """
    place, colon, name = build.rpartition(":")
    if not colon or not place or not name:
        raise PlanningError(f"{build!r}: {_FORM}, such as model.py:build")
    function = getattr(_module(place), name, None)
    if not callable(function):
        raise PlanningError(f"{build!r}: {place} has no function {name!r}; {_FORM}")
    try:
        made = function()
    except Exception as error:
        raise PlanningError(f"{build}: failed with {type(error).__name__}: {error}") from error
    from torch import nn  # the user's file has brought it already

    parts = made if isinstance(made, tuple) else (made,)
    if not isinstance(parts[0], nn.Module) or len(parts) > 3:
        raise PlanningError(
            f"{build}: returned {type(made).__name__}, expected (model, sample) or (model, sample, loss)"
        )
    if len(parts) == 1:
        raise PlanningError(
            f"{build}: returned a model and no sample batch to measure it with; return (model, (x, target))"
        )
    return (*parts, None) if len(parts) == 2 else parts


def _module(place: str) -> Any:
    path = Path(place)
    try:
        if path.suffix != ".py":
            return importlib.import_module(place)
        if not path.is_file():
            raise PlanningError(f"{place}: no such file; {_FORM}")
        sys.path.insert(0, str(path.resolve().parent))  # so that it finds its neighbors, as when it is run
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None and found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    except PlanningError:
        raise
    except Exception as error:
        raise PlanningError(f"{place}: cannot be imported ({type(error).__name__}: {error}); {_FORM}") from error
