"""The page of a comparison in time: what was solved when, bits, and the agreement at the cut."""

from collections.abc import Callable, Sequence
from statistics import fmean

from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.methods import parse_method
from synthgrad.experiments.recurrent.results import BASELINE, RecurrentSummary
from synthgrad.experiments.recurrent.tables import READING, recurrent_rows
from synthgrad.experiments.report.curves import BINS, Curve, curve, panel
from synthgrad.experiments.report.drawing import Markup, join, tag
from synthgrad.experiments.report.parts import caption, count, origin, section, swatch, table, typeset
from synthgrad.experiments.report.recurrent_run import RecurrentRecord, RecurrentRun
from synthgrad.experiments.report.run import Point
from synthgrad.experiments.report.style import PATTERNS, stylesheet

__all__ = ["assemble_recurrent"]

SPACE = "\N{NO-BREAK SPACE}"


def assemble_recurrent(run: RecurrentRun) -> str:
    """The whole page as text; the same run gives the same page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{run.name}: recurrent nets compared"),
        tag("style", stylesheet()),
    )
    again = "synthgrad recurrent compare --config run.toml"
    parts = (_opening(run), _results(run), _curves(run), _agreement(run), origin(run.description, again))
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", PATTERNS, *parts), lang="en") + "\n"


def _opening(run: RecurrentRun) -> Markup:
    counts = [count(len(run.methods), "method"), count(len(run.seeds), "seed")]
    state = "finished" if run.finished else "unfinished"
    about = f"{run.task.title[:1].upper()}{run.task.title[1:]}: {' · '.join([*counts, state])}"
    said = [tag("li", sentence) for sentence in _findings(run)]
    return join(
        [
            tag("h1", run.name),
            tag("p", about, class_="subtitle"),
            _notice(run),
            tag("ul", *said, class_="findings") if said else "",
        ]
    )


def _notice(run: RecurrentRun) -> Markup:
    """What went wrong, in plain sight; nothing where nothing did."""
    said = [] if run.finished else ["This run has not come to its end. What there is of it is shown."]
    said += [
        f"{cell.method}, seed {cell.seed}, failed after update {cell.steps}: {cell.failed}"
        for cell in run.cells
        if cell.failed is not None
    ]
    if short := [cell for cell in run.cells if cell.failed is None and not cell.finished]:
        where = (f"{cell.method}, seed {cell.seed}, at update {cell.steps} of {cell.total or '?'}" for cell in short)
        said.append(f"Cut short: {'; '.join(where)}.")
    if missing := [name for name in run.asked if name not in run.methods]:
        said.append(f"Not started: {', '.join(missing)}.")
    if run.unreadable:
        said.append(f"{count(run.unreadable, 'line')} of the run's files could not be read, and left out.")
    return tag("div", *(tag("p", one) for one in said), class_="notice") if said else Markup("")


# ---- in words and numbers --------------------------------------------------------------------------------------------


def _findings(run: RecurrentRun) -> list[str]:
    """Sentences made from the numbers; they claim no more than those show."""
    summaries = [one for one in run.summaries() if one.score is not None]
    if not summaries:
        return ["No method has come to its end yet; the curves show how far each came."]
    said = [_on_score(run, summaries)]
    if agreed := [one for one in summaries if one.agreement is not None]:
        figures = ", ".join(f"{one.agreement:.2f} with {one.method}".replace("-0.", "−0.") for one in agreed)
        said.append(
            "The synthetic gradients agree with what comes back from the next window with a mean cosine of "
            f"{figures} (1 is the same direction, 0 is what chance gives)."
        )
    return said


def _on_score(run: RecurrentRun, summaries: Sequence[RecurrentSummary]) -> str:
    def score(one: RecurrentSummary) -> float:
        assert one.score is not None
        return one.score.mean

    best = (min if run.task.text else max)(summaries, key=score)
    measure, seeds = best.measure, count(len(run.seeds), "seed")
    reached = f"{measure.value(score(best)).removesuffix('.0')}{SPACE}{measure.unit}"
    what = "The fewest bits per character" if run.task.text else "The longest solved"
    said = f"{what}: {reached} with {best.method} (mean of {seeds})"
    base = next((one for one in summaries if one.method == f"{BASELINE}-{best.unroll}"), None)
    if base is None or base is best or best.difference is None:
        return f"{said}."
    gap = measure.difference(best.difference.mean, best.difference.half_width).replace("-", "−")
    said += (
        f", against {measure.value(score(base)).removesuffix('.0')} of truncated back-propagation with the same window"
    )
    interval = best.difference.half_width
    doubt = ", which these seeds cannot tell from none" if interval and abs(best.difference.mean) <= interval else ""
    return f"{said}: a difference of {gap} (95{SPACE}%){doubt}."


def _results(run: RecurrentRun) -> Markup:
    headings, rows = recurrent_rows(run.summaries())
    marked = [(join([swatch(row[0], run.methods), row[0]]), *(typeset(cell) for cell in row[1:])) for row in rows]
    kinds = dict.fromkeys(kind for name in run.methods if (kind := _title(name)))
    headings = [one.replace(" %", f"{SPACE}%").replace("× ", f"×{SPACE}") for one in headings]
    return section(
        "Results",
        table(headings, marked, left=1, class_="results"),
        caption(
            f"{' '.join(READING)} ms/step: the median over a run's updates. What is compared with bptt is compared "
            "with the one that has the same window T, the number behind a method's name."
        ),
        caption(*kinds),
    )


def _title(method: str) -> str:
    try:
        kind = parse_method(method)[0]
    except SettingsError:  # of a run of another version
        return ""
    return f"{kind.name}: {kind.title}. "


# ---- pictures --------------------------------------------------------------------------------------------------------


def _axis(run: RecurrentRun) -> str:
    return "time step" if run.several_windows else "update"


def _curves(run: RecurrentRun) -> Markup:
    if run.task.text:
        left = _drawn(run, "validation, bits per character", lambda cell: cell.valid, from_zero=False)
        right = _drawn(run, "training, bits per character", lambda cell: cell.bits, binned=True, from_zero=False)
    else:
        left = panel(run, [_solved(run, method) for method in run.methods], run.task.measure.heading, axis=_axis(run))
        right = _drawn(run, "training, bits per digit", lambda cell: cell.bits, binned=True)
    said = ["Fewer bits are better." if run.task.text else "Whenever a length is solved, longer sequences come next."]
    several = len(run.seeds) > 1
    said.append("Line: mean over the seeds; band: from the lowest seed to the highest." if several else "One seed.")
    if run.several_windows:
        said.append("The windows differ, so that time steps of a lane are counted, not updates.")
    return section(
        "Learning curves",
        caption(" ".join(said)),
        tag("div", tag("figure", left), tag("figure", right), class_="pair"),
        class_="keep",
    )


def _agreement(run: RecurrentRun) -> Markup:
    if not any(cell.agreement for cell in run.cells):
        return section("How good are the synthetic gradients?", tag("p", "None were measured.", class_="note"))
    cosine = _drawn(run, "agreement at the cut (cosine)", lambda cell: cell.agreement, binned=True)
    size = _drawn(run, "size (synthetic over target)", lambda cell: cell.sizes, binned=True)
    return section(
        "How good are the synthetic gradients?",
        caption(
            "Cosine, row by row, of the synthetic gradient at a window's end with the gradient that the next window "
            "sends back there. That one holds the next synthetic gradient in its turn: so this tells how well the "
            "synthesizer keeps up, not how true it is. Beside it the ratio of their norms: 1 is the right size."
        ),
        tag("div", tag("figure", cosine), tag("figure", size), class_="pair"),
        class_="keep",
    )


def _drawn(
    run: RecurrentRun,
    title: str,
    values: Callable[[RecurrentRecord], Sequence[Point]],
    *,
    binned: bool = False,
    from_zero: bool = True,
) -> Markup:
    width = max(1, -(-run.steps // BINS)) if binned else 1

    def placed(cell: RecurrentRecord) -> list[Point]:
        return [(run.place(cell, step), value) for step, value in values(cell)]

    curves = [curve(name, run.of(name), placed, width) for name in run.methods]
    return panel(run, curves, title, axis=_axis(run), from_zero=from_zero)


def _solved(run: RecurrentRun, method: str) -> Curve:
    """The longest solved so far, looked at in even steps, as far as each seed came."""
    cells = run.of(method)
    last = max((run.place(cell, cell.steps) for cell in cells), default=0)
    moments = [round(last * index / BINS) for index in range(BINS + 1)] if last else []
    points = []
    for moment in moments:
        row = [_solved_by(run, cell, moment) for cell in cells if run.place(cell, cell.steps) >= moment]
        points.append((float(moment), fmean(row), min(row), max(row)))
    ends = [(float(run.place(cell, cell.steps)), _solved_by(run, cell, run.steps)) for cell in cells if cell.failed]
    return Curve(method, tuple(points), len(cells), tuple(ends))


def _solved_by(run: RecurrentRun, cell: RecurrentRecord, moment: int) -> float:
    return max((longest for step, longest in cell.solved if run.place(cell, step) <= moment), default=0.0)
