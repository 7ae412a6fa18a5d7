"""Defaults that depend on the command line: those of the data or the task, and those of the run `--config` names."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from synthgrad.experiments.settings import Settings, settings_in

__all__ = ["configured"]

Kind = TypeVar("Kind", bound=Settings)


def configured(kind: type[Kind], arguments: Sequence[str]) -> Kind:
    """The settings that the other options change.

    Args:
        kind: `Comparison`, `Training` or `RecurrentComparison`.
        arguments: of the command line; what else is in them is passed over.

    Raises:
        SettingsError: no such data or task, or a file that `--config` names and that is none.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path, nargs="?")
    parser.add_argument(f"--{kind.CHOICE}", nargs="?")
    parser.add_argument("--data-dir", "--data_dir", nargs="?")
    given = vars(parser.parse_known_args(list(arguments))[0])
    path = given.pop("config")
    table: dict[str, Any] = {} if path is None else settings_in(path)
    if not {"methods", "seeds"} & {one.name for one in fields(kind)}:
        # A comparison's settings will do for a training.
        table = {name: value for name, value in table.items() if name not in ("methods", "seeds")}
    table |= {name: value for name, value in given.items() if value is not None}
    return kind.from_table(table, str(path) if path is not None else "the command line")
