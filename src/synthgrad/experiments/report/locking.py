"""One picture of what waiting costs: a panel each for depth, latency and jitter, a line for each schedule.

It stands alone, for slides: large type, and lines that differ by marks and dashes as well as by color.
"""

import math
from collections.abc import Sequence

from synthgrad.experiments.locking import CONTENDERS, LATE, Conditions, Panel
from synthgrad.experiments.report.drawing import Markup, Scale, apart, svg, tag
from synthgrad.experiments.report.style import color

__all__ = ["as_png", "locking_picture"]

WIDTH, HEIGHT = 1600.0, 900.0
TOP, BOTTOM = 180.0, 752.0
LEFT, PLOT = 92.0, 288.0  # the axis, a panel's plot; the rest is for names
FONT = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif'
APART = 24.0
COLORS = {"locked": "m2", "stale": "m5", "unlocked": "m3"}
WEIGHTS = {"locked": 2.6, "stale": 2.6, "unlocked": 4.4}  # what it is all about stands out, in gray too
DASHES = ("", "12 6", "3 5", "14 5 3 5", "7 4")
WORDS = (
    ("locked", "wait for true gradients"),
    ("stale", "true gradients, one update late (PipeDream-2BW)"),
    ("unlocked", "synthetic gradients"),
)
NOTES = (
    "Simulated. Lost: the share of the devices' time that goes neither into forward nor into backward passes.",
    f"{LATE} ahead: so many more batches under way for each stage. Delay {LATE}: synthesizers learn so much later.",
)


def locking_picture(panels: Sequence[Panel], conditions: Conditions) -> Markup:
    """Draw it, as an SVG that needs no stylesheet."""
    pitch = (WIDTH - LEFT) / len(panels)
    drawn = [
        tag("rect", x=0, y=0, width=WIDTH, height=HEIGHT, fill=color("page")),
        _text("Time lost, by schedule", 40, 58, size=38, weight="600"),
        _text(_subtitle(conditions), 40, 96, size=22, shade="soft"),
        *_families(),
    ]
    for place, panel in enumerate(panels):
        drawn += _panel(panel, LEFT + place * pitch, first=place == 0)
    for line, note in enumerate(NOTES):
        drawn.append(_text(note, 40, HEIGHT - 44 + 26 * line, size=19, shade="soft"))
    label = "Share of the time that each schedule loses, against depth, latency and jitter"
    return svg(WIDTH, HEIGHT, tag("g", *drawn, font_family=FONT), label=label)


def as_png(picture: Markup, width: int = 1920) -> bytes:
    """The picture as a PNG.

    Raises:
        ImportError: the package `resvg_py`, of the extra `png`, is not installed.
    """
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=picture, width=width, sans_serif_family="DejaVu Sans"))


def _subtitle(conditions: Conditions) -> str:
    changed = [f"{conditions.ranks} stages", f"{conditions.microbatches} microbatches"]
    changed.append("no latency" if conditions.latency == 0 else f"latency {conditions.latency:g}")
    changed.append("no jitter" if conditions.jitter == 0 else f"{conditions.distribution} jitter {conditions.jitter:g}")
    cost = f"a synthesizer costs {100 * conditions.synthesizer:g} % of a stage"
    return f"{', '.join(changed)}, where not stated otherwise; {cost}"


def _families() -> list[Markup]:
    drawn, x = [], 40.0
    for family, words in WORDS:
        drawn.append(tag("rect", x=x, y=116, width=26, height=16, rx=3, fill=color(COLORS[family])))
        drawn.append(_text(words, x + 36, 131, size=21))
        x += 36 + 11.8 * len(words) + 40
    return drawn


def _panel(panel: Panel, left: float, *, first: bool) -> list[Markup]:
    right = left + PLOT
    across = Scale(panel.values[0], panel.values[-1], left, right, log=panel.log)
    up = Scale(0.0, 1.0, BOTTOM, TOP)
    drawn: list[Markup] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = up(share)
        shade = color("axis" if share == 0.0 else "grid")
        drawn.append(tag("line", x1=left, x2=right, y1=y, y2=y, stroke=shade, stroke_width=1.5))
        if first:
            drawn.append(_text(f"{100 * share:g} %", left - 12, y + 7, size=20, shade="soft", anchor="end"))
    for value in panel.values if panel.log else across.ticks(4):
        drawn.append(_text(f"{value:g}", across(value), BOTTOM + 30, size=20, shade="soft", anchor="middle"))
    drawn.append(_text(panel.title, left + PLOT / 2, BOTTOM + 62, size=22, anchor="middle", weight="600"))
    ends = [up(panel.shares[one.name][-1]) for one in CONTENDERS]
    names = apart(ends, TOP, BOTTOM, APART)
    for index, one in enumerate(CONTENDERS):
        places = [(across(v), up(s)) for v, s in zip(panel.values, panel.shares[one.name], strict=True)]
        drawn.append(_curve(places, one.family, _rank_in_family(index)))
        x, y, name = right + 8, ends[index], names[index]
        leader = f"M{right + 7:.1f} {y:.1f}L{right + 22:.1f} {name:.1f}"
        drawn.append(tag("path", d=leader, fill="none", stroke=color("axis"), stroke_width=1.5))
        drawn.append(_text(one.name, x + 18, name + 6.5, size=18.5, fill=color(COLORS[one.family])))
    return drawn


def _rank_in_family(index: int) -> int:
    return sum(one.family == CONTENDERS[index].family for one in CONTENDERS[:index])


def _curve(places: Sequence[tuple[float, float]], family: str, which: int) -> Markup:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    shade = color(COLORS[family])
    line = tag(
        "path", d=path, fill="none", stroke=shade, stroke_width=WEIGHTS[family], stroke_linejoin="round",
        stroke_dasharray=DASHES[which] or None,
    )  # fmt: skip
    return tag("g", line, *(_mark(x, y, shade, which) for x, y in places))


def _mark(x: float, y: float, shade: str, which: int) -> Markup:
    """A disk, a square, a triangle, a diamond or a ring."""
    look = {"fill": shade, "stroke": color("page"), "stroke_width": 1.5}
    if which in (0, 4):
        ring = {"fill": color("page"), "stroke": shade, "stroke_width": 2.5} if which else look
        return tag("circle", cx=x, cy=y, r=6, **ring)
    corners = {1: 4, 2: 3, 3: 4}[which]
    turn = {1: math.pi / 4, 2: -math.pi / 2, 3: 0.0}[which]
    radius = 8.0
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    path = "M" + "L".join(f"{x + radius * math.cos(a):.1f} {y + radius * math.sin(a):.1f}" for a in angles) + "Z"
    return tag("path", d=path, **look)


def _text(
    text: str,
    x: float,
    y: float,
    *,
    size: float,
    shade: str = "ink",
    anchor: str | None = None,
    weight: str | None = None,
    fill: str | None = None,
) -> Markup:
    return tag(
        "text", text, x=x, y=y, font_size=size, fill=fill or color(shade), text_anchor=anchor, font_weight=weight
    )
