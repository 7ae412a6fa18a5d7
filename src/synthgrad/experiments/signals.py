"""The learning signals side by side: what each waits for, what it costs, and what it reached wherever it was compared.

Figures come from a count (`synthgrad bench signals`) and from comparisons (`synthgrad compare --results`).
"""

from collections.abc import Mapping, Sequence

from synthgrad.experiments.columns import NOTHING, markdown, mean_of
from synthgrad.experiments.methods import METHODS
from synthgrad.experiments.results import Summary

__all__ = ["signals_markdown"]


def signals_markdown(
    ratios: Mapping[str, float], figures: Mapping[str, float], comparisons: Mapping[str, Sequence[Summary]]
) -> str:
    """A Markdown table, a row for each method that was counted and is in a comparison.

    Args:
        ratios: of the count, `<method>_flops_over_backprop`.
        figures: of the count, `<method>_extra_parameters` and `<method>_kib_back`.
        comparisons: by name, what the methods came to; agreement and alignment are those of the first.
    """
    headings = ["method", "what it is", "waits for (locks)", "extra parameters", "extra arithmetic", "KiB sent back"]
    headings += [f"{name}: {summaries[0].measure.heading}" for name, summaries in comparisons.items() if summaries]
    headings += ["agreement", "alignment (rows)", "alignment (parameters)"]
    compared = {name: {one.method: one for one in summaries} for name, summaries in comparisons.items()}
    methods = [name for name in METHODS if any(name in row for row in compared.values())]
    rows = [
        [
            method,
            METHODS[method].title,
            next(", ".join(row[method].locks) or "nothing" for row in compared.values() if method in row),
            *_counted(method, ratios, figures),
            *(_reached(row.get(method)) for row in compared.values()),
            *_cosines(next(iter(compared.values())).get(method)),
        ]
        for method in methods
    ]
    return markdown(headings, rows, left=3)


def _counted(method: str, ratios: Mapping[str, float], figures: Mapping[str, float]) -> tuple[str, str, str]:
    parameters, flops, back = (
        figures.get(f"{method}_extra_parameters"),
        ratios.get(f"{method}_flops_over_backprop"),
        figures.get(f"{method}_kib_back"),
    )
    return (
        NOTHING if parameters is None else f"{parameters:,.0f}",
        NOTHING if flops is None else f"{100 * (flops - 1):+.0f} %",
        NOTHING if back is None else f"{back:,.0f}",
    )


def _reached(summary: Summary | None) -> str:
    if summary is None or summary.score is None:
        return NOTHING if summary is None else f"{summary.failed} failed"
    failed = f" ({summary.failed} failed)" if summary.failed else ""
    return summary.measure.spread(summary.score.mean, summary.score.std) + failed


def _cosines(summary: Summary | None) -> tuple[str, str, str]:
    if summary is None:
        return NOTHING, NOTHING, NOTHING
    found = (
        mean_of(summary.agreement, "cosine"),
        mean_of(summary.alignment, "cosine"),
        mean_of(summary.alignment, "parameter_cosine"),
    )
    one, two, three = (NOTHING if value is None else f"{value:.2f}" for value in found)
    return one, two, three
