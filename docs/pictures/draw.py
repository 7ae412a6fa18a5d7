"""Draws the pictures of these pages, with the package's own clock and pen: python docs/pictures/draw.py.

`locking.svg` is made by a command of the package: synthgrad schedule compare --out docs/pictures/locking.svg.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synthgrad.core.actions import Kind
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.plan import Declaration, Lock, Plan, locks
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked
from synthgrad.core.simulate import Timeline, simulate
from synthgrad.experiments.report.drawing import Markup, svg, tag
from synthgrad.experiments.report.gantt import COSTS
from synthgrad.experiments.report.style import PATTERNS, drawing_style
from synthgrad.experiments.report.timeline import LEGEND, WIDTH, height, legend, rows
from synthgrad.experiments.report.waits import waits

PAD, HEAD, GAP = 14.0, 46.0, 14.0  # around the picture, of a chart's title, and below a chart


@dataclass(frozen=True)
class Chart:
    """A schedule to be played: how many steps of how many stages, over links of what latency."""

    schedule: Schedule
    stages: int = 3
    steps: int = 3
    latency: float = 0.0

    def played(self) -> Timeline:
        """The timeline, without the lessons still pending at the end, which belong to later steps."""
        inputs = self.schedule.name.startswith("forward_unlocked")
        stages = tuple(
            Declaration(synthesizer=stage < self.stages - 1, input_synthesizer=inputs and stage > 0)
            for stage in range(self.stages)
        )
        plan = Plan(self.schedule, stages)
        timeline = simulate(plan, steps=self.steps, costs=COSTS, links=self.latency)
        late = set(plan.flush(self.steps))
        start, end = ({a: at for a, at in times.items() if a not in late} for times in (timeline.start, timeline.end))
        return Timeline(plan, start, end)


def picture(*charts: Chart, about: str) -> Markup:
    """The charts one below the other, on one clock, with what letters and hatching mean."""
    timelines = [chart.played() for chart in charts]
    until = max(timeline.makespan for timeline in timelines)
    drawn: list[Markup] = []
    top = PAD
    for chart, timeline in zip(charts, timelines, strict=True):
        waited = waits(timeline)
        drawn.append(tag("text", _title(chart), x=16, y=top + 14, class_="head"))
        drawn.append(tag("text", _subtitle(timeline), x=16, y=top + 31, class_="tick"))
        lanes = rows(timeline, waited, until, framed=1)
        drawn.append(tag("g", *lanes, transform=f"translate(0 {top + HEAD:g})"))
        top += HEAD + height(chart.stages) + GAP
    whole = top + LEGEND + PAD
    sheet = tag("rect", x=0, y=0, width=WIDTH, height=whole, class_="sheet")
    return svg(WIDTH, whole, tag("style", drawing_style()), PATTERNS, sheet, *drawn, *legend(top), label=about)


def _title(chart: Chart) -> str:
    return chart.schedule.name + (f", a link of latency {chart.latency:g}" if chart.latency else "")


def _subtitle(timeline: Timeline) -> str:
    found = locks(timeline.plan)
    waited = ", ".join(lock.value for lock in Lock if lock in found) or "nothing"
    updates = sum(action.kind is Kind.U for action in timeline.start) // len(timeline.plan.stages)
    return f"locked: {waited}; {updates} updates of each stage take {timeline.makespan:g} forward passes"


PICTURES: dict[str, Sequence[Chart]] = {
    "locks": (Chart(backprop()), Chart(update_unlocked()), Chart(forward_unlocked())),
    "pipelines": tuple(
        Chart(one, stages=4, steps=2) for one in (gpipe(4), one_f_one_b(4), update_unlocked(microbatches=4))
    ),
    "delay": tuple(Chart(update_unlocked(delay), stages=2, steps=6, latency=3.0) for delay in (0, 2)),
}
ABOUT = {
    "locks": "What three stages do when: back-propagation, update-unlocked, completely unlocked",
    "pipelines": "What four stages do when: two pipelines, and update-unlocked",
    "delay": "Two stages with a slow link between them, with no delay and with a delay of two steps",
}


def main(folder: Path) -> None:
    """Draw all of them into a folder."""
    for name, charts in PICTURES.items():
        (folder / f"{name}.svg").write_text(picture(*charts, about=ABOUT[name]) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
