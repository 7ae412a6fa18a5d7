"""What happens while a network trains, as one stream of events; a line of JSON each, for files and pages alike.

An event says what happened; labels put beside it (`method`, `seed`) say where. Times are seconds of a clock that only
runs forward; only their differences mean anything.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthgrad.core.actions import Action, format_actions, parse_actions

__all__ = [
    "ActionDone",
    "Event",
    "Evaluated",
    "Failed",
    "Finished",
    "Probed",
    "Solved",
    "Started",
    "StepDone",
    "decode",
    "encode",
]


@dataclass(frozen=True, slots=True)
class Started:
    """A run begins. `settings` are enough to run it again; `locks` are those of its plan."""

    settings: Mapping[str, Any]
    locks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActionDone:
    """A stage has done an action; both it and its sources are written in text form.

    Attributes:
        action: which.
        start: when it had all that it waits for, and began.
        end: when it was done.
        sources: the actions of other stages that it waits for.
        waited: seconds before `start` in which the process did nothing but wait for the sources.
        bytes: of what came from the sources.
    """

    action: Action
    start: float
    end: float
    sources: tuple[Action, ...] = ()
    waited: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step is over: the mean loss of its batch, and per cut the agreement of synthetic and target gradient."""

    step: int
    loss: float
    agreement: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Probed:
    """The synthetic gradients were compared with the true ones, per cut."""

    step: int
    alignment: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The plain model was tried on a part of the data; `error` is a share, 0 to 1."""

    step: int
    split: str
    loss: float
    error: float


@dataclass(frozen=True, slots=True)
class Solved:
    """Sequences of a curriculum were learned, and longer ones come next; `longest` as the task counts it."""

    step: int
    longest: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The run has been given up at this step; the reason as it was said."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A run has ended; without this event it was cut short."""

    steps: int
    seconds: float


Event = Started | ActionDone | StepDone | Probed | Evaluated | Solved | Failed | Finished
_JSON = json.JSONEncoder(allow_nan=False)
_EVENTS = {kind.__name__: kind for kind in (Started, ActionDone, StepDone, Probed, Evaluated, Solved, Failed, Finished)}


def encode(event: Event, **labels: Any) -> str:
    """One line of JSON, without the line's end; a number that is not finite becomes null.

    Raises:
        ValueError: a label is called like a field of the event.

    >>> encode(Finished(3, 4.5), method="dni")
    '{"event": "Finished", "method": "dni", "steps": 3, "seconds": 4.5}'
    """
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    if isinstance(event, ActionDone):
        fields |= {"action": str(event.action), "sources": format_actions(event.sources)}
    if same := {"event", *fields} & labels.keys():
        raise ValueError(f"labels: {sorted(same)} are fields of {type(event).__name__}; give the labels other names")
    written = {"event": type(event).__name__, **labels, **fields}
    try:
        return _JSON.encode(written)
    except (TypeError, ValueError):  # rarely so; to look first would take longer than to write
        return _JSON.encode(_finite(written))


def _finite(value: Any) -> Any:
    """The same tree with None for NaN and infinity, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decode(line: str) -> tuple[Event, dict[str, Any]]:
    """The event and the labels of a line; inverse of `encode`. Raises `ValueError` on anything else."""
    fields = json.loads(line)
    name = fields.get("event") if isinstance(fields, dict) else None
    if not isinstance(name, str) or name not in _EVENTS:
        raise ValueError(f"no event: {line[:80]!r}; expected an object whose 'event' is one of {', '.join(_EVENTS)}")
    kind = _EVENTS[fields.pop("event")]
    if missing := kind.__dataclass_fields__.keys() - fields.keys():
        raise ValueError(f"event {name} without {', '.join(sorted(missing))}: {line[:80]!r}; expected all its fields")
    own = {name: fields.pop(name) for name in kind.__dataclass_fields__}
    if "locks" in own:
        own["locks"] = tuple(own["locks"])
    if kind is ActionDone:
        own |= {"action": Action.parse(str(own["action"])), "sources": parse_actions(str(own["sources"]))}
    return kind(**own), fields
