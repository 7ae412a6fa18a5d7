"""An action is one thing that one stage does with one microbatch; its text form is `stage kind microbatch`: `2F0`.

The letters are those of `torch.distributed.pipelining` where both have them. Microbatches are counted through the
whole run, so an action that comes late (`T`, `Q`) still says which batch it learns from: with M microbatches a step,
step t holds the microbatches tM .. tM+M-1.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from synthgrad.core.errors import ScheduleError

__all__ = ["Action", "Kind", "parse_actions", "format_actions"]


class Kind(StrEnum):
    """What a stage can do. Each letter is also the name of the `Stage` method that does it."""

    F = "F"  # run forward on the real input
    P = "P"  # run forward on a predicted input
    S = "S"  # ask the synthesizer, inject its answer, back-propagate through the stage
    B = "B"  # back-propagate the received gradient (last stage: of the loss) through the stage
    I = "I"  # first half of B: the gradient of the stage's input  # noqa: E741
    W = "W"  # second half of B: the gradients of the stage's weights
    T = "T"  # teach the synthesizer from the feedback that has come back
    Q = "Q"  # teach the input synthesizer from the real input
    U = "U"  # update the stage's weights from all gradients accumulated since its last U


_TEXT = re.compile(r"(0|[1-9][0-9]*)([A-Z])(0|[1-9][0-9]*)")


class Action(NamedTuple):
    """One thing that one stage does with one microbatch.

    >>> Action.parse("2F0")
    Action(stage=2, kind=<Kind.F: 'F'>, microbatch=0)
    >>> str(Action(1, Kind.B, 3))
    '1B3'
    """

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind.value}{self.microbatch}"

    @classmethod
    def parse(cls, text: str) -> "Action":
        """The action that `text` names; inverse of `str`.

        Raises:
            ScheduleError: `text` is not of the form stage, letter, microbatch.
        """
        match = _TEXT.fullmatch(text)
        if match is None or match[2] not in Kind.__members__:
            raise ScheduleError(
                f"action {text!r}: expected stage, letter and microbatch, such as '2F0', "
                f"with a letter out of {''.join(Kind.__members__)}"
            )
        return cls(int(match[1]), Kind(match[2]), int(match[3]))


def parse_actions(text: str) -> tuple[Action, ...]:
    """Actions in a text, separated by white space; inverse of `format_actions`.

    Raises:
        ScheduleError: a malformed one.
    """
    return tuple(Action.parse(word) for word in text.split())


def format_actions(actions: Iterable[Action]) -> str:
    """The actions as text, separated by blanks.

    >>> format_actions(parse_actions("0F0 1F0  1B0"))
    '0F0 1F0 1B0'
    """
    return " ".join(map(str, actions))
