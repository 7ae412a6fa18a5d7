"""What the tables of all comparisons have in common: how they look, and how figures are written in them."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich import box
from rich.padding import PaddingDimensions
from rich.table import Table

from synthgrad.experiments.measures import Measure
from synthgrad.experiments.results import Figures, Judged

__all__ = ["NOTHING", "broken", "figure", "judged", "markdown", "mean_of", "score", "terminal_table"]

NOTHING = "-"


def terminal_table(headings: Iterable[str], *, left: int, padding: PaddingDimensions = (0, 1)) -> Table:
    """A table for a terminal, of methods; its first `left` columns are aligned to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=padding)
    for place, heading in enumerate(headings):
        table.add_column(
            heading, style="" if place else "bold", justify="left" if place < left else "right", no_wrap=True
        )
    return table


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A Markdown table, its first `left` columns aligned to the left, the others to the right."""
    aligned = [":--"] * left + ["--:"] * (len(headings) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, aligned, *rows)) + "\n"


# ---- what stands in them ---------------------------------------------------------------------------------------------


def broken(method: str) -> str:
    """A method's name with its own settings, if it has any, below each other."""
    return method.replace(":", "\n  ")


def figure(value: float | None, digits: int = 2) -> str:
    """A number, or the sign that there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def score(value: float | None, measure: Measure) -> str:
    """What something is judged by, without its unit; what is counted, where it is whole, without a point."""
    return NOTHING if value is None else measure.value(value).removesuffix(".0")


def judged(one: Judged) -> tuple[str, str, str]:
    """What a method came to: its score, that less the baseline's, and ms/step with how many times the baseline's."""
    gap, times = one.difference, "" if one.times is None else f" ({one.times:.1f}×)"
    reached = NOTHING if one.score is None else one.measure.spread(one.score.mean, one.score.std)
    return (
        reached + (f" ({one.failed} failed)" if one.failed else ""),
        NOTHING if gap is None else one.measure.difference(gap.mean, gap.half_width),
        NOTHING if one.ms_per_step is None else f"{one.ms_per_step:.1f}{times}",
    )


def mean_of(figures: Figures, name: str) -> float | None:
    """Of one figure, the mean over the cuts."""
    return fmean(values[name] for values in figures.values()) if figures else None
