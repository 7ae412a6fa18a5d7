"""A timeline as a picture, played or measured: a row for each stage, its work as blocks, its waits hatched."""

from collections.abc import Sequence
from itertools import pairwise

from synthgrad.core.actions import Action
from synthgrad.core.simulate import Timeline
from synthgrad.experiments.report.drawing import Markup, Scale, number, svg, tag
from synthgrad.experiments.report.waits import Reason, Wait

__all__ = ["LEGEND", "LEFT", "WIDTH", "draw", "height", "kinds_legend", "legend", "rows", "waits_legend"]

WIDTH, LEFT, RIGHT = 760.0, 60.0, 10.0
ROW, BLOCK, WAIT, BOTTOM = 24.0, 18.0, 14.0, 22.0
ITEM, LEGEND = 22.0, 5 * 22.0  # of one line, and of all
LETTER, WIDE = 8.5, 12.0  # a block narrower than this has no letter: than its letter, of which W and Q are wide
GLYPH = 6.4  # width of a letter of the axis
THIN = 6.0  # a frame around a block narrower than this is a thin one: it would hide the block

_KINDS = (
    ("F", "forward pass (P: on a predicted input)"),
    ("B", "backward pass (S: synthetic gradient; I, W: halves)"),
    ("U", "update of the weights"),
    ("T", "lesson for a synthesizer (Q: of inputs)"),
)
_WAITS = (
    (Reason.FORWARD, "waits for its input (forward lock)"),
    (Reason.UPDATE, "waits for later forward passes (update lock)"),
    (Reason.BACKWARD, "waits for its gradient (backward lock)"),
    (Reason.TARGET, "waits for an earlier batch, to learn from it"),
)


def draw(
    timeline: Timeline, waits: Sequence[Wait], until: float, *, label: str, framed: int | None = None, unit: str = ""
) -> Markup:
    """Draw a timeline, with a row for each stage.

    Args:
        timeline: what was done when, from 0 on.
        waits: of it.
        until: where the axis ends.
        label: what is seen, for those who do not see it.
        framed: the step whose work is framed.
        unit: of the time.
    """
    stages = len(timeline.plan.stages)
    return svg(WIDTH, height(stages), *rows(timeline, waits, until, framed=framed, unit=unit), label=label)


def height(stages: int) -> float:
    """Of a drawing with so many rows, and the axis."""
    return ROW * stages + BOTTOM


def rows(
    timeline: Timeline, waits: Sequence[Wait], until: float, *, framed: int | None = None, unit: str = ""
) -> list[Markup]:
    """What `draw` puts into a drawing, for one that holds more."""
    stages = len(timeline.plan.stages)
    bottom = ROW * stages
    across = Scale(0, until, LEFT, WIDTH - RIGHT)
    drawn: list[Markup] = []
    for value in _ticks(across, unit):
        x = across(value)
        drawn.append(tag("line", x1=x, x2=x, y1=0, y2=bottom + 3, class_="grid"))
        text = f"{value:g}{unit}"
        inside = x + GLYPH * len(text) / 2 <= WIDTH  # else it would be cut off
        place = {"x": x if inside else WIDTH - 2, "class_": f"tick small {'middle' if inside else 'end'}"}
        drawn.append(tag("text", text, y=bottom + 16, **place))
    for stage in range(stages):
        drawn.append(tag("text", f"stage {stage}", x=LEFT - 8, y=ROW * stage + 16, class_="tick end"))
        drawn += _idle_lines(stage, timeline, waits, across)
    for wait in waits:
        x, end = across(wait.start), across(wait.end)
        y = ROW * wait.action.stage + (ROW - WAIT) / 2
        place = {"x": x, "y": y, "width": end - x, "height": WAIT}
        drawn.append(tag("rect", class_=f"wait {wait.reason}", fill=f"url(#wait-{wait.reason})", **place))
    return drawn + [_block(action, timeline, across, framed) for action in timeline.start]


def _ticks(across: Scale, unit: str) -> list[float]:
    """As many round values as there is room for, with half a number's width between two."""
    for count in (9, 6, 4, 2):
        values = across.ticks(count)
        widest = GLYPH * max(len(f"{value:g}{unit}") for value in values)
        if all(across(after) - across(before) >= 1.5 * widest for before, after in pairwise(values)):
            return values
    return [across.low]


def _idle_lines(stage: int, timeline: Timeline, waits: Sequence[Wait], across: Scale) -> list[Markup]:
    """Dotted where the stage neither works nor holds up an update."""
    taken = [(timeline.start[action], timeline.end[action]) for action in timeline.start if action.stage == stage]
    taken += [(wait.start, wait.end) for wait in waits if wait.action.stage == stage]
    y, free, drawn = ROW * stage + ROW / 2, 0.0, []
    for start, end in [*sorted(taken), (timeline.makespan, timeline.makespan)]:
        if start > free:
            drawn.append(tag("line", x1=across(free), x2=across(start), y1=y, y2=y, class_="idle"))
        free = max(free, end)
    return drawn


def _block(action: Action, timeline: Timeline, across: Scale, framed: int | None) -> Markup:
    x, end = across(timeline.start[action]), across(timeline.end[action])
    top, kind = ROW * action.stage + (ROW - BLOCK) / 2, action.kind.value
    step = timeline.plan.schedule.step_of(action)
    frame = "" if step != framed else " second" if end - x >= THIN else " second thin"
    which = f"block {kind}{frame}"
    box = tag("rect", x=x, y=top, width=end - x, height=BLOCK, class_=which)
    said = tag("title", f"{action}, batch {step}: {timeline.start[action]:g} to {timeline.end[action]:g}")
    if end - x < (WIDE if kind in "WQ" else LETTER):
        return tag("g", said, box)
    return tag("g", said, box, tag("text", kind, x=(x + end) / 2, y=top + 13, class_=f"letter {kind}"))


def kinds_legend() -> Markup:
    """What the letters mean."""
    return _list([_kind_item(kind, text) for kind, text in _KINDS])


def waits_legend() -> Markup:
    """What the hatching means."""
    return _list([*(_wait_item(reason, text) for reason, text in _WAITS), _IDLE])


_Item = tuple[Markup, str]  # a sample of 34 by 20, and what it means


def _kind_item(kind: str, text: str) -> _Item:
    box = tag("rect", x=2, y=1, width=30, height=BLOCK, class_=f"block {kind}")
    return tag("g", box, tag("text", kind, x=17, y=14, class_=f"letter {kind}")), text


def _wait_item(reason: Reason, text: str) -> _Item:
    box = tag("rect", x=1, y=3, width=32, height=WAIT, class_=f"wait {reason}", fill=f"url(#wait-{reason})")
    return box, text


_IDLE: _Item = tag("line", x1=1, x2=33, y1=10, y2=10, class_="idle"), "before its first work, or nothing to wait for"


def _list(items: Sequence[_Item]) -> Markup:
    return tag("ul", *(tag("li", svg(34, 20, sample, label=text), text) for sample, text in items), class_="legend")


def legend(top: float) -> list[Markup]:
    """What letters and hatching mean, for a drawing that stands alone: two columns, `LEGEND` high, from `top` on."""
    columns = (
        [_kind_item(kind, text) for kind, text in _KINDS],
        [_wait_item(reason, text) for reason, text in _WAITS] + [_IDLE],
    )
    drawn: list[Markup] = []
    for x, items in zip((LEFT - 44, WIDTH / 2), columns, strict=True):
        for place, (sample, text) in enumerate(items):
            moved = f"translate({number(x)} {number(top + ITEM * place)})"
            drawn.append(tag("g", sample, tag("text", text, x=42, y=14), transform=moved))
    return drawn
