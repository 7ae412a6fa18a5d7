"""Settings as data: a frozen dataclass to and from a table of simple values, without torch."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from synthgrad.experiments.names import SettingsError, nearest

__all__ = ["Settings", "check_above_zero", "check_number", "names_in", "read_toml", "settings_in"]


@dataclass(frozen=True)
class Settings:
    """Settings whose defaults depend on what one of them names; one of the others is `data_dir`, a place or None.

    Attributes:
        CHOICE: the name of that setting.
    """

    CHOICE: ClassVar[str]

    @classmethod
    def defaults_for(cls, choice: str) -> Mapping[str, Any]:
        """The defaults that suit what is chosen. Raises `UnknownNameError` if there is none of this name."""
        raise NotImplementedError

    @classmethod
    def suited_to(cls, choice: str, **settings: Any) -> Self:
        """With the defaults that suit what is chosen.

        Raises:
            UnknownNameError: there is none of this name.
            SettingsError: a setting is out of range.
        """
        values: dict[str, Any] = {cls.CHOICE: choice} | dict(cls.defaults_for(choice)) | settings
        return cls(**values)

    def as_table(self) -> dict[str, Any]:
        """The settings as simple values, for TOML and JSON; a place for data that is not given is left out."""
        values: dict[str, Any] = asdict(self)
        table = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        place = table.pop("data_dir")
        return table if place is None else table | {"data_dir": str(place)}

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Self:
        """The inverse of `as_table`; settings that are not given keep the defaults that suit the choice.

        Raises:
            SettingsError: an unknown setting or a wrong type; `where` says in which file.
        """
        values = cls._values(table, where)
        return cls.suited_to(values.pop(cls.CHOICE, getattr(cls, cls.CHOICE)), **values)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the settings out of a run's `run.toml`, or of a file with nothing but a table `[comparison]`.

        Raises:
            SettingsError: no such file, not TOML, or not a comparison's settings.
        """
        return cls.from_table(settings_in(path), str(path))

    @classmethod
    def _values(cls, table: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The table as arguments of the dataclass."""
        known: dict[str, Any] = {one.name: type(one.default) for one in fields(cls)}
        known["data_dir"] = str
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name not in known:
                raise SettingsError(f"{where}: setting {name!r} is unknown{nearest(name, known)}")
            expected = known[name]
            if expected is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
                value = tuple(value)
            if expected is float and type(value) is int:
                value = float(value)
            if type(value) is not expected:
                what = "list of names" if expected is tuple else expected.__name__
                raise SettingsError(f"{where}: {name} is {value!r}, expected {what}")
            values[name] = value
        if "data_dir" in values:
            values["data_dir"] = Path(values["data_dir"])
        return values


def settings_in(path: Path) -> dict[str, Any]:
    """The table `[comparison]` of a file. Raises `SettingsError` if there is none."""
    table = read_toml(path).get("comparison")
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: has no table [comparison]; give the run.toml of an earlier run")
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises `SettingsError` if it cannot be."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); give the run.toml of an earlier run") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None


def check_number(name: str, value: int, *, at_least: int, at_most: int | None = None) -> None:
    """Raise `SettingsError` if a number is out of range."""
    if value < at_least or (at_most is not None and value > at_most):
        most = f" and at most {at_most}" if at_most is not None else ""
        raise SettingsError(f"{name} is {value}: expected a whole number of at least {at_least}{most}")


def check_above_zero(name: str, value: float) -> None:
    """Raise `SettingsError` if a number is not above 0, or not finite."""
    if not 0.0 < value < float("inf"):
        raise SettingsError(f"{name} is {value}: expected a number above 0, such as 1e-3")


def names_in(methods: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """The names of methods, which may be given together, separated by commas or blanks.

    Raises:
        SettingsError: there is none.

    >>> names_in(("bp, zero", "dni"), {})
    ['bp', 'zero', 'dni']
    """
    names = [name for given in methods for name in given.replace(",", " ").split()]
    if not names:
        raise SettingsError(f"methods: got none, expected at least one of {', '.join(known)}")
    return names
