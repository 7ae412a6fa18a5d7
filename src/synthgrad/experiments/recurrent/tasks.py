"""The tasks there are for recurrent nets; data, which need no torch to be read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from synthgrad.experiments.measures import Measure
from synthgrad.experiments.names import SettingsError, named

__all__ = ["TASKS", "Task", "in_bits", "task_named"]

BITS = Measure("bits per character", "bits", "bits", scale=1.0, digits=3)


@dataclass(frozen=True)
class Task:
    """A stream to learn from.

    Attributes:
        name: how it is called for.
        title: what it is, in a few words.
        measure: what it is judged by: what was solved (more is better) or bits of a character (fewer are).
        text: whether it is text, else sequences made as they are needed, ever longer ones.
        folder: whether it takes a folder (or a file): `needed`, `taken` or `none`.
        defaults: settings that suit it, where they differ from those of Copy.
    """

    name: str
    title: str
    measure: Measure
    text: bool = False
    folder: str = "none"
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def check(self, folder: Path | None) -> None:
        """Raise `SettingsError` if it is not to be had this way; looks at no file's contents."""
        if self.folder == "needed" and folder is None:
            raise SettingsError(f"--task {self.name} needs --data-dir: a text file, or the folder with one")
        if self.folder == "none" and folder is not None:
            raise SettingsError(
                f"--task {self.name} makes its sequences itself; leave --data-dir out, or use --task text"
            )
        if folder is not None and not folder.exists():
            raise SettingsError(f"--data-dir {folder}: no such file or folder; check the path")


def _solved(unit: str) -> Measure:
    return Measure("longest solved", unit, unit, scale=1.0, digits=1)


_TEXT_DEFAULTS = MappingProxyType({"units": 256, "batch": 32, "steps": 10_000, "unroll": 5, "ahead": 10})

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        one.name: one
        for one in (
            Task("copy", "read N random characters, then write them down", _solved("characters")),
            Task(
                "repeat-copy", "read N random characters and a number R, then write them down R times", _solved("steps")
            ),
            Task("text", "any text file, a character at a time", BITS, True, "needed", _TEXT_DEFAULTS),
            Task("ptb", "Penn Treebank, a character at a time", BITS, True, "taken", _TEXT_DEFAULTS),
        )
    }
)


def task_named(name: str) -> Task:
    """Find a task.

    Raises:
        UnknownNameError: there is none of this name.

    >>> task_named("copy").measure.heading
    'longest solved (characters)'
    """
    return named("task", name, TASKS)


def in_bits(nats: float) -> float:
    """Bits of so many nats.

    >>> in_bits(math.log(2))
    1.0
    """
    return nats / math.log(2)
