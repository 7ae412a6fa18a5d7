"""Names that people type, and what to say where there is none such."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from synthgrad.core.errors import SynthgradError

__all__ = ["SettingsError", "UnknownNameError", "named", "nearest"]

Entry = TypeVar("Entry")


class SettingsError(SynthgradError, ValueError):
    """A setting of an experiment is out of range, of the wrong type, or unknown."""


class UnknownNameError(SettingsError):
    """Nothing has this name; the message tells the nearest ones."""


def named(what: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """Find an entry of a registry.

    Raises:
        UnknownNameError: there is none of this name.

    >>> named("color", "red", {"red": 1})
    1
    """
    if name not in registry:
        raise UnknownNameError(f"{what} {name!r}: unknown{nearest(name, registry)}")
    return registry[name]


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: what may have been meant, and what there is.

    >>> nearest("rde", ["red", "blue"])
    "; did you mean 'red'? expected one of red, blue"
    """
    names = list(names)
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"{meant} expected one of {', '.join(names)}"
