"""How the page of a run begins: what was compared, what went wrong, and what is to be seen."""

from collections.abc import Sequence

from synthgrad.experiments.report.drawing import Markup, join, tag
from synthgrad.experiments.report.parts import count
from synthgrad.experiments.report.record import AnyRun

__all__ = ["opening"]


def opening(run: AnyRun, about: str, findings: Sequence[str], *, counted: Sequence[str] = (), step: str) -> Markup:
    """The top of the page.

    Args:
        run: which.
        about: what was done, in a few words.
        findings: sentences.
        counted: how many there are of what, besides methods and seeds.
        step: what its steps are called.
    """
    counts = [count(len(run.methods), "method"), count(len(run.seeds), "seed"), *counted]
    state = "finished" if run.finished else "unfinished"
    return join(
        [
            tag("h1", run.name),
            tag("p", f"{about}: {' · '.join([*counts, state])}", class_="subtitle"),
            _notice(run, step),
            tag("ul", *(tag("li", sentence) for sentence in findings), class_="findings"),
        ]
    )


def _notice(run: AnyRun, step: str) -> Markup:
    """What went wrong, in plain sight; nothing where nothing did."""
    said = [] if run.finished else ["This run has not come to its end. What there is of it is shown."]
    said += [
        f"{cell.method}, seed {cell.seed}, failed after {step} {cell.steps}: {cell.failed}"
        for cell in run.cells
        if cell.failed is not None
    ]
    if short := [cell for cell in run.cells if cell.failed is None and not cell.finished]:
        where = (f"{cell.method}, seed {cell.seed}, at {step} {cell.steps} of {cell.total or '?'}" for cell in short)
        said.append(f"Cut short: {'; '.join(where)}.")
    if missing := [name for name in run.asked if name not in run.methods]:
        said.append(f"Not started: {', '.join(missing)}.")
    if run.unreadable:
        said.append(f"{count(run.unreadable, 'line')} of the run's files could not be read, and left out.")
    return tag("div", *(tag("p", one) for one in said), class_="notice") if said else Markup("")
