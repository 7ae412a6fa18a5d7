"""The floors of ARCHITECTURE.md, and the sizes of CONTRIBUTING.md, as they are in the tree."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "synthgrad"
FILES = sorted(SOURCE.rglob("*.py"))
FLOORS = {
    "core": 0,
    "engines": 1,
    "recurrent": 1,
    "data": 1,
    "models": 1,
    "decoupled": 2,
    "planning": 2,
    "doctor": 3,
    "testing": 1,
    "training": 3,
    "experiments": 3,
    "integrations": 4,
    "cli": 4,
}
WITHOUT_TORCH = "errors actions schedules combined pipelines plan links jitter simulate events".split()


def room(module: str) -> str | None:
    """The top-level package or module of ours that a dotted name lies in."""
    parts = module.split(".")
    return parts[1] if parts[0] == "synthgrad" and len(parts) > 1 else None


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "synthgrad":
                yield from (f"synthgrad.{name.name}" for name in node.names)
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_floors(path: Path) -> None:
    mine = room(name_of(path))
    for module in imports(path):
        theirs = room(module)
        if mine is None or theirs is None or theirs == mine:
            continue
        assert mine in FLOORS and theirs in FLOORS, f"{theirs} or {mine} stands on no floor; add it to the plan"
        assert FLOORS[theirs] < FLOORS[mine], f"{name_of(path)} (floor {FLOORS[mine]}) imports {module}"


def test_every_room_is_on_the_plan() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for path in FILES:
        here = room(name_of(path))
        if here is not None:
            assert f"{here}/" in page or f"{here}.py" in page, f"{here} is missing in ARCHITECTURE.md"
            if here == "core" and path.stem != "__init__" and path.parent.name == "core":
                assert f"`{path.stem}`" in page, f"core/{path.stem} is missing in ARCHITECTURE.md"


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {name_of(path) for path in FILES}
    graph = {name_of(path): {module for module in imports(path) if module in names} for path in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for module in graph[name]:
                visit(module, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_what_happens_when_is_decided_without_torch() -> None:
    modules = ", ".join(f"synthgrad.core.{name}" for name in WITHOUT_TORCH)
    code = f"import {modules}, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, f"{path.name} wants to become two, by noun"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= 60, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_graph_is_cut_at_the_boundary_and_nowhere_else(path: Path) -> None:
    code = re.sub(r'(?s:""".*?""")|#.*', "", path.read_text(encoding="utf-8"))
    assert not re.search(r"(?<!synthgrad)\.data\b(?!\.)", code), f"{path.name}: .data goes round autograd's back"
    if path.name not in ("boundary.py", "probe.py"):
        assert "retain_graph" not in code, path.name
    if path.name != "boundary.py":
        assert "requires_grad_(" not in code, path.name
        assert (
            "autograd.backward(" not in code
            and not re.search(r"\w\.backward\((?!stage|self)", code)
            or (
                path.name
                in ("plan.py", "local.py", "runner.py")  # Plan.backward is a question; the runner's is the baseline
            )
        ), path.name
