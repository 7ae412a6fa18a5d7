"""The site of docs/: it builds without a warning, leads nowhere in vain, needs no network, and what it shows is so."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import synthgrad as sg

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))
README = ROOT / "README.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# ---- the built site --------------------------------------------------------------------------------------------------


class Found(HTMLParser):
    """Of an HTML page: its anchors, where it leads, and what a browser fetches to show it."""

    FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "srcset"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if (place := self.FETCHED.get(tag)) in given and given.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(given[place])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The site, built as `make docs` builds it, but elsewhere; with what was said meanwhile."""
    home = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "mkdocs.yml", home)
    subprocess.run([sys.executable, DOCS / "site.py", home / "build" / "pages"], check=True)
    for name in ("examples", "src"):
        (home / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    run = subprocess.run(command, cwd=home, capture_output=True, text=True)
    folder = home / "build" / "docs"
    pages = {page: Found(page.read_text(encoding="utf-8")) for page in folder.rglob("*.html")}
    return SimpleNamespace(folder=folder, pages=pages, said=run.stdout + run.stderr, status=run.returncode)


def test_it_builds_strictly_and_without_a_warning(site: SimpleNamespace) -> None:
    assert site.status == 0, site.said
    said = [
        line for line in site.said.splitlines() if not re.match(r"Build (started|finished)|No issues found$|$", line)
    ]
    assert not said, "\n".join(said)  # griffe says what is wrong with a docstring, and the generator goes on
    built = {page.relative_to(site.folder).with_suffix(".md") for page in site.pages}
    assert {page.relative_to(DOCS) for page in PAGES} <= built


def test_every_link_and_anchor_leads_somewhere(site: SimpleNamespace) -> None:
    lost = [f"{page.relative_to(site.folder)}: {link}" for page, link in led_astray(site)]
    assert not lost, "\n".join(lost)


def led_astray(site: SimpleNamespace) -> Iterator[tuple[Path, str]]:
    for page, found in site.pages.items():
        for link in found.links + found.fetched:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data", "javascript") or page.name == "404.html":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            anchors = site.pages[target].anchors if target in site.pages else None
            if not target.is_file() or (parts.fragment and anchors is not None and parts.fragment not in anchors):
                yield page, link


def test_nothing_is_fetched_from_elsewhere(site: SimpleNamespace) -> None:
    for page, found in site.pages.items():
        outside = [link for link in found.fetched if urlsplit(link).scheme in ("http", "https") or link[:2] == "//"]
        assert not outside, (page.name, outside)
    for style in site.folder.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.parametrize("name", [*sg.__all__])
def test_every_public_name_stands_in_the_reference(name: str, site: SimpleNamespace) -> None:
    where = [page for page, found in site.pages.items() if f"synthgrad.{name}" in found.anchors]
    assert len(where) == 1 and where[0].parent.name == "api", f"put `::: synthgrad.{name}` on one page of docs/api"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_a_page_with_its_code_outputs_pictures_and_formulas(lesson: Path, site: SimpleNamespace) -> None:
    notebook: Any = nbformat.read(lesson, as_version=4)
    cells = notebook.cells
    page = site.folder / "lessons" / f"{lesson.stem}.html"
    text = page.read_text(encoding="utf-8")
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    prints = [output for output in outputs if output.output_type == "stream"]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    shown = [name for name in site.pages[page].fetched if name.startswith(lesson.stem) and name.endswith(".png")]
    assert len(shown) == len(set(shown)) == len(pictures) and 'alt="png"' not in text
    assert text.count('class="output highlight"') == len(prints)
    assert "%pip" not in text and "$$" not in text
    said = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert text.count("<math") == len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", said, re.DOTALL))
    assert not re.search(r'(?<!<span>)<math[^>]*display="inline"', text)  # they stand in sentences
    assert [link for link in site.pages[page].links if ".ipynb" in link] == [lesson.name]  # to be run, or downloaded
    around = [
        LESSONS[place].stem for place in (LESSONS.index(lesson) + step for step in (-1, 1)) if 0 <= place < len(LESSONS)
    ]
    assert all(
        f"{name}.html" in site.pages[page].links or f"./{name}.html" in site.pages[page].links for name in around
    )


def test_pages_of_the_site_lead_to_the_pages_of_lessons_and_sources_to_the_notebooks(site: SimpleNamespace) -> None:
    led = {link.split("/")[-1] for link in site.pages[site.folder / "learn.html"].links if "lessons/" in link}
    assert {f"{lesson.stem}.html" for lesson in LESSONS} <= led
    assert all(f"](../lessons/{lesson.name})" in (DOCS / "learn.md").read_text(encoding="utf-8") for lesson in LESSONS)


def test_every_page_is_in_the_navigation(site: SimpleNamespace) -> None:
    home = site.folder / "index.html"
    led = {(home.parent / urlsplit(link).path).resolve() for link in site.pages[home].links}
    missing = [page.name for page in site.pages if page.name != "404.html" and page not in led | {home}]
    assert not missing, f"name them in mkdocs.yml, under nav: {missing}"


# ---- what stands in the sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_every_relative_link_in_the_sources_names_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8"))
    lost = [link for link in links if not (page.parent / link.split("#")[0]).exists()]
    assert not lost, lost


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_python_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), name_of(page), "exec"), stage_set())  # examples have tests of their own


def stage_set() -> dict[str, object]:
    """What docs/index.md says is there on all pages."""
    sizes = (64, 128, 128, 10)
    layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    x, y = torch.rand(32, 64), torch.randint(0, 10, (32,))
    return {
        **{"torch": torch, "nn": nn, "F": F, "partial": partial, "sg": sg, "__name__": "docs"},
        **{"model": nn.Sequential(*layers[:-1]), "x": x, "y": y, "loader": [(x, y)] * 3},
    }


def test_what_it_says_is_there_on_all_pages_is_said() -> None:
    said = (DOCS / "index.md").read_text(encoding="utf-8")
    for name in stage_set().keys() - {"__name__"}:
        assert re.search(rf"\b{name}\b", said), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_commands_of_ours_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = {tuple(found.split()) for found in re.findall(r"(?:`|\$ )synthgrad ([a-z]+(?: [a-z]+)?)", text)}
    for command in commands:
        words = command if command[0] in ("schedule", "recurrent") else command[:1]
        run = [sys.executable, "-m", "synthgrad.cli.main", *words, "--help"]
        said = subprocess.run(run, capture_output=True, text=True).stdout
        assert f"usage: synthgrad {' '.join(words)} [" in said, f"there is no such command: {words}"  # the status is 0


def test_every_example_is_shown() -> None:
    shown = set(re.findall(r'--8<-- "(examples/[^"]+)"', "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert shown == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def test_the_pictures_are_those_that_the_commands_draw(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DOCS / "pictures" / "draw.py", tmp_path], check=True)
    draw = [sys.executable, "-m", "synthgrad.cli.main", "schedule", "compare", "--out", str(tmp_path / "locking.svg")]
    subprocess.run(draw, check=True, capture_output=True)
    stale = [one.name for one in tmp_path.iterdir() if (DOCS / "pictures" / one.name).read_bytes() != one.read_bytes()]
    assert not stale, f"run: python docs/pictures/draw.py (or synthgrad schedule compare, for locking.svg): {stale}"
