"""The lessons run from top to bottom, draw what they drew when they were committed, and print no warning.

Executed and written anew, with their outputs, by

    python tests/test_lessons.py [lessons/NAME.ipynb ...]
"""

import base64
import copy
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

LESSONS = Path(__file__).parents[1] / "lessons"
NOTEBOOKS = sorted(LESSONS.glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LONGEST = 380  # KiB of a notebook, pictures included
UNANSWERED = re.compile(r"^(\w+) = None$", re.MULTILINE)  # below the question
SWITCH = "QUICK = False"  # a lesson that takes long has it at its top: fewer seeds, fewer steps

Notebook = Any  # nbformat's own class has attributes that no type checker knows


def read(path: Path) -> Notebook:
    return nbformat.read(path, as_version=4)


def execute(notebook: Notebook) -> Notebook:
    """Run all cells in a kernel of its own, in `lessons/`, on one thread; raises what a cell raises."""
    client = NotebookClient(
        notebook,
        timeout=540,
        kernel_name="python3",
        resources={"metadata": {"path": str(LESSONS)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    environment.pop("SYNTHGRAD_DATA", None)  # data that not everybody has would change what is said
    return client.execute(env=environment)


def outputs(notebook: Notebook) -> list[Notebook]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def below_the_question(notebook: Notebook) -> list[Notebook]:
    asked = max(i for i, cell in enumerate(notebook.cells) if re.search("^## Question$", cell.source, re.MULTILINE))
    return list(notebook.cells[asked:])


def said(notebook: Notebook) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook: Notebook) -> list[bytes]:
    return [base64.b64decode(o.data["image/png"]) for o in outputs(notebook) if "image/png" in o.get("data", {})]


def complaints(notebook: Notebook) -> list[str]:
    """What was written to standard error, a cell's error, or said in an output to be a warning."""
    found = [output.text for output in outputs(notebook) if output.get("name") == "stderr"]
    found += [str(output.evalue) for output in outputs(notebook) if output.output_type == "error"]
    return found + re.findall(r".*Warning\b.*", said(notebook))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> Notebook:
    return read(request.param)


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a machine that has other work, too
def test_a_lesson_runs_and_prints_no_warning(lesson: Notebook) -> None:
    notebook = copy.deepcopy(lesson)
    for cell in notebook.cells:
        cell.source = cell.source.replace(SWITCH, "QUICK = True")
    answers = 0
    for cell in below_the_question(notebook):  # of each lesson's answers at least one is not True
        cell.source, count = UNANSWERED.subn(r"\1 = True", cell.source)
        answers += count
    committed = len(pictures(lesson))
    execute(notebook)
    assert complaints(notebook) == []
    assert len(pictures(notebook)) == committed
    assert not answers or "think again: " in said(notebook)


def test_it_was_committed_with_its_outputs(lesson: Notebook) -> None:
    counts = [cell.execution_count for cell in lesson.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run: python tests/test_lessons.py"
    assert complaints(lesson) == []
    assert len(pictures(lesson)) >= 2 and said(lesson)


def test_it_opens_in_a_hosted_notebook(lesson: Notebook) -> None:
    first = next(cell for cell in lesson.cells if cell.cell_type == "code")
    assert 'find_spec("synthgrad")' in first.source and "%pip install" in first.source
    assert not any("%pip" in cell.source for cell in lesson.cells if cell is not first)


def test_it_has_a_thing_to_try_and_a_question_that_checks_itself(lesson: Notebook) -> None:
    headings = [line for cell in lesson.cells for line in cell.source.splitlines() if cell.cell_type == "markdown"]
    assert "## Try" in headings and "## Question" in headings
    below = below_the_question(lesson)
    assert any(cell.cell_type == "code" and re.search(r"^assert ", cell.source, re.MULTILINE) for cell in below)


def test_it_does_not_tell_the_answer_before_there_is_one(lesson: Notebook) -> None:
    below = below_the_question(lesson)
    if any(UNANSWERED.search(cell.source) for cell in below):
        check = next(cell for cell in below if re.search(r"^assert ", cell.source, re.MULTILINE))
        lines = "".join(output.text for output in check.outputs if output.output_type == "stream").splitlines()
        assert lines and all("not answered yet" in line for line in lines)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_clean_and_small(path: Path) -> None:
    text, notebook = path.read_text(encoding="utf-8"), read(path)
    assert notebook.metadata == METADATA
    assert all(not cell.metadata for cell in notebook.cells), "metadata of a cell: run python tests/test_lessons.py"
    ids = [cell.id for cell in notebook.cells]
    assert ids == [f"{path.stem[:2]}-{place:02}" for place in range(len(ids))]
    assert not re.search(r"/home/|/root/|/tmp/|/Users/|site-packages|ipykernel_\d", text)
    assert len(text) <= LONGEST * 1024


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert all((LESSONS / link).exists() for link in links), links


def test_there_are_lessons_in_the_order_of_the_talk() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{place:02}" for place in range(len(NOTEBOOKS))]
    assert len(NOTEBOOKS) >= 4


def write_anew(path: Path) -> None:
    """Execute a lesson, and keep nothing but what a reader sees."""
    notebook = read(path)
    execute(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    for place, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = nbformat.from_dict({}), f"{path.stem[:2]}-{place:02}"
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for chosen in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        write_anew(chosen)
