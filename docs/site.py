"""Lays out what the generator builds the site of: the pages of docs/ as they are, and each lesson as a page.

    python docs/site.py [FOLDER]

A lesson is rendered by nbconvert as it was committed, pictures and all; nothing is executed. Links to notebooks become
links to their pages, and formulas MathML, which browsers show without fetching anything.
"""

import re
import shutil
import sys
from functools import partial
from pathlib import Path

from jinja2 import DictLoader
from latex2mathml.converter import convert
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"  # docs_dir in mkdocs.yml

# Output is told from code by its class; the cell that installs things in a hosted notebook is left out.
TEMPLATE = """{% extends 'markdown/index.md.j2' %}
{% block stream %}
``` { .text .output }
{{ output.text | trim('\\n') }}
```
{% endblock stream %}
"""
SETTINGS = Config()
SETTINGS.RegexRemovePreprocessor.enabled = True
SETTINGS.RegexRemovePreprocessor.patterns = ["# In a hosted notebook this installs"]

TOP = """
!!! tip "This page can be run"
    It shows a notebook as it was executed last. `make lessons` opens it, to be changed and run;
    or download it: [{name}]({name}).
"""


def lay_out(folder: Path) -> None:
    """Write the pages into a folder, in place of whatever is there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(r"\]\(\.\./lessons/(\w+)\.ipynb", r"](lessons/\1.md", text), encoding="utf-8")
    (folder / "lessons").mkdir()
    for notebook in sorted((ROOT / "lessons").glob("*.ipynb")):
        write_lesson(notebook, folder / "lessons")


def write_lesson(notebook: Path, folder: Path) -> None:
    """Write the page of a notebook with its pictures, and the notebook itself, for those who want to run it."""
    exporter = MarkdownExporter(
        config=SETTINGS, template_file="lesson.md.j2", extra_loaders=[DictLoader({"lesson.md.j2": TEMPLATE})]
    )
    text, made = exporter.from_filename(str(notebook), resources={"unique_key": notebook.stem})
    for name, picture in made["outputs"].items():
        (folder / name).write_bytes(picture)
    shutil.copy(notebook, folder)
    (folder / f"{notebook.stem}.md").write_text(page_of(text, notebook.name), encoding="utf-8")


def page_of(text: str, name: str) -> str:
    """What nbconvert made, as a page of the site."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)  # every other one is code or output
    section = ""
    for place in range(0, len(parts), 2):
        part = parts[place].replace(".ipynb)", ".md)").replace("](../docs/", "](../")
        part = re.sub(r"\$\$(.+?)\$\$", partial(_formula, display="block"), part, flags=re.DOTALL)
        part = re.sub(r"\$([^$\n]+)\$", partial(_formula, display="inline"), part)
        parts[place] = part.replace("![png](", f"![A picture of “{section}”, drawn by the code above](")
        section = [section, *re.findall(r"^#+ (.+)$", part, re.MULTILINE)][-1]  # pictures follow code, not headings
    title, rest = "".join(parts).strip().split("\n", 1)
    return f"{title}\n{TOP.format(name=name)}{rest}\n"


def _formula(found: re.Match[str], display: str) -> str:
    made = convert(found[1].strip(), display=display)
    # At the beginning of a line, <math> would be taken for a block of its own.
    return f"<span>{made}</span>" if display == "inline" else made


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]) if sys.argv[1:] else PAGES)
