"""What can go wrong, by name. Every message says what, where, what was got, what was expected, and the remedy."""

__all__ = [
    "SynthgradError",
    "ScheduleError",
    "DeadlockError",
    "PartitionError",
    "ShapeError",
    "ContextError",
    "NumericalError",
    "TransportError",
]


class SynthgradError(Exception):
    """Base of all errors that this library raises on purpose."""


class ScheduleError(SynthgradError, ValueError):
    """A schedule asks for something that cannot be executed: a missing or misplaced dependency, a bad text form."""


class DeadlockError(ScheduleError):
    """The stages wait for each other in a circle; the message names every stuck action and what it waits for."""


class PartitionError(SynthgradError, ValueError):
    """A model cannot be cut where asked: no such submodule, a shared weight, something that bypasses the cut."""


class ShapeError(SynthgradError, ValueError):
    """A tensor has another shape than its place demands."""


class ContextError(SynthgradError, ValueError):
    """What a synthesizer declared to need (labels, index, error) is missing or out of range."""


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
