"""The public names: listed once, each resolves, each is documented."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import synthgrad as sg

SOURCE = Path(sg.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.parent.name != "integrations"  # they need packages of others, and are imported by tests of their own
)


def listed() -> list[str]:
    for node in ast.parse((SOURCE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("__init__.pyi has no __all__")


def test_the_list_is_sorted_and_is_what_is_imported() -> None:
    assert listed() == sorted(set(listed())) == sg.__all__


@pytest.mark.parametrize("name", listed())
def test_a_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(sg, name)
    document = inspect.getdoc(value)
    assert document and len(document) > 20, name
    if inspect.isclass(value):
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_") and function.__module__.startswith("synthgrad"):
                assert inspect.getdoc(function), f"{name}.{member}"


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="decouple"):
        _ = sg.decuple  # type: ignore


def test_a_star_import_gives_all_of_them() -> None:
    code = f"from synthgrad import *; assert all(name in globals() for name in {listed()!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_what_it_exports(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__ and loaded.__doc__.strip(), module
    assert all(hasattr(loaded, name) for name in loaded.__all__), module
