"""What can go wrong, by name. Every message says what, where, what was got, what was expected, and the remedy."""

from enum import StrEnum

__all__ = [
    "SynthgradError",
    "ScheduleError",
    "DeadlockError",
    "LinkError",
    "PartitionError",
    "PlanningError",
    "ShapeError",
    "ContextError",
    "ContractError",
    "StateError",
    "NumericalError",
    "TransportError",
    "CheckpointError",
    "TraceError",
    "Verdict",
]


class SynthgradError(Exception):
    """Base of all errors that this library raises on purpose."""


class ScheduleError(SynthgradError, ValueError):
    """A schedule asks for something that cannot be executed: a missing or misplaced dependency, a bad text form."""


class DeadlockError(ScheduleError):
    """The stages wait for each other in a circle; the message names every stuck action and what it waits for."""


class LinkError(SynthgradError, ValueError):
    """A link between two ranks cannot be read, costs less than nothing, or names a rank that is not there."""


class Verdict(StrEnum):
    """What is to become of a finding: it can never be, it is not built yet, or something is to be replaced."""

    NEVER = "never possible"
    NOT_YET = "not yet"
    REPLACE = "replace"


class PartitionError(SynthgradError, ValueError):
    """A model cannot be cut where asked: no such submodule, a shared weight, something that bypasses the cut.

    Attributes:
        verdict: whether that can never be, is not built yet, or something is to be replaced.
    """

    def __init__(self, message: str, *, verdict: Verdict = Verdict.REPLACE) -> None:
        super().__init__(message)
        self.verdict = verdict


class PlanningError(SynthgradError, ValueError):
    """No plan can be made: for want of a sample, of places to cut, of costs that make sense."""


class ShapeError(SynthgradError, ValueError):
    """A tensor has another shape than its place demands."""


class ContextError(SynthgradError, ValueError):
    """What a synthesizer declared to need (labels, index, error) or to learn from is missing or out of range."""


class StateError(SynthgradError, ValueError):
    """A recurrent net's state is not what it was a step before, or the net keeps one where nobody sees it."""


class ContractError(SynthgradError, AssertionError):
    """A synthesizer does not keep what the contract promises; see `testing.check_synthesizer`.

    Attributes:
        property: the name of what does not hold.
    """

    def __init__(self, message: str, *, property: str = "") -> None:
        super().__init__(message)
        self.property = property


class NumericalError(SynthgradError, ArithmeticError):
    """A value is NaN or infinite. Raised before the faulty stage's update.

    Attributes:
        stage: index of the faulty stage.
        updated: indices of the stages that had already been updated in this step.
    """

    def __init__(self, message: str, *, stage: int, updated: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.stage = stage
        self.updated = updated


class TransportError(SynthgradError, RuntimeError):
    """Something between two processes did not come, came too late, or is not what the plan says.

    Attributes:
        edge: the ranks that send and receive; None where it concerns all of them.
    """

    def __init__(self, message: str, *, edge: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.edge = edge


class CheckpointError(SynthgradError, RuntimeError):
    """A checkpoint cannot be written or read, is not whole, or is of another model."""


class TraceError(SynthgradError, ValueError):
    """A trace cannot be written or read: a folder that holds one already, or holds none."""
