"""The page: everything in its place, in one file that needs nothing else."""

from collections.abc import Sequence
from statistics import fmean, stdev

from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.report.curves import loss_panel, valid_panel
from synthgrad.experiments.report.drawing import Markup, join, tag
from synthgrad.experiments.report.findings import findings
from synthgrad.experiments.report.gantt import Chart, chart, charts
from synthgrad.experiments.report.parts import caption, count, heading, origin, section, swatch, table, typeset
from synthgrad.experiments.report.run import Run
from synthgrad.experiments.report.strips import heat_strips, reach_of, scale_legend
from synthgrad.experiments.report.style import PATTERNS, method_class, stylesheet
from synthgrad.experiments.report.timeline import kinds_legend, waits_legend
from synthgrad.experiments.results import BASELINE
from synthgrad.experiments.tables import summary_rows

__all__ = ["assemble"]


def assemble(run: Run) -> str:
    """The whole page as text; the same run gives the same page."""
    drawn = charts(run.methods, run.stages) if run.stages is not None else []
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{run.name}: synthetic gradients compared"),
        tag("style", stylesheet()),
    )
    body = tag(
        "body",
        PATTERNS,
        _opening(run, drawn),
        _results(run),
        _curves(run),
        _strips(run),
        _gantt(run, drawn),
        _cost(run),
        origin(run.description, "synthgrad compare --config run.toml"),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _opening(run: Run, drawn: Sequence[Chart]) -> Markup:
    counts = [count(len(run.methods), "method"), count(len(run.seeds), "seed"), f"{run.steps:,} steps each"]
    state = "finished" if run.finished else "unfinished"
    said = [tag("li", sentence) for sentence in findings(run, drawn)]
    return join(
        [
            tag("h1", run.name),
            tag("p", f"The same network, trained in different ways: {' · '.join([*counts, state])}", class_="subtitle"),
            _notice(run),
            tag("ul", *said, class_="findings"),
        ]
    )


def _notice(run: Run) -> Markup:
    """What went wrong, in plain sight; nothing where nothing did."""
    said = []
    if not run.finished:
        said.append("This run has not come to its end. What there is of it is shown.")
    said += [
        f"{cell.method}, seed {cell.seed}, failed after step {cell.steps}: {cell.failed}"
        for cell in run.cells
        if cell.failed is not None
    ]
    if short := [cell for cell in run.cells if cell.failed is None and not cell.finished]:
        where = (f"{cell.method}, seed {cell.seed}, at step {cell.steps} of {cell.total or '?'}" for cell in short)
        said.append(f"Cut short: {'; '.join(where)}.")
    if missing := [name for name in run.asked if name not in run.methods]:
        said.append(f"Not started: {', '.join(missing)}.")
    if run.unreadable:
        said.append(f"{count(run.unreadable, 'line')} of the run's files could not be read, and left out.")
    return tag("div", *(tag("p", one) for one in said), class_="notice") if said else Markup("")


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _results(run: Run) -> Markup:
    headings, rows = summary_rows(run.summaries(), run.measure)
    marked = [(join([swatch(row[0], run.methods), row[0]]), *(typeset(cell) for cell in row[1:])) for row in rows]
    titles = [f"{name}: {METHODS[name].title}. " for name in run.methods if name in METHODS]
    headings = [
        heading.replace(" %", "\N{NO-BREAK SPACE}%").replace("× ", "×\N{NO-BREAK SPACE}") for heading in headings
    ]
    return section(
        "Results",
        table(headings, marked, left=2, class_="results"),
        caption(
            f"Test {run.measure.name}: of the plain network after training, mean ± standard deviation over the seeds. "
            f"Δ: difference to {BASELINE}, paired by seed, with its 95 % interval. Waits for: what a stage's update "
            "needs of the same batch from other stages: the forward pass of those before it (forward) and of those "
            "behind (update), and their backward pass (backward). Agreement: cosine of a synthetic gradient with what "
            "its synthesizer learns from. Alignment: with the true gradient, row by row at the cut, and of the "
            "parameters below the cut; means over the cuts."
        ),
        caption(*titles),
    )


def _cost(run: Run) -> Markup:
    times = {
        method: [cell.result.ms_per_step for cell in run.of(method) if cell.result and cell.result.ms_per_step]
        for method in run.methods
    }
    most = max((max(row) for row in times.values() if row), default=1.0)
    ratios = {summary.method: summary.times for summary in run.summaries()}
    rows = []
    for method, row in times.items():
        spread = f" ± {stdev(row):.2f}" if len(row) > 1 else ""
        ratio = ratios[method]
        share = f"width:{100 * fmean(row) / most:.1f}%" if row else "width:0"
        bar = tag("div", class_=f"measure {method_class(method, run.methods)}", style=share)
        figure = f"{fmean(row):.2f}{spread}" if row else "–"
        rows.append((method, figure, "–" if ratio is None else f"{ratio:.1f} ×", bar))
    return section(
        "What it costs",
        caption(
            "Time of a training step on the machine named below, all stages in one process: the median over a run's "
            "steps, mean ± standard deviation over the seeds. Nobody waits for anybody here, so this is the price of "
            "decoupling, not its use."
        ),
        table(("method", "ms per step", f"times {BASELINE}", ""), rows, left=1, class_="cost"),
        class_="keep",
    )


# ---- pictures --------------------------------------------------------------------------------------------------------


def _curves(run: Run) -> Markup:
    loss, width = loss_panel(run)
    averaged = f" Each point of the training loss is the mean over {width} steps." if width > 1 else ""
    several = len(run.seeds) > 1
    bands = (
        " Line: mean over the seeds; band: from the lowest seed to the highest, of those that came so far."
        if several
        else " One seed."
    )
    crosses = " A cross marks where a run failed." if any(cell.failed for cell in run.cells) else ""
    return section(
        "Learning curves",
        caption(f"Lower is better.{bands}{averaged} On a logarithmic scale zero is drawn at the bottom.{crosses}"),
        tag("div", tag("figure", loss), tag("figure", valid_panel(run)), class_="pair"),
        class_="keep",
    )


def _strips(run: Run) -> Markup:
    reach = reach_of(run)
    drawn, without = [], []
    for method in run.methods:
        strips = heat_strips(run, method, reach)
        if strips is None:
            without.append(method)
        else:
            drawn.append(tag("figure", heading(method, METHODS[method].title if method in METHODS else ""), strips))
    missing = f"No synthetic gradients were measured with {', '.join(without)}." if without else ""
    legend = tag("figure", scale_legend(reach)) if drawn else ""
    return section(
        "How good are the synthetic gradients?",
        caption(
            "A row for each cut, the one nearest to the input on top; time runs to the right, in steps. Color: cosine, "
            "mean over the seeds. Blue: the synthetic gradient points the same way; pale: no better than chance; "
            "orange and hatched: the opposite way. Agreement compares with what the synthesizer learns from, alignment "
            "with the true gradient. The number is the median over the whole run."
        ),
        legend,
        *drawn,
        tag("p", missing, class_="note") if missing else "",
    )


def _gantt(run: Run, drawn: Sequence[Chart]) -> Markup:
    until = max((one.timeline.makespan for one in drawn), default=1.0)
    figures = []
    for one in drawn:
        waiting = ", ".join(f"{reason} {100 * share:.0f}\N{NO-BREAK SPACE}%" for reason, share in one.waiting().items())
        facts = f"Done at {one.timeline.makespan:g}. Of the workers' time goes into waiting: {waiting or 'nothing'}."
        above = heading(", ".join(one.methods), one.schedule)
        figures.append(tag("figure", above, tag("p", facts, class_="note"), chart(one, until)))
    shown = {method for one in drawn for method in one.methods}
    missing = ", ".join(method for method in run.methods if method not in shown)
    return section(
        "Who waits for whom?",
        caption(
            "Three steps as they would go with a worker for each stage: stage 0 sees the input, the last one the loss. "
            "All charts have the same scale of time. This is simulated, not measured: a forward pass takes 1 unit, a "
            "backward pass 2, an update or a lesson ½, a message no time. Framed: all work on the second batch."
        ),
        kinds_legend(),
        waits_legend(),
        *figures,
        tag("p", f"No schedule is known for {missing}.", class_="note") if missing else "",
    )
