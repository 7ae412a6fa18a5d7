"""The public names, and where each is at home. `__init__.py` imports them from here, when they are first used."""

from synthgrad.core.actions import Action, Kind, format_actions, parse_actions
from synthgrad.core.agreement import Agreement, Alignment
from synthgrad.core.batch import Context, Gradient, Loss
from synthgrad.core.errors import (
    ContextError,
    DeadlockError,
    NumericalError,
    PartitionError,
    ScheduleError,
    ShapeError,
    SynthgradError,
)
from synthgrad.core.partition import Partition, partition
from synthgrad.core.plan import Declaration, Lock, Plan, dependencies, locks, stage_locks, validate
from synthgrad.core.schedules import (
    Schedule,
    backprop,
    forward_unlocked,
    from_text,
    gpipe,
    one_f_one_b,
    sporadic,
    update_unlocked,
)
from synthgrad.core.simulate import Timeline, simulate
from synthgrad.core.synthesizers import (
    Answer,
    ConvSynthesizer,
    CriticSynthesizer,
    Feedback,
    InputSynthesizer,
    LinearSynthesizer,
    MLPInputSynthesizer,
    MLPSynthesizer,
    OracleSynthesizer,
    Synthesizer,
    ZeroSynthesizer,
    linear_head,
)
from synthgrad.decoupled import Decoupled, decouple
from synthgrad.engines.local import LocalEngine, Outcome

__all__ = [
    "Action",
    "Agreement",
    "Alignment",
    "Answer",
    "Context",
    "ContextError",
    "ConvSynthesizer",
    "CriticSynthesizer",
    "DeadlockError",
    "Declaration",
    "Decoupled",
    "Feedback",
    "Gradient",
    "InputSynthesizer",
    "Kind",
    "LinearSynthesizer",
    "LocalEngine",
    "Lock",
    "Loss",
    "MLPInputSynthesizer",
    "MLPSynthesizer",
    "NumericalError",
    "OracleSynthesizer",
    "Outcome",
    "Partition",
    "PartitionError",
    "Plan",
    "Schedule",
    "ScheduleError",
    "ShapeError",
    "Synthesizer",
    "SynthgradError",
    "Timeline",
    "ZeroSynthesizer",
    "backprop",
    "decouple",
    "dependencies",
    "format_actions",
    "forward_unlocked",
    "from_text",
    "gpipe",
    "linear_head",
    "locks",
    "one_f_one_b",
    "parse_actions",
    "partition",
    "simulate",
    "sporadic",
    "stage_locks",
    "update_unlocked",
    "validate",
]
