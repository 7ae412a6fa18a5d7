"""The page of a comparison in time: what was solved when, bits, and the agreement at the cut."""

from collections.abc import Sequence

from synthgrad.experiments.columns import score
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.recurrent.methods import parse_method
from synthgrad.experiments.recurrent.results import BASELINE, RecurrentSummary
from synthgrad.experiments.recurrent.tables import READING, recurrent_rows
from synthgrad.experiments.report.drawing import Markup, tag
from synthgrad.experiments.report.opening import opening
from synthgrad.experiments.report.parts import SPACE, caption, count, document, origin, pair, results, section
from synthgrad.experiments.report.record import CellRecord, Point
from synthgrad.experiments.report.recurrent_curves import drawn, judged
from synthgrad.experiments.report.recurrent_run import RecurrentRun

__all__ = ["assemble_recurrent"]


def assemble_recurrent(run: RecurrentRun) -> str:
    """The whole page as text; the same run gives the same page."""
    return document(
        f"{run.name}: recurrent nets compared",
        opening(run, f"{run.task.title[:1].upper()}{run.task.title[1:]}", _findings(run), step="update"),
        _results(run),
        _curves(run),
        _agreement(run),
        origin(run.description, "synthgrad recurrent compare --config run.toml"),
    )


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
    def mean(one: RecurrentSummary) -> float:
        assert one.score is not None
        return one.score.mean

    best = (min if run.task.text else max)(summaries, key=mean)
    measure, seeds = best.measure, count(len(run.seeds), "seed")
    what = "The fewest bits per character" if run.task.text else "The longest solved"
    said = f"{what}: {score(mean(best), measure)}{SPACE}{measure.unit} with {best.method} (mean of {seeds})"
    base = next((one for one in summaries if one.method == f"{BASELINE}-{best.unroll}"), None)
    if base is None or base is best or best.difference is None:
        return f"{said}."
    gap = measure.difference(best.difference.mean, best.difference.half_width).replace("-", "−")
    said += f", against {score(mean(base), measure)} of truncated back-propagation with the same window"
    interval = best.difference.half_width
    doubt = ", which these seeds cannot tell from none" if interval and abs(best.difference.mean) <= interval else ""
    return f"{said}: a difference of {gap} (95{SPACE}%){doubt}."


def _results(run: RecurrentRun) -> Markup:
    headings, rows = recurrent_rows(run.summaries())
    kinds = dict.fromkeys(kind for name in run.methods if (kind := _title(name)))
    return results(
        headings,
        rows,
        run.methods,
        caption(
            f"{' '.join(READING)} ms/step: the median over a run's updates. What is compared with bptt is compared "
            "with the one that has the same window T, the number behind a method's name."
        ),
        caption(*kinds),
        left=1,
    )


def _title(method: str) -> str:
    try:
        kind = parse_method(method)[0]
    except SettingsError:  # of a run of another version
        return ""
    return f"{kind.name}: {kind.title}. "


# ---- pictures --------------------------------------------------------------------------------------------------------


def _curves(run: RecurrentRun) -> Markup:
    of = "character" if run.task.text else "digit"
    trained = drawn(run, f"training, bits per {of}", lambda cell: cell.losses, binned=True, from_zero=not run.task.text)
    said = ["Fewer bits are better." if run.task.text else "Whenever a length is solved, longer sequences come next."]
    several = len(run.seeds) > 1
    said.append("Line: mean over the seeds; band: from the lowest seed to the highest." if several else "One seed.")
    if run.several_windows:
        said.append("The windows differ, so that time steps of a lane are counted, not updates.")
    return section("Learning curves", caption(" ".join(said)), pair(judged(run), trained), class_="keep")


def _agreement(run: RecurrentRun) -> Markup:
    if not any(_figure(cell, "agreement") for cell in run.cells):
        return section("How good are the synthetic gradients?", tag("p", "None were measured.", class_="note"))
    cosine = drawn(run, "agreement at the cut (cosine)", lambda cell: _figure(cell, "agreement"), binned=True)
    size = drawn(run, "size (synthetic over target)", lambda cell: _figure(cell, "sizes"), binned=True)
    return section(
        "How good are the synthetic gradients?",
        caption(
            "Cosine, row by row, of the synthetic gradient at a window's end with the gradient that the next window "
            "sends back there. That one holds the next synthetic gradient in its turn: so this tells how well the "
            "synthesizer keeps up, not how true it is. Beside it the ratio of their norms: 1 is the right size."
        ),
        pair(cosine, size),
        class_="keep",
    )


def _figure(cell: CellRecord, name: str) -> list[Point]:
    """At the only cut there is, the window's end."""
    return [point for points in cell.figures.get(name, {}).values() for point in points]
