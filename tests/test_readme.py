"""What the README says is true: its code runs, its commands exist, its tables are what the results say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from synthgrad.experiments.pages import draw, fill
from synthgrad.experiments.recurrent.results import read_recurrent_results
from synthgrad.experiments.results import read_results

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def test_its_python_runs_from_top_to_bottom() -> None:
    blocks = [code for language, code in BLOCKS if language == "python"]
    assert len(blocks) >= 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {})


def test_its_set_up_is_exactly_two_commands() -> None:
    lines = [line for language, code in BLOCKS if language == "console" for line in code.splitlines()]
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ ")]
    assert commands == [["make", "demo"], ["make", "test"]]


def test_its_commands_of_ours_exist() -> None:
    for command in set(re.findall(r"`synthgrad ([a-z]+)", README)):
        run = [sys.executable, "-m", "synthgrad.cli.main", command, "--help"]
        assert subprocess.run(run, capture_output=True).returncode == 0, command


def test_its_files_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_its_tables_are_made_from_the_committed_results() -> None:
    assert "<!-- table:" in README
    assert fill(README, ROOT) == README, "run: make results, or python -m synthgrad.experiments.pages README.md"


def test_its_pictures_are_drawn_from_the_committed_results() -> None:
    pictures = draw(README, ROOT)
    assert pictures
    for file, picture in pictures.items():
        assert file.read_text(encoding="utf-8") == picture, (
            f"run: python -m synthgrad.experiments.pages README.md ({file})"
        )


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_of_the_documentation_are_made_from_the_committed_results_too(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text, page.parent) == text, f"run: make results, or python -m synthgrad.experiments.pages {page.name}"
    assert all((page.parent / link).exists() for link in re.findall(r"\]\((?!http)([^)#]+)\)", text))


def test_every_schedule_it_names_is_public() -> None:
    import synthgrad as sg

    for name in set(re.findall(r"\bsg\.(\w+)", README)):
        assert name in sg.__all__, name


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda path: path.name)
def test_committed_results_say_how_they_were_made(path: Path) -> None:
    for result in read_results(path):
        assert result.command.startswith("synthgrad ") and result.versions["torch"] and result.hardware["cpu"]
        assert result.settings and result.failed is None and "/" not in result.command.replace("results/", "")


@pytest.mark.parametrize("path", sorted((ROOT / "results/recurrent").glob("*.jsonl")), ids=lambda path: path.name)
def test_committed_results_in_time_say_so_too(path: Path) -> None:
    for result in read_recurrent_results(path):
        assert result.command.startswith("synthgrad ") and result.versions["torch"] and result.hardware["cpu"]
        assert result.settings and result.failed is None and "/" not in result.command.replace("results/recurrent/", "")
