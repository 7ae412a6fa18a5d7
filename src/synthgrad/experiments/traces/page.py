"""A trace as a picture that stands alone, `trace.svg`, and as a page, `trace.html`."""

from synthgrad.experiments.report.drawing import Markup, svg, tag
from synthgrad.experiments.report.parts import caption, document, section, table
from synthgrad.experiments.report.style import PATTERNS, drawing_style
from synthgrad.experiments.report.timeline import (
    LEGEND,
    WIDTH,
    draw,
    height,
    kinds_legend,
    legend,
    rows,
    waits_legend,
)
from synthgrad.experiments.report.waits import Wait
from synthgrad.experiments.traces.reading import Trace
from synthgrad.experiments.traces.table import CAPTION, NEITHER, share_rows, spans

__all__ = ["html", "middle", "picture"]

HEAD, GAP = 48.0, 16.0
MOST = 12  # microbatches in a picture
MILLI = 1e3


def _drawn(trace: Trace, steps: range) -> tuple[list[Wait], float]:
    """The waits in milliseconds, and when the last of what is drawn ends."""
    waits = [Wait(one.action, MILLI * one.start, MILLI * one.end, one.reason) for one in trace.waits_within(steps)]
    return waits, MILLI * trace.within(steps).makespan


def _labels(trace: Trace, steps: range) -> tuple[str, str]:
    ranks = len(set(trace.plan.ranks))
    processes = "one process" if ranks == 1 else f"{ranks} processes"
    which = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    framed = "" if (batch := _framed(steps)) is None else f"; framed: the work on batch {batch}"
    return trace.plan.schedule.name, f"{which} of {processes}, as measured{framed}"


def _framed(steps: range) -> int | None:
    """The batch in the middle; none, where all is of one."""
    return steps[len(steps) // 2] if len(steps) > 1 else None


def picture(trace: Trace, steps: range) -> Markup:
    """The steps as an SVG with its own title, colors and legend."""
    stages = len(trace.plan.stages)
    waits, until = _drawn(trace, steps)
    name, about = _labels(trace, steps)
    bottom = HEAD + height(stages) + GAP
    chart = rows(trace.within(steps, scale=MILLI), waits, until, framed=_framed(steps), unit=" ms")
    return svg(
        WIDTH,
        bottom + LEGEND + GAP,
        tag("style", drawing_style()),
        PATTERNS,
        tag("rect", x=0, y=0, width=WIDTH, height=bottom + LEGEND + GAP, class_="sheet"),
        tag("text", name, x=16, y=20, class_="head"),
        tag("text", about, x=16, y=37, class_="tick"),
        tag("g", *chart, transform=f"translate(0 {HEAD:g})"),
        *legend(bottom),
        label=f"{name}: {about}",
    )


def html(trace: Trace, steps: range, name: str) -> str:
    """The steps as a page, with the shares of all of the trace."""
    waits, until = _drawn(trace, steps)
    schedule, about = _labels(trace, steps)
    chart = draw(
        trace.within(steps, scale=MILLI), waits, until, framed=_framed(steps), unit=" ms", label=f"{schedule}: {about}"
    )
    missing = [tag("p", f"{one}.") for one in trace.missing]
    return document(
        f"{name}: who waits for whom",
        tag("h1", f"{name}: who waits for whom"),
        tag("p", f"{schedule} · measured · {', '.join(trace.locks) or 'nothing'} locked", class_="subtitle"),
        tag("div", *missing, class_="notice") if missing else "",
        section(
            about[0].upper() + about[1:], kinds_legend(), waits_legend(), tag("figure", chart, style="margin-top:12px")
        ),
        section(f"Shares of the time, steps {trace.steps[0]} to {trace.steps[-1]}", table(*share_rows(trace))),
        caption(CAPTION),
        *(tag("p", f"{span.text()}.", class_="note") for span in spans(trace)),
        tag("p", NEITHER, class_="note"),
    )


def middle(trace: Trace, count: int | None = None) -> range:
    """Some steps in the middle: so many; if not given, three, or fewer of many microbatches, to be wide enough."""
    if count is None:
        count = max(1, min(3, MOST // trace.plan.schedule.microbatches))
    start = trace.steps.start + max(0, (len(trace.steps) - count) // 2)
    return range(start, min(start + count, trace.steps.stop))
