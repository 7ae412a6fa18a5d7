"""The parts that pages are put together from: sections, tables, captions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from synthgrad.experiments.columns import NOTHING
from synthgrad.experiments.report.drawing import Markup, join, tag
from synthgrad.experiments.report.style import PATTERNS, method_class, stylesheet

__all__ = ["SPACE", "caption", "count", "document", "heading", "origin", "pair", "results", "section", "table"]

SPACE = "\N{NO-BREAK SPACE}"


def document(title: str, *body: str) -> str:
    """A whole page, in one file that needs nothing else."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", stylesheet()),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", PATTERNS, *body), lang="en") + "\n"


def count(number: int, what: str) -> str:
    """So many of something, in words.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {what}" + ("" if number == 1 else "s")


def section(title: str, *parts: str, class_: str | None = None) -> Markup:
    """A section with its heading."""
    return tag("section", tag("h2", title), *parts, class_=class_)


def caption(*parts: str) -> Markup:
    """What explains a picture or a table."""
    return tag("p", *parts, class_="caption")


def pair(one: Markup, other: Markup) -> Markup:
    """Two pictures side by side."""
    return tag("div", tag("figure", one), tag("figure", other), class_="pair")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0, class_: str | None = None
) -> Markup:
    """A table whose first cells are headings of rows, and whose first `left` columns are set to the left."""
    sides = ["left" if place < left else None for place in range(len(headings))]
    head = tag("tr", *(tag("th", one, class_=side) for one, side in zip(headings, sides, strict=True)))
    body = []
    for first, *others in rows:
        cells = [tag("td", one, class_=side) for one, side in zip(others, sides[1:], strict=True)]
        body.append(tag("tr", tag("th", first), *cells))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), class_=class_), class_="wide")


def results(
    headings: Sequence[str], rows: Iterable[Sequence[str]], methods: Sequence[str], *captions: Markup, left: int
) -> Markup:
    """The section with what the methods came to.

    Args:
        headings: of the columns, of which the first names the method.
        rows: one for each method, as text.
        methods: all of the run, which their lines' patterns depend on.
        captions: what explains it.
        left: how many columns are set to the left.
    """
    headings = [one.replace(" %", f"{SPACE}%").replace("× ", f"×{SPACE}") for one in headings]
    marked = [(join([_swatch(name, methods), name]), *map(_typeset, cells)) for name, *cells in rows]
    return section("Results", table(headings, marked, left=left, class_="results"), *captions)


def _swatch(method: str, methods: Sequence[str]) -> Markup:
    """A piece of a method's line."""
    line = tag("path", d="M0 5H26", class_=f"curve {method_class(method, methods)}")
    return tag("svg", line, viewBox="0 0 26 10", class_="swatch", aria_hidden="true")


def _typeset(cell: str) -> str:
    """A cell of a table with a true minus, and a dash for what there is not."""
    return "–" if cell == NOTHING else cell.replace("-", "−")


def heading(name: str, about: str) -> Markup:
    """A heading with a few words about it."""
    return tag("h3", name, tag("span", f"  {about}", class_="about") if about else "")


def origin(description: Mapping[str, Any], again: str) -> Markup:
    """Where a run comes from: its command, settings, versions and hardware.

    Args:
        description: of the run, as in its `run.toml`.
        again: the command that runs it once more.
    """
    command = description.get("command")
    tables = [(name, table) for name, table in description.items() if isinstance(table, Mapping)]
    loose = {name: value for name, value in description.items() if name != "command" and not isinstance(value, Mapping)}
    if loose:
        tables.append(("more", loose))
    names = {"comparison": "settings"}
    blocks = [tag("div", tag("h3", names.get(name, name).capitalize()), _facts(table)) for name, table in tables]
    return section(
        "Where it comes from",
        tag("pre", str(command)) if command else "",
        caption(
            "The folder's ",
            tag("code", "run.toml"),
            " runs it again: ",
            tag("code", again),
        ),
        tag("div", *blocks, class_="facts"),
    )


def _facts(table: Mapping[str, Any]) -> Markup:
    rows = [tag("tr", tag("th", name), tag("td", _written(value))) for name, value in table.items()]
    return tag("table", tag("tbody", *rows))


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
