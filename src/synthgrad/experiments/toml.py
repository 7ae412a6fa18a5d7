"""Writing TOML: the few simple types that a run's description needs. The standard library reads it."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["to_toml"]


def to_toml(table: Mapping[str, Any]) -> str:
    r"""A table as TOML: texts, booleans, numbers and lists of them, and tables of those, each under a heading.

    Raises:
        TypeError: a value of another type, or a table within a table.

    >>> print(to_toml({"status": "finished", "comparison": {"seeds": 3, "lr": 1e-3}}))
    status = "finished"
    <BLANKLINE>
    [comparison]
    seeds = 3
    lr = 0.001
    <BLANKLINE>
    """
    lines = [f"{_key(name)} = {_value(value)}" for name, value in table.items() if not isinstance(value, Mapping)]
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            lines += ["", f"[{_key(name)}]", *(f"{_key(key)} = {_value(value)}" for key, value in inner.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        return repr(value)  # the shortest that reads back to the very same number
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"to_toml: got {value!r}, expected a text, a boolean, a number or a list of these")


def _text(value: str) -> str:
    # A JSON string is a TOML string, but for DEL, which TOML wants escaped, and for surrogate pairs.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
