"""The files that a command is to write at its end."""

from pathlib import Path

from synthgrad.experiments.names import SettingsError

__all__ = ["check_writable"]


def check_writable(path: Path, option: str) -> None:
    """Raise `SettingsError` now if the file that an option names could not be written; leaves no empty one."""
    new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be written to ({error.strerror}); name another file for {option}"
        ) from None
    if new:
        path.unlink()
