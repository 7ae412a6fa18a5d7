"""`synthgrad trace`: what waited for what in a real run, as a table, a picture, and for Perfetto."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from synthgrad.core.errors import TraceError

if TYPE_CHECKING:
    from synthgrad.experiments.traces import Trace

__all__ = ["trace", "untraced"]

NUMBERS = 65  # columns of the terminal that all of the table takes but its first column
PREDICTED = 20  # steps, or as many as there are


def trace(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    steps: Annotated[str, tyro.conf.arg(metavar="FIRST:END")] = "",
    perfetto: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    simulate: bool = False,
) -> int:
    """Where the time of a traced run went: work, waits by the lock they are due to; draws trace.svg and trace.html.

    Args:
        folder: that the run gave to synthgrad.trace, or the one that holds it as trace/, such as a run's; of several
            traces in it, each is drawn.
        steps: which to draw, such as 10:13 (the end is not drawn); a few in the middle, if not given.
        perfetto: write the whole trace to this file, for ui.perfetto.dev.
        simulate: play the plan with the trace's own costs, and print that beside what was measured.
    """
    from synthgrad.experiments.traces import read_trace, trace_folders
    from synthgrad.experiments.traces.perfetto import perfetto as exported

    console = Console(highlight=False)
    places = trace_folders(folder)
    if perfetto is not None and len(places) > 1:
        raise TraceError(f"--perfetto: {folder} holds {len(places)} traces; name one of them, such as {places[0]}")
    for place in places:
        if len(places) > 1:
            console.print(Text(str(place), style="bold"), soft_wrap=True)
        found = read_trace(place)
        _show(found, place, steps, console, simulate=simulate)
        _draw(found, folder if len(places) == 1 else place, steps, console)
        if perfetto is not None:
            _write(perfetto, exported(found))
            console.print(f"For ui.perfetto.dev: {perfetto}", soft_wrap=True)
    return 0


def untraced(method: str) -> str:
    """Why there is no trace of a plain loop's training."""
    return f"{method} is not traced: it is a plain loop, and has no stages; staged learns the same, in stages."


def _show(found: "Trace", place: Path, steps: str, console: Console, *, simulate: bool) -> None:
    from synthgrad.experiments.traces.table import NEITHER, spans

    for one in found.missing:
        console.print(f"{one}.", soft_wrap=True)
    if not found.steps:
        raise TraceError(f"{place}: no step is whole on all ranks; trace at least two steps, and leave the context")
    if steps:
        _steps(steps, found.steps)  # refused before anything is printed
    _print_shares(found, console)
    for span in spans(found):
        console.print(span.text(), soft_wrap=True)
    console.print(Text(NEITHER, style="dim"))
    if len(set(found.plan.ranks)) == 1 and len(found.plan.ranks) > 1:
        console.print("One process waits for nobody; --simulate tells what a process for each stage would wait for.")
    if simulate:
        _print_predictions(found, console)


def _draw(found: "Trace", folder: Path, steps: str, console: Console) -> None:
    from synthgrad.experiments.traces.page import html, middle, picture

    chosen = _steps(steps, found.steps) if steps else middle(found)
    _write(folder / "trace.svg", picture(found, chosen))
    _write(folder / "trace.html", html(found, chosen, folder.resolve().name))
    console.print(f"Drawn, {_named(chosen)}: {folder / 'trace.svg'}, trace.html", soft_wrap=True)


def _print_shares(found: "Trace", console: Console) -> None:
    from synthgrad.experiments.report.drawing import shortened
    from synthgrad.experiments.traces.table import CAPTION, share_rows

    title = f"{found.plan.schedule.name}, {_named(found.steps)}: % of a rank's time, waits by lock"
    console.print(Text(title, style="italic"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    headings, rows = share_rows(found)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, *numbers in rows:
        table.add_row(shortened(name, max(12, console.width - NUMBERS)), *numbers)
    console.print(table)
    console.print(Text(CAPTION, style="dim"))
    console.print()


def _print_predictions(found: "Trace", console: Console) -> None:
    from synthgrad.experiments.traces.page import middle
    from synthgrad.experiments.traces.prediction import predict

    steps = middle(found, PREDICTED)
    predictions = [predict(found, steps)]
    if len(set(found.plan.ranks)) < len(found.plan.ranks):
        predictions.append(predict(found, steps, ranks=range(len(found.plan.ranks))))
    first = predictions[0]
    console.print(
        f"{_named(steps).capitalize()} took {1e3 * first.measured:.2f} ms, played with the trace's median costs "
        f"{1e3 * first.predicted:.2f} ms ({first.predicted / first.measured:.2f} of it).",
        soft_wrap=True,
    )
    for one in predictions:
        waiting = ", ".join(f"{reason} {1e3 * time:.2f} ms" for reason, time in one.waiting.items() if time)
        who = "1 process" if one.ranks == 1 else f"{one.ranks} processes"
        console.print(
            f"Played with {who}: {1e3 * one.predicted:.2f} ms, waiting {waiting or 'for nothing'}.", soft_wrap=True
        )


def _named(steps: range) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"


def _steps(text: str, there: range) -> range:
    match = re.fullmatch(r"([0-9]+):([0-9]+)", text)
    if match is None or not there.start <= int(match[1]) < int(match[2]) <= there.stop:
        raise TraceError(
            f"--steps {text}: expected FIRST:END, such as {there.start}:{min(there.start + 3, there.stop)}, within the "
            f"whole steps of the trace, {there.start}:{there.stop}"
        )
    return range(int(match[1]), int(match[2]))


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.partial")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        os.replace(draft, path)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror}); name another place") from None
