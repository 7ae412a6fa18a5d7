"""The page of a comparison of networks: what it reached, how it learned, who waits for whom, and what it costs."""

from collections.abc import Sequence
from statistics import fmean, stdev

from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.report.curves import loss_panel, valid_panel
from synthgrad.experiments.report.drawing import Markup, tag
from synthgrad.experiments.report.findings import findings
from synthgrad.experiments.report.gantt import Chart, chart, charts
from synthgrad.experiments.report.opening import opening
from synthgrad.experiments.report.parts import caption, document, heading, origin, pair, results, section, table
from synthgrad.experiments.report.run import Run
from synthgrad.experiments.report.strips import heat_strips, reach_of, scale_legend
from synthgrad.experiments.report.style import method_class
from synthgrad.experiments.report.timeline import kinds_legend, waits_legend
from synthgrad.experiments.results import BASELINE
from synthgrad.experiments.tables import summary_rows

__all__ = ["assemble"]


def assemble(run: Run) -> str:
    """The whole page as text; the same run gives the same page."""
    drawn = charts(run.methods, run.stages) if run.stages is not None else []
    about, length = "The same network, trained in different ways", f"{run.steps:,} steps each"
    return document(
        f"{run.name}: synthetic gradients compared",
        opening(run, about, findings(run, drawn), counted=[length], step="step"),
        _results(run),
        _curves(run),
        _strips(run),
        _gantt(run, drawn),
        _cost(run),
        origin(run.description, "synthgrad compare --config run.toml"),
    )


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _results(run: Run) -> Markup:
    headings, rows = summary_rows(run.summaries(), run.measure)
    titles = [f"{name}: {METHODS[name].title}. " for name in run.methods if name in METHODS]
    return results(
        headings,
        rows,
        run.methods,
        caption(
            f"Test {run.measure.name}: of the plain network after training, mean ± standard deviation over the seeds. "
            f"Δ: difference to {BASELINE}, paired by seed, with its 95 % interval. Waits for: what a stage's update "
            "needs of the same batch from other stages: the forward pass of those before it (forward) and of those "
            "behind (update), and their backward pass (backward). Agreement: cosine of a synthetic gradient with what "
            "its synthesizer learns from. Alignment: with the true gradient, row by row at the cut, and of the "
            "parameters below the cut; means over the cuts."
        ),
        caption(*titles),
        left=2,
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
        pair(loss, valid_panel(run)),
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
