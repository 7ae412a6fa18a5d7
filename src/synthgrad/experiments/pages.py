"""Fills the tables of a page from the committed results, and draws its pictures: no number in it is written by hand.

    python -m synthgrad.experiments.pages README.md

A table stands between two comments, and is made anew from the file that the first one names, results of a comparison
(JSONL) or a benchmark (JSON):

    <!-- table: results/digits.jsonl -->
    ...
    <!-- end -->

Of a benchmark, `results/bench-step.json#ratios` shows the ratios alone. Results in a folder called `recurrent` are
those of a comparison in time; in one called `reproduce`, of the paper's table that the file's name tells.

A picture of what the methods of a comparison reached stands behind such a comment, and is drawn into the file it names:

    <!-- picture: results/digits.jsonl -->
    ![Test error of each method](docs/pictures/digits.svg)

Of comparisons in time, one or several, it shows how the methods got on.

Several files, of which the first is the count of `synthgrad bench signals`, make one table of all learning signals.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthgrad.experiments.recurrent.results import RecurrentResult, read_recurrent_results, recurrent_summaries
from synthgrad.experiments.recurrent.tables import recurrent_markdown
from synthgrad.experiments.report.recurrent_curves import courses_picture
from synthgrad.experiments.report.scores import scores_picture
from synthgrad.experiments.results import Result, ResultsError, read_lines, read_results, summarize
from synthgrad.experiments.signals import signals_markdown
from synthgrad.experiments.suites.catalog import suite_of
from synthgrad.experiments.suites.store import decode_any
from synthgrad.experiments.suites.suite import Table
from synthgrad.experiments.suites.tables import suite_markdown
from synthgrad.experiments.tables import summary_markdown

__all__ = ["draw", "fill", "main"]

RATIOS = "ratios"
RECURRENT = "recurrent"  # the folder of results of comparisons in time
REPRODUCE = "reproduce"  # of the paper's tables
UNITS = {"ms": "ms", "us": "µs", "s": "s", "percent": "%", "mib": "MiB", "kib": "KiB"}  # as figures' names have them
SEED = re.compile(r"_seed_\d+")

_TABLE = re.compile(r"(<!-- table: (?P<files>[^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_PICTURE = re.compile(r"<!-- picture: (?P<results>[^>]+?) -->\n!\[[^\]]*\]\((?P<file>[^)]+)\)")


def fill(text: str, folder: Path) -> str:
    """The page with all its tables made anew.

    Args:
        text: the page, in Markdown.
        folder: where the page stands; the files that it names are found from there.

    Raises:
        ResultsError: a file of results that is missing or broken.
    """
    return _TABLE.sub(
        lambda match: match[1] + _table([folder / file for file in match["files"].split()]) + match[3], text
    )


def draw(text: str, folder: Path) -> dict[Path, str]:
    """The pictures of the page, by the files in which they stand.

    Args:
        text: the page, in Markdown.
        folder: where the page stands; the files that it names are found from there.

    Raises:
        ResultsError: a file of results that is missing or broken.
    """
    return {
        folder / match["file"]: _picture([folder / file for file in match["results"].split()]) + "\n"
        for match in _PICTURE.finditer(text)
    }


def _picture(paths: list[Path]) -> str:
    if paths[0].parent.name == RECURRENT:
        return courses_picture([read_recurrent_results(path) for path in paths])
    (path,) = paths
    return scores_picture(read_results(path))


def _table(paths: list[Path]) -> str:
    first, *others = paths
    if others:
        return _signals(first, others)
    if first.suffix in (".json", f".json#{RATIOS}"):
        return _benchmark(first.with_suffix(".json"), alone=RATIOS in first.suffix)
    return _comparison(first)


def _signals(count: Path, comparisons: list[Path]) -> str:
    ratios, figures, *_ = _read_benchmark(count)
    results = {path.stem: read_results(path) for path in comparisons}
    table = signals_markdown(ratios, figures, {name: summarize(cells) for name, cells in results.items()})
    origins = "\n\n".join(f"**{name}** {_origin(cells)}" for name, cells in results.items())
    return f"{table}\n{origins}\n"


def _read_benchmark(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["ratios"], found["figures"], found["machine"], found["command"]
    except (OSError, ValueError, KeyError) as error:
        raise ResultsError(
            f"{path}: is no benchmark's JSON ({error}); make it with: synthgrad bench NAME --json"
        ) from None


def _benchmark(path: Path, *, alone: bool) -> str:
    *found, command = _read_benchmark(path)
    ratios, figures, machine = (part.items() for part in found)
    rows = [f"| **{_title(name)}** | **{_number(value, ' ×')}** |" for name, value in ratios]
    if not alone:
        rows += [f"| {title} | {value} |" for title, value in _by_seed(figures)]
    where = ", ".join(f"{name} {value}" for name, value in machine if name != "versions")
    return "\n".join(["| ratio or figure | value |", "| :-- | --: |", *rows, "", f"<sub>`{command}` · {where}</sub>\n"])


def _by_seed(figures: Iterable[tuple[str, float | None]]) -> list[tuple[str, str]]:
    """Titles and values; those of all seeds of one figure stand in one row."""
    found: dict[str, list[str]] = {}
    for name, value in figures:
        whole = SEED.sub("", name)
        found.setdefault(_title(whole) + ("" if whole == name else ", seed by seed"), []).append(_number(value))
    return [(title, ", ".join(values)) for title, values in found.items()]


def _title(name: str) -> str:
    """In words, as nearly as the name has them; units in brackets.

    >>> _title("one_process_ms")
    'one process (ms)'
    """
    first, *words = name.split("_")
    return " ".join([first, *(f"({UNITS[word]})" if word in UNITS else word for word in words)])


def _number(value: float | None, unit: str = "") -> str:
    return "never" if value is None else f"{value:.3f}{unit}"


def _comparison(path: Path) -> str:
    if path.parent.name == REPRODUCE:
        table = Table.of(suite_of(path.stem), read_lines(path, decode_any))
        return f"{suite_markdown(table)}\n{_origin(table.results)}\n"
    if path.parent.name == RECURRENT:
        cells = read_recurrent_results(path)
        return f"{recurrent_markdown(recurrent_summaries(cells))}\n{_origin(cells)}\n"
    results = read_results(path)
    return f"{summary_markdown(summarize(results))}\n{_origin(results)}\n"


def _origin(results: Sequence[Result | RecurrentResult]) -> str:
    """Where the numbers come from, in one line: all commands, versions and machines, if there are several."""
    seeds = len({result.seed for result in results})
    commands = _each_once(f"`{result.command}`" for result in results)
    versions = _each_once(_listed(result.versions) for result in results)
    hardware = _each_once(_listed(result.hardware) for result in results)
    return f"<sub>{seeds} seed{'s' if seeds > 1 else ''} · {commands} · {versions} · {hardware}</sub>"


def _listed(said: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _each_once(said: Iterable[str]) -> str:
    """What results say, in the order in which it is first said: of several machines, all are told."""
    return "; ".join(dict.fromkeys(said))


def main(arguments: list[str]) -> int:
    """Fill each page that is named, in place, and draw its pictures."""
    for argument in arguments:
        page = Path(argument)
        text = fill(page.read_text(encoding="utf-8"), page.parent)
        page.write_text(text, encoding="utf-8")
        for file, picture in draw(text, page.parent).items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
