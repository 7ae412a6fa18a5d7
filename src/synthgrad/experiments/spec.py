"""What a comparison is, and the methods there are; both are data, and neither needs torch to be read."""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from synthgrad.core.errors import SynthgradError
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked

__all__ = [
    "METHODS",
    "Comparison",
    "Method",
    "Part",
    "SettingsError",
    "UnknownMethodError",
    "method_named",
    "read_toml",
]

CLASSES = 10  # of the digits


class SettingsError(SynthgradError, ValueError):
    """A setting of an experiment is out of range, of the wrong type, or unknown."""


class UnknownMethodError(SettingsError):
    """No method has this name; the message tells the nearest ones."""


# ---- methods ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A factory as data: a class of `synthgrad.core.synthesizers` by name, and what it is called with.

    Attributes:
        kind: name of the class.
        options: keyword arguments, besides the shapes that `decouple` gives.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *shapes: tuple[int, ...]) -> Any:
        """Build one, for activations of these shapes."""
        from synthgrad.core import synthesizers  # brings torch, which the front desk does without

        return getattr(synthesizers, self.kind)(*shapes, **self.options)


@dataclass(frozen=True)
class Method:
    """One way to train the same network.

    Attributes:
        name: how it is called for.
        title: what it is, in a few words.
        schedule: who does what when.
        synthesizer: what stands at each cut; None: gradients pass.
        input_synthesizer: what predicts each stage's input; None: stages learn on the real one.
        plain: train with a plain PyTorch loop, without our library; the schedule then only says what waits for what.
    """

    name: str
    title: str
    schedule: Callable[[], Schedule]
    synthesizer: Part | None = None
    input_synthesizer: Part | None = None
    plain: bool = False


_LABELED = Part("LinearSynthesizer", {"classes": CLASSES})

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("bp", "back-propagation, a plain PyTorch loop", backprop, plain=True),
            Method("zero", "no gradient at the cuts", update_unlocked, Part("ZeroSynthesizer")),
            Method("dni", "synthetic gradients from the activation alone", update_unlocked, Part("LinearSynthesizer")),
            Method("cdni", "synthetic gradients that see the labels", update_unlocked, _LABELED),
            Method(
                "unlock",
                "predicted inputs, and synthetic gradients that see the labels",
                forward_unlocked,
                _LABELED,
                Part("MLPInputSynthesizer", {"hidden": 512}),
            ),
            # Not compared by default: the same numbers as `bp`, at the price of our stages.
            Method("staged", "back-propagation, through stages", backprop),
        )
    }
)


def method_named(name: str) -> Method:
    """Find a method.

    Raises:
        UnknownMethodError: there is none of this name.

    >>> method_named("cdni").title
    'synthetic gradients that see the labels'
    """
    if name not in METHODS:
        raise UnknownMethodError(f"method {name!r}: unknown{_nearest(name, METHODS)}")
    return METHODS[name]


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"{meant} expected one of {', '.join(names)}"


# ---- a comparison ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """The same network, initial weights and batches, trained by each method; on the digits, cut after each layer.

    Attributes:
        methods: which methods, out of bp, zero, dni, cdni, unlock, staged; separated by commas or blanks.
        seeds: how many seeds; seed s tests on fold s of five, so that five seeds test on every image.
        epochs: passes over the training images.
        batch_size: images in a batch; an epoch's last images that fill no batch are left out.
        hidden: features of each hidden layer.
        layers: hidden layers, with a cut after each.
        lr: learning rate of the network (Adam), falling to 0 along a cosine.
        synthesizer_lr: learning rate of all synthesizers (Adam), constant.
        probes: how many times in a run the alignment is measured, on the validation images.
        threads: threads of torch.
    """

    methods: tuple[str, ...] = ("bp", "zero", "dni", "cdni", "unlock")
    seeds: int = 3
    epochs: int = 20
    batch_size: int = 64
    hidden: int = 256
    layers: int = 4
    lr: float = 1e-3
    synthesizer_lr: float = 3e-3
    probes: int = 15
    threads: int = 1

    def __post_init__(self) -> None:
        names = tuple(name for given in self.methods for name in given.replace(",", " ").split())
        for name in names:
            method_named(name)
        if not names:
            raise SettingsError(f"methods: got none, expected at least one of {', '.join(METHODS)}")
        object.__setattr__(self, "methods", tuple(dict.fromkeys(names)))
        for name in ("seeds", "epochs", "hidden", "layers", "probes", "threads"):
            _check(name, getattr(self, name), at_least=1)
        # BatchNorm has no variance to learn from in a batch of one.
        _check("batch_size", self.batch_size, at_least=2, at_most=1024)
        for name in ("lr", "synthesizer_lr"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} is {getattr(self, name)}: expected a number above 0, such as 1e-3")

    def as_table(self) -> dict[str, Any]:
        """The settings as simple values, for TOML and JSON."""
        return asdict(self) | {"methods": list(self.methods)}

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> "Comparison":
        """The inverse of `as_table`; settings that are not given keep their defaults.

        Raises:
            SettingsError: an unknown setting or a wrong type; `where` says in which file.
        """
        known = {one.name: type(one.default) for one in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name not in known:
                raise SettingsError(f"{where}: setting {name!r} is unknown{_nearest(name, known)}")
            expected = known[name]
            if expected is tuple and isinstance(value, list) and all(isinstance(one, str) for one in value):
                value = tuple(value)
            if expected is float and type(value) is int:
                value = float(value)
            if type(value) is not expected:
                what = "list of names" if expected is tuple else expected.__name__
                raise SettingsError(f"{where}: {name} is {value!r}, expected {what}")
            values[name] = value
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """Read the settings out of a run's `run.toml`, or of a file with nothing but a table `[comparison]`.

        Raises:
            SettingsError: no such file, not TOML, or not a comparison's settings.
        """
        table = read_toml(path)
        if not isinstance(table.get("comparison"), dict):
            raise SettingsError(f"{path}: has no table [comparison]; give the run.toml of an earlier run")
        return cls.from_table(table["comparison"], str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises `SettingsError` if it cannot be."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); give the run.toml of an earlier run") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None


def _check(name: str, value: int, *, at_least: int, at_most: int | None = None) -> None:
    if value < at_least or (at_most is not None and value > at_most):
        most = f" and at most {at_most}" if at_most is not None else ""
        raise SettingsError(f"{name} is {value}: expected a whole number of at least {at_least}{most}")
