"""How a report looks: colors for light and dark, and which of them a method or a cosine gets.

Nothing is told by color alone: lines differ by dashes, waits and negative cosines by hatching, blocks by letters.
"""

import re
from collections.abc import Sequence

from synthgrad.experiments.report.drawing import Markup
from synthgrad.experiments.results import BASELINE

__all__ = [
    "LEVELS",
    "PATTERNS",
    "color",
    "curves_style",
    "drawing_style",
    "heat_class",
    "method_class",
    "scores_style",
    "stylesheet",
]

LEVELS = 10  # steps of the cosine's color scale, on either side of zero

_LIGHT = {
    "page": "#ffffff", "ink": "#1c2128", "soft": "#59626e", "grid": "#e4e7eb", "axis": "#9aa3ad", "panel": "#f5f6f8",
    "m0": "#1c2128", "m1": "#7d8590", "m2": "#cf6a00", "m3": "#1666cc", "m4": "#0b8358", "m5": "#8446b8",
    "m6": "#bf2f45", "m7": "#7f6413",
    "run": "#b9d7fb", "back": "#f2a65a", "lesson": "#7b5bb5", "work-update": "#272d36", "on-update": "#ffffff",
    "on-dark": "#ffffff", "on-light": "#1c2128", "wait-forward": "#1666cc",
    "wait-update": "#0b8358", "wait-backward": "#c2410c",
    "wait-target": "#7b3fb0", "alert": "#b42318", "alert-page": "#fdf0ee",
}  # fmt: skip
_DARK = {
    "page": "#14171c", "ink": "#e8eaed", "soft": "#a5adb8", "grid": "#2b3038", "axis": "#6b7480", "panel": "#1d2127",
    "m0": "#f2f4f7", "m1": "#939ba6", "m2": "#ff9f40", "m3": "#6cacff", "m4": "#3ecf9a", "m5": "#c592f0",
    "m6": "#ff7d8e", "m7": "#d9bd5b",
    "run": "#8fbdf3", "back": "#e08d38", "lesson": "#6f4fae", "work-update": "#e8eaed", "on-update": "#14171c",
    "on-dark": "#ffffff", "on-light": "#14171c", "wait-forward": "#6cacff",
    "wait-update": "#3ecf9a", "wait-backward": "#ff9a5c",
    "wait-target": "#c592f0", "alert": "#ff9a90", "alert-page": "#3a1f1d",
}  # fmt: skip
# How the rules begin that a timeline needs.
_DRAWN = (
    *("text{", ".head{", ".tick{", ".small{", ".end{", ".middle{", ".grid{", ".sheet{", ".F,", ".S,", ".T,", ".U{"),
    *(".block", ".letter", ".idle{", ".wait", ".forward{", ".update{", ".backward{", ".target{", ".hidden{"),
)
_SCORED = ("text{", ".tick{", ".end{", ".middle{", ".name{", ".grid{", ".sheet{", ".dot{", ".seed{", ".leader{")
_CURVED = (
    *("text{", ".head{", ".tick{", ".end{", ".middle{", ".name{", ".grid{", ".sheet{", ".axis{", ".dot{", ".leader{"),
    *(".curve{", ".curve.m0{", ".band{", ".cross{"),
)
_DASHES = ("", "1.5 3", "7 3", "", "9 3 2 3", "4 2", "2 2 6 2", "12 4")
# The cosine's colors: at −1, at 0, at +1.
_HEAT_LIGHT = ("#c2500a", "#eef0f2", "#0d4f9e")
_HEAT_DARK = ("#f58a3c", "#2a2f37", "#74b2ff")


def color(name: str) -> str:
    """A color of the light palette by its name, for a drawing that stands alone and knows no stylesheet."""
    return _LIGHT[name]


def method_class(method: str, methods: Sequence[str]) -> str:
    """The class of a method's lines: the baseline is always drawn in ink, the others in order."""
    others = [name for name in methods if name != BASELINE]
    return "m0" if method == BASELINE else f"m{others.index(method) % (len(_DASHES) - 1) + 1}"


def heat_class(level: int) -> str:
    """The class of a cosine's color; `level` from -LEVELS to LEVELS."""
    return f"c{level + LEVELS}"


def _mixed(ends: tuple[str, str, str], level: int) -> str:
    side, share = ends[0] if level < 0 else ends[2], abs(level) / LEVELS
    channels = [(int(ends[1][i : i + 2], 16), int(side[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(middle + share * (end - middle)):02x}" for middle, end in channels)


def _variables(colors: dict[str, str], heat: tuple[str, str, str]) -> str:
    levels = {f"c{level + LEVELS}": _mixed(heat, level) for level in range(-LEVELS, LEVELS + 1)}
    return "".join(f"--{name}:{color};" for name, color in (colors | levels).items())


def stylesheet() -> Markup:
    """All of the page's CSS. On paper the page is light."""
    light, dark = _variables(_LIGHT, _HEAT_LIGHT), _variables(_DARK, _HEAT_DARK)
    methods = "".join(_method_rules())
    levels = "".join(f".c{i}{{fill:var(--c{i});shape-rendering:crispEdges}}" for i in range(2 * LEVELS + 1))
    return Markup(
        f":root{{color-scheme:light;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{color-scheme:dark;{dark}}}}}\n"
        f"{_RULES}{methods}\n{levels}\n"
    )


def drawing_style() -> Markup:
    """The CSS of a timeline that stands alone."""
    return _alone(_DRAWN)


def scores_style() -> Markup:
    """The CSS of a picture of scores that stands alone."""
    return _alone(_SCORED, [f".m{index}{{color:var(--m{index})}}" for index in (0, 3)])


def curves_style() -> Markup:
    """The CSS of a picture of learning curves that stands alone."""
    return _alone(_CURVED, _method_rules())


def _method_rules() -> list[str]:
    return [
        f".m{i}{{color:var(--m{i})}}.curve.m{i}{{{f'stroke-dasharray:{dash}' if dash else ''}}}"
        for i, dash in enumerate(_DASHES)
    ]


def _alone(starts: tuple[str, ...], more: Sequence[str] = ()) -> Markup:
    """The rules that begin so; colors written out, since not all that shows SVG knows variables."""
    rules = [line for line in _RULES.splitlines() if line.startswith(starts)] + list(more)
    light, dark = (
        "\n".join(re.sub(r"var\(--([\w-]+)\)", lambda found, own=colors: own[found[1]], rule) for rule in rules)
        for colors in (_LIGHT, _DARK)
    )
    return Markup(f"{light}\n@media screen and (prefers-color-scheme:dark){{\n{dark}\n}}\n")


_RULES = """\
*{box-sizing:border-box}
html{background:var(--page);-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:32px 24px 48px;max-width:1008px;color:var(--ink);background:var(--page);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 4px}
h2{font-size:1.25rem;line-height:1.3;margin:44px 0 8px;padding-top:14px;border-top:1px solid var(--grid)}
h3{font-size:1rem;margin:18px 0 2px;font-weight:600}
h3 .about{font-weight:400;color:var(--soft)}
p{margin:8px 0;max-width:86ch}
.subtitle,.caption,.note{color:var(--soft)}
.caption{font-size:.9375rem}
.note{font-size:.875rem;margin-top:2px}
.findings{font-size:1.0625rem;padding-left:1.25em;margin:18px 0 0}
.findings li{margin:6px 0;max-width:80ch}
.notice{background:var(--alert-page);border-left:4px solid var(--alert);padding:8px 14px;max-width:none;margin:16px 0}
.notice p{margin:2px 0}
svg{display:block;width:100%;height:auto;overflow:visible}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));gap:16px 24px;margin-top:12px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(250px,1fr));gap:0 32px}
figure{margin:0;break-inside:avoid}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9375rem;line-height:1.35;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px 5px 0;text-align:right;vertical-align:top}
th:first-child,td:first-child,.left{text-align:left}
thead th{font-weight:500;color:var(--soft);vertical-align:bottom;border-bottom:1px solid var(--axis)}
tbody tr+tr>*{border-top:1px solid var(--grid)}
tbody th{font-weight:600;white-space:nowrap}
.results{width:100%}
.results td{white-space:nowrap}
.results td.left{white-space:normal}
.results td:last-child,.results th:last-child{padding-right:0}
.cost{width:100%}
.cost td{white-space:nowrap}
.cost td:last-child{width:55%;padding:8px 0 0 8px}
.measure{height:12px;background:currentColor}
.facts th{font-weight:400;color:var(--soft)}
.facts td{text-align:left;overflow-wrap:anywhere}
code,pre{font:0.9em/1.45 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--panel);padding:10px 14px;white-space:pre-wrap;overflow-wrap:anywhere;margin:8px 0}
.swatch{display:inline-block;width:26px;vertical-align:middle;margin-right:8px}
.legend{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));
gap:4px 22px;margin:10px 0 4px;font-size:.9375rem;padding:0;list-style:none}
.legend li{display:flex;align-items:center;gap:7px}
.legend svg{width:34px;flex:none}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;fill:var(--ink)}
.sheet{fill:var(--page)}
.head{font-weight:600;font-size:13px}
.tick{fill:var(--soft);font-size:11.5px;font-weight:400}
.small{font-size:10.5px}
.end{text-anchor:end}
.middle{text-anchor:middle}
.name{font-weight:600;fill:currentColor}
.grid{stroke:var(--grid)}
.axis{stroke:var(--axis)}
.curve{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.curve.m0{stroke-width:2.4}
.band{fill:currentColor;opacity:.15}
.dot{fill:currentColor}
.seed{stroke:var(--page)}
.leader{stroke:var(--axis);stroke-dasharray:1 3}
.cross{fill:none;stroke:currentColor;stroke-width:2.4}
.absent{fill:none;stroke:var(--grid)}
.negative{stroke:var(--page);stroke-width:1.3;opacity:.8}
.F,.P{fill:var(--run)}
.S,.B,.I,.W{fill:var(--back)}
.T,.Q{fill:var(--lesson)}
.U{fill:var(--work-update)}
.block{stroke:var(--page);stroke-width:.8}
.block.second{stroke:var(--ink);stroke-width:1.5}
.block.thin{stroke-width:.6}
.letter{font-size:10.5px;font-weight:600;text-anchor:middle;fill:var(--on-light)}
.letter.T,.letter.Q{fill:var(--on-dark)}
.letter.U{fill:var(--on-update)}
.idle{stroke:var(--axis);stroke-width:1.5;stroke-dasharray:1.5 3}
.wait{stroke-width:.7}
.forward{color:var(--wait-forward)}
.update{color:var(--wait-update)}
.backward{color:var(--wait-backward)}
.target{color:var(--wait-target)}
.wait,.hatch{stroke:currentColor}
.hidden{position:absolute;width:0;height:0}
@media screen and (max-width:940px){
.legend{font-size:.84rem}.results{font-size:.8125rem}.results th,.results td{padding-right:9px}
.results .swatch{width:20px;margin-right:5px}}
@media print{body{font-size:10.5pt;max-width:none;padding:0}h2,h3{break-after:avoid}a{color:inherit}
.pair{grid-template-columns:1fr 1fr;gap:12px}
.facts,.legend{grid-template-columns:1fr 1fr}.legend,table{font-size:9pt}
.keep{break-inside:avoid}.findings{font-size:11pt}
.caption,.note{font-size:9.5pt}h2+.caption,h3+.note{break-after:avoid}.facts>div{break-inside:avoid}
.results{font-size:8pt}.results th,.results td{padding-right:7px}h2{margin-top:26px}tr{break-inside:avoid}
@page{margin:14mm}}
"""


def _pattern(name: str, size: int, *paths: str, kind: str) -> str:
    lines = "".join(f'<path d="{path}" class="hatch {kind}" fill="none"/>' for path in paths)
    return f'<pattern id="{name}" width="{size}" height="{size}" patternUnits="userSpaceOnUse">{lines}</pattern>'


# Hatching, defined once for all drawings of the page. Each kind of wait has a direction of its own.
PATTERNS = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" class="hidden" aria-hidden="true"><defs>'
    + _pattern("wait-forward", 6, "M-1 1L1 -1M0 6L6 0M5 7L7 5", kind="forward")
    + _pattern("wait-update", 5, "M2.5 0V5", kind="update")
    + _pattern("wait-backward", 6, "M-1 5L1 7M0 0L6 6M5 -1L7 1", kind="backward")
    + _pattern("wait-target", 6, "M0 3H6M3 0V6", kind="target")
    + '<pattern id="negative" width="5" height="5" patternUnits="userSpaceOnUse">'
    + '<path d="M-1 1L1 -1M0 5L5 0M4 6L6 4" class="negative"/></pattern>'
    + "</defs></svg>"
)
