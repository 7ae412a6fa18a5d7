"""Gantt charts: who does what when, by each method's schedule, played on a clock with a worker for every stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synthgrad.core.actions import Kind
from synthgrad.core.errors import SynthgradError
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.simulate import UNIT_COSTS, Timeline, simulate
from synthgrad.experiments.methods import METHODS, Method
from synthgrad.experiments.report.drawing import Markup
from synthgrad.experiments.report.timeline import draw
from synthgrad.experiments.report.waits import Reason, shares, waits

__all__ = ["COSTS", "STEPS", "Chart", "chart", "charts"]

STEPS = 3
# Updates and lessons take little time, but are to be seen.
COSTS: Mapping[Kind, float] = {**UNIT_COSTS, Kind.T: 0.5, Kind.Q: 0.5, Kind.U: 0.5}


@dataclass(frozen=True)
class Chart:
    """Methods whose steps look alike, and what they look like.

    Attributes:
        methods: their names.
        timeline: how it is played.
    """

    methods: tuple[str, ...]
    timeline: Timeline

    @property
    def schedule(self) -> str:
        """How the schedule is written."""
        return self.timeline.plan.schedule.name

    def waiting(self) -> dict[Reason, float]:
        """The share of the workers' time that goes into each kind of wait, where there is any."""
        return {reason: share for reason, share in shares(self.timeline).items() if share > 0}


def charts(methods: Sequence[str], stages: int) -> list[Chart]:
    """A chart for each method; methods with the same schedule and the same times share one. Unknown ones have none."""
    found: list[Chart] = []
    for name in methods:
        timeline = _played(METHODS[name], stages) if name in METHODS else None
        if timeline is None:
            continue
        for place, other in enumerate(found):
            if (other.timeline.start, other.timeline.end) == (timeline.start, timeline.end):
                if other.schedule == timeline.plan.schedule.name:
                    found[place] = Chart((*other.methods, name), other.timeline)
                    break
        else:
            found.append(Chart((name,), timeline))
    return found


def _played(method: Method, stages: int) -> Timeline | None:
    try:
        plan = Plan(method.schedule(), _declarations(method, stages))
        timeline = simulate(plan, steps=STEPS, costs=COSTS)
    except SynthgradError:
        return None  # the schedule is not one for so many stages
    # The lessons still pending at the end belong to the next steps, which are not in the picture.
    late = set(plan.flush(STEPS))
    start, end = (
        {action: time for action, time in times.items() if action not in late}
        for times in (timeline.start, timeline.end)
    )
    return Timeline(plan, start, end)


def _declarations(method: Method, stages: int) -> tuple[Declaration, ...]:
    """What the stages of the method declare, without building them."""
    needs, feedback = frozenset[str](), frozenset[str]()
    if method.synthesizer is not None:
        from synthgrad.core import synthesizers  # brings torch

        part = next(iter(method.synthesizer.values()))  # those of one method declare the same
        kind = getattr(synthesizers, part.kind)
        needs, feedback = kind.needs, kind.feedback
    predicts = method.input_synthesizer is not None
    before_last = [
        Declaration(method.synthesizer is not None, needs, feedback, input_synthesizer=predicts and stage > 0)
        for stage in range(stages - 1)
    ]
    last = Declaration(synthesizer=False, feedback=frozenset(), input_synthesizer=predicts and stages > 1)
    return (*before_last, last)


def chart(one: Chart, until: float) -> Markup:
    """Draw it: a row for each stage, time from 0 to `until`."""
    label = f"{one.schedule}: what each stage does when, over {STEPS} steps"
    return draw(one.timeline, waits(one.timeline), until, framed=1, label=label)
