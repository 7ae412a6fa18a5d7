"""Files fetched from the web: whole and with the right checksum, or not at all."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from synthgrad.data.split import DataError

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["download"]

CHUNK = 1 << 16
"""Bytes received at once; the progress is drawn as often."""


def download(url: str, path: Path, md5: str, *, progress: bool = False) -> None:
    """Fetch one file. It is given its name only once it is complete and its checksum is right.

    Args:
        url: where from.
        path: where to; folders are made as needed.
        md5: the checksum, in hexadecimal digits.
        progress: draw a bar on standard error.

    Raises:
        DataError: if the file cannot be fetched or stored, or is not the one expected; nothing is left behind.
    """
    import pooch  # on use, as only those who download need it

    with ExitStack() as stack:
        stack.enter_context(_quiet(pooch.get_logger()))
        bar = stack.enter_context(_bar(path.name)) if progress else False
        fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK)
        try:
            # Their annotation of a downloader does not fit their own downloaders.
            pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=fetch)  # pyrefly: ignore
        # From requests and the file system the first, from the comparison of checksums the second.
        except (OSError, ValueError) as error:
            raise DataError(
                f"{url}: got no usable file ({error}), expected one of md5 {md5}; check the connection and the "
                f"space in {path.parent} and try again, or put the file there yourself"
            ) from error


class Bar:
    """A progress bar as pooch wants to have it, drawn by rich.

    Attributes:
        total: bytes to come; 0 if the server does not say.
    """

    def __init__(self, name: str, drawing: "Progress") -> None:
        self.drawing = drawing
        self.task = drawing.add_task(name, total=None)
        self.total = 0

    def update(self, received: int) -> None:
        """Count so many more bytes; the last piece is counted as a full one, so not beyond the total."""
        self.drawing.update(self.task, total=self.total or None, advance=received)
        if self.total and self.drawing.tasks[0].completed > self.total:
            self.drawing.update(self.task, completed=self.total)

    def reset(self) -> None:
        """Count from 0 again."""
        self.drawing.update(self.task, completed=0)

    def close(self) -> None:
        """Nothing: the drawing is closed by who opened it, also after an error."""


@contextmanager
def _bar(name: str) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True)) as drawing:
        yield Bar(name, drawing)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Hush what pooch tells at each download: library code does not print."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
