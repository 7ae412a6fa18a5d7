"""What a newcomer meets before the first line of ours runs: metadata, make targets, and the weight of an import."""

import json
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

# Packages that only some users need are imported on use, and nothing imports the floors above.
NOT_AT_IMPORT = ("matplotlib", "rich", "tyro", "pooch", "safetensors", "synthgrad.cli", "synthgrad.experiments")


def make_targets_named_in(markdown: str) -> set[str]:
    """Targets of every `make` command in fenced blocks and in inline code; prose ("make sure") does not count."""
    fenced = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", fenced.sub("", markdown))
    indented = re.findall(r"^(?: {4}|\t)(.*)$", markdown, re.MULTILINE)
    lines = [*"\n".join(fenced.findall(markdown)).splitlines(), *inline, *indented]
    commands = [words for line in lines for words in re.findall(r"(?:^|&&|;|\$)\s*make\b([^#&;|\n]*)", line)]
    return {word for words in commands for word in words.split() if re.fullmatch(r"[a-z][\w-]*", word)}


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


def declared_requirements() -> dict[str, Requirement]:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return requirements(metadata["project"]["dependencies"])


def test_make_commands_are_found_in_markdown() -> None:
    markdown = (
        "Please make sure; `make demo` or `make test TORCH=cpu`.\n\n```sh\ncd x && make help  # make tea\n```\n"
        "\n    make PYTHON=python3.12 results\n\n`make -j lint`"
    )
    assert make_targets_named_in(markdown) == {"demo", "test", "help", "results", "lint"}


def test_readme_names_only_make_targets_that_exist() -> None:
    named = make_targets_named_in((ROOT / "README.md").read_text(encoding="utf-8"))
    assert named, "README.md names no make command; it should at least name `make demo`"
    assert named <= makefile_targets()


def test_makefile_lists_every_target() -> None:
    # `make` alone lists the targets that carry a description.
    described = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert described == makefile_targets() >= {"demo", "test", "lint", "types", "results", "clean", "help"}


def test_torch_is_pinned_by_constraints_only() -> None:
    declared = declared_requirements()["torch"].specifier
    assert {specifier.operator for specifier in declared} == {">="}

    constraints = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    assert list(constraints) == ["torch"]
    (pin,) = constraints["torch"].specifier
    assert pin.operator == "=="
    assert declared.contains(pin.version)


def test_makefile_accepts_the_torch_that_is_declared() -> None:
    (declared,) = declared_requirements()["torch"].specifier
    assert f"OLDEST_TORCH := {declared.version}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_type_hints_are_announced() -> None:
    assert resources.files("synthgrad").joinpath("py.typed").is_file()


@pytest.fixture(scope="module")
def imported_modules() -> list[str]:
    # After torch, which may import some of them itself.
    program = (
        "import sys, torch; before = set(sys.modules); import synthgrad; import json; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)


@pytest.mark.parametrize("name", NOT_AT_IMPORT)
def test_import_is_light(imported_modules: list[str], name: str) -> None:
    assert "synthgrad" in imported_modules
    assert [module for module in imported_modules if module == name or module.startswith(f"{name}.")] == []
