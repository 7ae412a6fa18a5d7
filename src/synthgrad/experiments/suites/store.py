"""A suite's file of results: a line for each cell, written at once as the cell ends, so that none is lost.

A line says what its method was made of. One that does not is from before such recipes were written down; nobody can
tell whether the method has changed since, so it is passed over like a broken line, and that is said.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from synthgrad.experiments.recurrent.results import decode_recurrent
from synthgrad.experiments.results import ResultsError, decode_result, encode_result
from synthgrad.experiments.suites.suite import AnyResult, Cell, Identity, identity_of

__all__ = ["Store", "decode_any"]


class Store:
    """The file of a suite; need not be there yet.

    Attributes:
        path: the file.
        results: in it, without those of broken lines.
        broken: of each broken line, its number and what is wrong with it.

    Raises:
        ResultsError: the file is there, and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: list[AnyResult] = []
        self.broken: list[str] = []
        self._known: set[Identity] = set()
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
        # Whatever cut a line short, the next one is to begin on a line of its own.
        self._torn = bool(content) and not content.endswith(b"\n")
        for number, line in enumerate(content.split(b"\n"), start=1):
            if line.strip():
                self._take(number, line)

    def _take(self, number: int, line: bytes) -> None:
        try:
            result = decode_any(line.decode())
            if not result.recipe:
                raise ValueError("does not say what its method is made of, as results from before 'recipe' do not")
            self._add(result)
        except (ValueError, TypeError) as error:
            self.broken.append(
                f"{self.path}, line {number}: {error}; not used, its cell is trained again: remove the line"
            )

    def _add(self, result: AnyResult) -> None:
        self._known.add(identity_of(result))
        self.results.append(result)

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of the cells that are not in the file, each once."""
        return list({cell.identity: cell for cell in cells if cell.identity not in self._known}.values())

    def check_writable(self) -> None:
        """Make the folder, and raise `ResultsError` now if the file could not be written to; leaves no empty one."""
        new = not self.path.exists()
        self._append(b"")
        if new:
            self.path.unlink()

    def keep(self, result: AnyResult) -> None:
        """Append a result, in one write: whoever kills the process, the line is there or it is not.

        Raises:
            ResultsError: the file cannot be written to.
        """
        self._append(b"\n" * self._torn + f"{encode_result(result)}\n".encode())
        self._torn = False
        self._add(result)

    def _append(self, line: bytes) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            raise ResultsError(
                f"{self.path}: cannot be written to ({error.strerror}); name another folder with --results"
            ) from None


def decode_any(line: str) -> AnyResult:
    """A line of either kind of result. Raises `ValueError` on anything else."""
    values = json.loads(line)
    recurrent = isinstance(values, dict) and "task" in values
    return decode_recurrent(line) if recurrent else decode_result(line)
