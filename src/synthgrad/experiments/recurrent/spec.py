"""What a training in time and a comparison of such are: settings, read and written without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from synthgrad.experiments.names import SettingsError, nearest
from synthgrad.experiments.recurrent.methods import KINDS, Kind, parse_method
from synthgrad.experiments.recurrent.tasks import Task, task_named
from synthgrad.experiments.settings import Settings, check_above_zero, check_number, names_in

__all__ = ["Method", "RecurrentComparison", "RecurrentTraining"]

COPY = "copy"
OWN = frozenset({"lr", "synthesizer_lr", "hidden", "scale", "replay", "memory", "ahead", "value", "average", "reach"})
MOST_TRACE = 2.0**30  # numbers of a trace, 4 GiB


@dataclass(frozen=True)
class RecurrentTraining(Settings):
    """What is trained on what, and how. The defaults are for Copy; see `suited_to`.

    Attributes:
        task: copy, repeat-copy, text (any file) or ptb (Penn Treebank by characters).
        data_dir: the text file, or the folder with it; ptb finds a usual place.
        core: lstm, gru or rnn.
        units: of each layer.
        layers: of the core.
        batch: sequences side by side.
        unroll: steps of a window, T, where a method does not name its own.
        steps: how many windows to learn from, an update each.
        characters: learn from so many time steps of all lanes instead, whatever T is; 0 for `steps`.
        width: binary digits of a character to copy.
        limit: bits of a digit below which a length counts as solved.
        lr: learning rate of the network (Adam).
        synthesizer_lr: learning rate of the synthesizer (Adam).
        hidden: hidden units of the synthesizer.
        scale: what the synthetic gradient is multiplied by, in the target of the window before, too: a discount for
            each window.
        replay: further lessons of the synthesizer at each step, from the latest pairs of state and target.
        memory: how many of these are held.
        ahead: how many steps behind a window a critic is told the targets of.
        value: weight of what a critic learns from these targets, beside what it learns from gradients.
        average: share of the moving average that answers in place of the synthesizer itself; 0 for none.
        reach: how far a lesson of bp-lambda reaches back, its lambda: 0 to the step before, 1 to the beginning.
        evaluations: on the validation part, spread over the run (text).
        threads: threads of torch.
        device: where to train: cpu, cuda, cuda:1, mps.
    """

    CHOICE: ClassVar[str] = "task"

    task: str = COPY
    data_dir: Path | None = None
    core: str = "lstm"
    units: int = 128
    layers: int = 1
    batch: int = 64
    unroll: int = 4
    steps: int = 20_000
    characters: int = 0
    width: int = 8
    limit: float = 0.15
    lr: float = 1e-3
    synthesizer_lr: float = 3e-3
    hidden: int = 256
    scale: float = 1.0
    replay: int = 0
    memory: int = 16
    ahead: int = 24
    value: float = 1.0
    average: float = 0.0
    reach: float = 0.9
    evaluations: int = 20
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.kind_of_task.check(self.data_dir)
        if self.core not in (cores := ("lstm", "gru", "rnn")):
            raise SettingsError(f"core {self.core!r}: unknown{nearest(self.core, cores)}")
        for name in ("units", "layers", "batch", "unroll", "steps", "width", "hidden", "memory", "ahead"):
            check_number(name, getattr(self, name), at_least=1)
        for name in ("evaluations", "threads"):
            check_number(name, getattr(self, name), at_least=1)
        for name in ("characters", "replay"):
            check_number(name, getattr(self, name), at_least=0)
        for name in ("lr", "synthesizer_lr", "limit", "value"):
            check_above_zero(name, getattr(self, name))
        if not 0.0 <= self.scale < float("inf"):
            raise SettingsError(f"scale is {self.scale}: expected 0 or more; 1 is no discount, the paper has 0.1")
        if not 0.0 <= self.average < 1.0:
            raise SettingsError(f"average is {self.average}: expected a share from 0 to below 1, such as 0.9")
        if not 0.0 <= self.reach <= 1.0:
            raise SettingsError(f"reach is {self.reach}: expected lambda, from 0 to 1, such as 0.9")

    @property
    def kind_of_task(self) -> Task:
        """What `task` names."""
        return task_named(self.task)

    @property
    def updates(self) -> int:
        """How many windows there are to learn from."""
        return max(1, self.characters // (self.batch * self.unroll)) if self.characters else self.steps

    @classmethod
    def defaults_for(cls, choice: str) -> Mapping[str, Any]:
        """The defaults that suit a task. Raises `UnknownNameError` if there is none of this name."""
        return task_named(choice).defaults


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        name: as it is called in tables: always with its window.
        kind: what comes from behind the end of a window.
        training: the comparison's settings, with the method's own in their place.
    """

    name: str
    kind: Kind
    training: RecurrentTraining


@dataclass(frozen=True)
class RecurrentComparison(RecurrentTraining):
    """The same net, initial weights and stream, trained by each method.

    Attributes:
        methods: which methods, out of bptt, dni, dni-aux, logistic, sobolev, local, bp-lambda; with -T for a window of
            its own and :setting=value for settings of its own, such as bptt-8 or dni-4:lr=3e-4:replay=3; separated by
            commas or blanks.
        seeds: how many seeds, of weights and sequences.
    """

    methods: tuple[str, ...] = ("bptt", "dni", "logistic")
    seeds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        named = (self.method(name).name for name in names_in(self.methods, KINDS))
        object.__setattr__(self, "methods", tuple(dict.fromkeys(named)))
        check_number("seeds", self.seeds, at_least=1)

    def method(self, text: str) -> Method:
        """The method that is written so.

        Raises:
            SettingsError: no such method, or a setting that methods have not of their own, or that is out of range.
        """
        kind, unroll, written = parse_method(text)
        usual = 1 if kind.online else self.unroll
        table: dict[str, Any] = {"unroll": usual if unroll is None else unroll}
        types = {one.name: type(one.default) for one in fields(RecurrentTraining)}
        for name, value in written.items():
            if name not in OWN:
                raise SettingsError(f"method {text!r}: {name!r} is no setting of its own{nearest(name, sorted(OWN))}")
            table[name] = _read(types[name], value, f"method {text!r}: {name}")
        shared = {one.name: getattr(self, one.name) for one in fields(RecurrentTraining)}
        try:
            training = RecurrentTraining(**shared | table)
            if kind.online:
                _check_online(training)
        except SettingsError as error:
            raise SettingsError(f"method {text!r}: {error}") from None
        own = "".join(f":{name}={value}" for name, value in written.items())
        return Method(f"{kind.name}-{training.unroll}{own}", kind, training)


def _check_online(training: RecurrentTraining) -> None:
    """Raise `SettingsError` where BP(lambda) cannot learn, or not here."""
    if training.unroll != 1:
        raise SettingsError(f"unroll is {training.unroll}: expected 1, as it learns at each step; leave -T out")
    if training.kind_of_task.text:
        raise SettingsError(
            f"task is {training.task}: expected copy or repeat-copy; tokens have a layer before the core"
        )
    if training.core == "gru" or training.layers > 1:
        raise SettingsError(
            f"core is {training.core} of {training.layers} layers: expected an lstm or rnn of one, whose step's "
            f"Jacobian is known"
        )
    if training.scale > 1:
        raise SettingsError(f"scale is {training.scale}: expected gamma, a discount for each step, from 0 to 1")
    features = training.units * (2 if training.core == "lstm" else 1)
    if training.batch * features**2 * (features + 1) > MOST_TRACE:
        raise SettingsError(
            f"units are {training.units}, batch is {training.batch}: the trace would be {features} x {features} x "
            f"{features + 1} numbers for each sequence, above 4 GiB; take fewer, say --units 32"
        )


def _read(kind: type, text: str, where: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise SettingsError(f"{where} is {text!r}, expected {kind.__name__}") from None
