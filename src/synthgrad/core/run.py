"""The one interpreter: every engine runs its actions through `run`, and differs only in its transport."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch

from synthgrad.core.actions import Action, Kind
from synthgrad.core.batch import Gradient
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


@torch.inference_mode(False)  # and with gradients: what is pending may be asked for where one only means to look
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
    concerned: dict[int, Stage] = {}
    for action, sources, readers in lines:
        turned = time.perf_counter()
        received = [transport.receive(source, by=action) for source in sources]
        stage = concerned[action.stage] = stages[action.stage]
        start = time.perf_counter()
        try:
            product = stage.do(action, *received)
        except NumericalError as error:
            raise _told(error, str(action), updated) from None
        if observe is not None:
            end = time.perf_counter()
            if sources:
                observe(ActionDone(action, start, end, sources, start - turned, _bytes(received)))
            else:
                observe(ActionDone(action, start, end))
        if action.kind is Kind.U:
            updated.append(action.stage)
        transport.send(action, product, readers)
    _read_flags(concerned.values(), updated)


def _bytes(received: Iterable[Any]) -> int:
    """How much has come: of a gradient, its values and the model's output that travels along."""
    size = 0
    for one in received:
        for part in (one.values, one.output) if isinstance(one, Gradient) else (one,):
            if part is not None:
                size += part.nbytes
    return size


def _read_flags(stages: Iterable[Stage], updated: list[int]) -> None:
    """Look at all flags that the stages have put off, waiting for the device once."""
    flags = [(stage, flag) for stage in stages for flag in stage.suspects]
    if flags:
        device = flags[0][1].device
        finite = torch.stack([flag.to(device) for _, flag in flags]).isfinite().tolist()
        for (stage, _), good in zip(flags, finite, strict=True):
            stage.suspects.clear()
            if not good:
                raise _told(stage.fault("an activation or a gradient"), "found at the end of the step", updated)


def _told(error: NumericalError, where: str, updated: list[int]) -> NumericalError:
    done = f"already updated in this step: stages {updated}" if updated else "no stage was updated in this step"
    return NumericalError(f"{where}: {error}; {done}", stage=error.stage, updated=tuple(updated))
