"""The one interpreter: every engine runs its actions through `run`, and differs only in its transport."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import NumericalError
from synthgrad.core.events import ActionDone
from synthgrad.core.plan import Line
from synthgrad.core.stage import Stage

__all__ = ["Transport", "run"]


class Transport(Protocol):
    """Carries what one action makes to the actions that wait for it."""

    def send(self, action: Action, product: Any, to: tuple[Action, ...]) -> None:
        """Hand over what `action` made, for each of the actions `to`."""
        ...

    def receive(self, action: Action, *, by: Action) -> Any:
        """What `action` made, for `by`, which gets it once."""
        ...


def run(
    lines: Iterable[Line],
    stages: Sequence[Stage] | Mapping[int, Stage],
    transport: Transport,
    observe: Callable[[ActionDone], None] | None = None,
) -> None:
    """Carry out the actions in order: receive what each waits for, do it, send on what it made.

    Args:
        lines: some or all of a step's actions, of the given stages only, with what the plan says of each.
        stages: by index; their passages for the step are open.
        transport: to the other stages.
        observe: told of every action that has ended.

    Raises:
        NumericalError: a value is not finite; names the stages updated by these actions before.
    """
    updated: list[int] = []
    for action, sources, readers in lines:
        received = [transport.receive(source, by=action) for source in sources]
        start = time.perf_counter()
        try:
            product = stages[action.stage].do(action, *received)
        except NumericalError as error:
            done = f"already updated in this step: {updated}" if updated else "no stage was updated in this step"
            raise NumericalError(f"{action}: {error}; {done}", stage=error.stage, updated=tuple(updated)) from None
        if observe is not None:
            observe(ActionDone(str(action), start, time.perf_counter()))
        if action.kind is Kind.U:
            updated.append(action.stage)
        transport.send(action, product, readers)
