"""Gantt charts: who does what when, by each method's schedule, played on a clock with a worker for every stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import SynthgradError
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.simulate import UNIT_COSTS, Timeline, simulate
from synthgrad.experiments.methods import METHODS, Method
from synthgrad.experiments.report.drawing import Markup, Scale, svg, tag
from synthgrad.experiments.report.waits import Reason, shares, waits

__all__ = ["COSTS", "STEPS", "Chart", "chart", "charts", "kinds_legend", "waits_legend"]

STEPS = 3
# Updates and lessons take little time, but are to be seen.
COSTS: Mapping[Kind, float] = {**UNIT_COSTS, Kind.T: 0.5, Kind.Q: 0.5, Kind.U: 0.5}
WIDTH, LEFT, RIGHT = 760.0, 60.0, 10.0
ROW, BLOCK, WAIT, BOTTOM = 24.0, 18.0, 14.0, 22.0
LETTER = 8.0  # a block narrower than this has no letter

_KINDS = (
    ("F", "forward pass (P: on a predicted input)"),
    ("B", "backward pass (S: of a synthetic gradient)"),
    ("U", "update of the weights"),
    ("T", "lesson for a synthesizer (Q: of inputs)"),
)
_WAITS = (
    (Reason.FORWARD, "waits for its input (forward lock)"),
    (Reason.UPDATE, "waits for later forward passes (update lock)"),
    (Reason.BACKWARD, "waits for its gradient (backward lock)"),
    (Reason.TARGET, "waits for an earlier batch, to learn from it"),
)


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
    timeline = one.timeline
    stages = len(timeline.plan.stages)
    bottom = ROW * stages
    across = Scale(0, until, LEFT, WIDTH - RIGHT)
    drawn: list[Markup] = []
    for value in across.ticks(9):
        x = across(value)
        drawn.append(tag("line", x1=x, x2=x, y1=0, y2=bottom + 3, class_="grid"))
        drawn.append(tag("text", f"{value:g}", x=x, y=bottom + 16, class_="tick small middle"))
    for stage in range(stages):
        drawn.append(tag("text", f"stage {stage}", x=LEFT - 8, y=ROW * stage + 16, class_="tick end"))
        drawn += _idle_lines(stage, timeline, across)
    for wait in waits(timeline):
        x, end = across(wait.start), across(wait.end)
        y = ROW * wait.action.stage + (ROW - WAIT) / 2
        place = {"x": x, "y": y, "width": end - x, "height": WAIT}
        drawn.append(tag("rect", class_=f"wait {wait.reason}", fill=f"url(#wait-{wait.reason})", **place))
    drawn += [_block(action, timeline, across) for action in timeline.start]
    return svg(WIDTH, bottom + BOTTOM, *drawn, label=f"{one.schedule}: what each stage does when, over {STEPS} steps")


def _idle_lines(stage: int, timeline: Timeline, across: Scale) -> list[Markup]:
    """Dotted where the stage neither works nor holds up an update."""
    taken = [(timeline.start[action], timeline.end[action]) for action in timeline.start if action.stage == stage]
    taken += [(wait.start, wait.end) for wait in waits(timeline) if wait.action.stage == stage]
    y, free, drawn = ROW * stage + ROW / 2, 0.0, []
    for start, end in [*sorted(taken), (timeline.makespan, timeline.makespan)]:
        if start > free:
            drawn.append(tag("line", x1=across(free), x2=across(start), y1=y, y2=y, class_="idle"))
        free = max(free, end)
    return drawn


def _block(action: Action, timeline: Timeline, across: Scale) -> Markup:
    x, end = across(timeline.start[action]), across(timeline.end[action])
    top, kind = ROW * action.stage + (ROW - BLOCK) / 2, action.kind.value
    step = timeline.plan.schedule.step_of(action)
    which = f"block {kind} second" if step == 1 else f"block {kind}"
    box = tag("rect", x=x, y=top, width=end - x, height=BLOCK, class_=which)
    said = tag("title", f"{action}, batch {step}: {timeline.start[action]:g} to {timeline.end[action]:g}")
    if end - x < LETTER:
        return tag("g", said, box)
    return tag("g", said, box, tag("text", kind, x=(x + end) / 2, y=top + 13, class_=f"letter {kind}"))


def kinds_legend() -> Markup:
    """What the letters mean."""
    items = []
    for kind, text in _KINDS:
        box = tag("rect", x=2, y=1, width=30, height=BLOCK, class_=f"block {kind}")
        letter = tag("text", kind, x=17, y=14, class_=f"letter {kind}")
        items.append(tag("li", svg(34, 20, box, letter, label=kind), text))
    return tag("ul", *items, class_="legend")


def waits_legend() -> Markup:
    """What the hatching means."""
    items = []
    for reason, text in _WAITS:
        box = tag("rect", x=1, y=3, width=32, height=WAIT, class_=f"wait {reason}", fill=f"url(#wait-{reason})")
        items.append(tag("li", svg(34, 20, box, label=f"hatched: {reason}"), text))
    line = tag("line", x1=1, x2=33, y1=10, y2=10, class_="idle")
    items.append(tag("li", svg(34, 20, line, label="dotted"), "before its first work, or nothing to wait for"))
    return tag("ul", *items, class_="legend")
