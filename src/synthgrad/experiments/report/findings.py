"""What is to be seen in a run, in three sentences made from its numbers; they claim no more than those show."""

from collections.abc import Sequence
from statistics import fmean

from synthgrad.experiments.measures import Measure
from synthgrad.experiments.report.gantt import STEPS, Chart
from synthgrad.experiments.report.run import Run
from synthgrad.experiments.results import BASELINE, Difference, Summary

__all__ = ["findings"]

NO_GRADIENT = "zero"  # the method that sends none: what the others have to beat


def findings(run: Run, drawn: Sequence[Chart]) -> list[str]:
    """Three sentences: on the error or loss, on the gradients, and on waiting and time."""
    summaries = {one.method: one for one in run.summaries()}
    best = _best(summaries)
    return [_on_score(summaries, best, run.measure), _on_gradients(summaries, best), _on_time(summaries, best, drawn)]


def _best(summaries: dict[str, Summary]) -> Summary | None:
    """The method with the lowest test score of those that do without the backward lock, and send a gradient."""
    free = [one for one in summaries.values() if "backward" not in one.locks and one.method != NO_GRADIENT]
    ended = [(one.score.mean, place) for place, one in enumerate(free) if one.score is not None]
    return free[min(ended)[1]] if ended else None


def _on_score(summaries: dict[str, Summary], best: Summary | None, measure: Measure) -> str:
    base, nothing = summaries.get(BASELINE), summaries.get(NO_GRADIENT)
    without = ""
    if nothing is not None and nothing.score is not None:
        without = f"; without any gradient ({NO_GRADIENT}) it is {_figure(nothing.score.mean, measure)}"
    if best is None or best.score is None:
        ended = [(one.method, one.score.mean) for one in summaries.values() if one.score is not None]
        if not ended:
            missing = f"there is no test {measure.name} yet; the curves show how far each came"
            return f"No method has come to its test, so {missing}."
        figures = (f"{_figure(score, measure)} with {method}" for method, score in ended)
        return f"The test {measure.name} is {', '.join(figures)}."
    reached = (
        f"Of the methods that do not wait for gradients, {best.method} has the lowest test {measure.name}: "
        f"{_figure(best.score.mean, measure)}"
    )
    if base is None or base.score is None or best.difference is None:
        return f"{reached} ({_seeds(best.score.n)}){without}."
    return (
        f"{reached}, against {_figure(base.score.mean, measure)} of back-propagation ({BASELINE}), "
        f"{_difference(best.difference, measure)}{without}."
    )


def _figure(value: float, measure: Measure) -> str:
    return measure.with_unit(value).replace(" ", "\N{NO-BREAK SPACE}")


def _difference(gap: Difference, measure: Measure) -> str:
    written = measure.difference(gap.mean, gap.half_width).replace("-", "−")
    said = f"a difference of {written} {measure.difference_unit}"
    if gap.half_width is None:
        return f"{said}, from one seed, which tells little"
    said += f" (95\N{NO-BREAK SPACE}%, {_seeds(gap.n)})"
    return said + (", which these seeds cannot tell from none" if abs(gap.mean) <= gap.half_width else "")


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _on_gradients(summaries: dict[str, Summary], best: Summary | None) -> str:
    one = best if best is not None and best.alignment else None
    one = one or next((other for other in summaries.values() if other.alignment and other.method != NO_GRADIENT), None)
    if one is None:
        return "No synthetic gradient has been compared with the true one to the end of a run."
    cosines = {cut: values["cosine"] for cut, values in one.alignment.items()}
    mean = fmean(cosines.values())
    low, high = min(cosines, key=lambda cut: cosines[cut]), max(cosines, key=lambda cut: cosines[cut])
    spread = f", from {_cosine(cosines[low])} at {low} to {_cosine(cosines[high])} at {high}" if low != high else ""
    return (
        f"The synthetic gradients of {one.method} {_direction(mean)}: the mean cosine of the two is "
        f"{_cosine(mean)}{spread} (1 is the same direction, 0 is what chance gives)."
    )


def _direction(cosine: float) -> str:
    if cosine <= -0.1:
        return "point against the true ones"
    if cosine < 0.1:
        return "hardly follow the true ones"
    return "follow the true ones only roughly" if cosine < 0.5 else "largely follow the true ones"


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _on_time(summaries: dict[str, Summary], best: Summary | None, drawn: Sequence[Chart]) -> str:
    other = best or next((one for one in summaries.values() if one.method != BASELINE), None)
    if other is None:
        return f"There is nothing to compare the time of {BASELINE} with."
    clocks = {method: one.timeline.makespan for one in drawn for method in one.methods}
    said = []
    if other.ms_per_step is not None:
        ratio = f", {other.times:.1f} times that of {BASELINE}" if other.times is not None else ""
        said.append(
            f"in one process, where nobody waits, a step of {other.method} took {other.ms_per_step:.1f} ms{ratio}"
        )
    if other.method in clocks and BASELINE in clocks:
        said.append(
            f"with a worker for each stage and assumed durations, {STEPS} steps would end at time "
            f"{clocks[other.method]:g} instead of {clocks[BASELINE]:g} (simulated, not measured)"
        )
    text = "; ".join(said) or "no time has been measured"
    return f"{text[:1].upper()}{text[1:]}."
