"""What is seen while something trains, and how Ctrl-C is heard."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.live import Live

from synthgrad.core.events import Event, Failed, Finished, StepDone

__all__ = ["INTERRUPTED", "Display", "Interrupt", "Listener", "told_to"]

REFRESH_EVERY = 0.15  # seconds
LINE_EVERY = 15.0  # seconds, where there is no terminal
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Listener(Protocol):
    """Who is told of each event: a display, a folder, Ctrl-C."""

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event; `labels` hold the method and the seed."""
        ...


def told_to(*listeners: Listener) -> Callable[[Event, Mapping[str, Any]], None]:
    """What passes each event on to all of them, in this order."""

    def tell(event: Event, labels: Mapping[str, Any]) -> None:
        for listener in listeners:
            listener.tell(event, labels)

    return tell


class Interrupt:
    """Ctrl-C stops between two steps, a second one at once. A context manager.

    Raised anywhere, an interrupt may be swallowed, as it is in places while torch is imported.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        # Only in place of Python's own: a process that is to ignore Ctrl-C goes on ignoring it.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Stop here, if asked to."""
        self.stop_if_pressed()

    def stop_if_pressed(self) -> None:
        """Raise `KeyboardInterrupt`, if asked to stop."""
        if self.pressed:
            raise KeyboardInterrupt

    def _press(self, *_: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


class Board(Protocol):
    """A live table: fed with events, drawn whenever rich asks."""

    @property
    def methods(self) -> Sequence[str]:
        """Names of the methods."""
        ...

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event."""
        ...

    def headline(self) -> str:
        """How far it has come, in a line."""
        ...

    def __rich__(self) -> RenderableType: ...


class Display:
    """The live table in a terminal; elsewhere a line now and then, and for each seed that is done. A context manager.

    It is drawn between steps, by the thread that trains: a thread of its own would take time from the steps timed.
    """

    def __init__(self, console: Console, board: Board, *, quiet: bool) -> None:
        self.board = board
        self.console = console
        self.quiet = quiet
        self.live = Live(board, console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._ended = 0

    def __enter__(self) -> "Display":
        if self.animated:
            self.live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    @property
    def animated(self) -> bool:
        """Whether the table is drawn again and again."""
        return self.console.is_terminal and not self.quiet

    def tell(self, event: Event, labels: Mapping[str, Any]) -> None:
        """Take in an event and, where it is time to, draw."""
        self.board.tell(event, labels)
        if self.quiet:
            return
        if self.animated:
            if time.monotonic() - self._drawn > REFRESH_EVERY:
                self.live.refresh()
                self._drawn = time.monotonic()
            return
        due = isinstance(event, StepDone) and time.monotonic() - self._drawn > LINE_EVERY
        if isinstance(event, Finished | Failed):
            self._ended += 1
            due = self._ended % len(self.board.methods) == 0
        if due:
            self.console.print(self.board.headline(), highlight=False)
            self._drawn = time.monotonic()
