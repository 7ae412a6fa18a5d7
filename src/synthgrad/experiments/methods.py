"""The methods there are to compare; data, which need no torch to be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from synthgrad.core.errors import ShapeError
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked
from synthgrad.experiments.names import UnknownNameError, named

__all__ = ["METHODS", "Method", "Part", "UnknownMethodError", "factory", "method_named"]

UnknownMethodError = UnknownNameError  # by this name where methods are meant


@dataclass(frozen=True)
class Part:
    """A class of `synthgrad.core.synthesizers` as data.

    Attributes:
        kind: name of the class.
        options: keyword arguments, besides the shapes that `decouple` gives.
        takes: further keyword arguments, which the comparison or the data set knows: `classes`, `rank`.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: tuple[str, ...] = ()

    def build(self, *shapes: tuple[int, ...], **settings: Any) -> Any:
        """Build one for activations of these shapes; of the settings it picks those that it takes."""
        from synthgrad.core import synthesizers  # brings torch, which the front desk does without

        return getattr(synthesizers, self.kind)(
            *shapes, **self.options, **{name: settings[name] for name in self.takes}
        )


# What to build, by how many dimensions the activation at the cut has, without the batch: 1 for a row of features, 3 for
# a map of channels.
ByDimensions = Mapping[int, Part]


def factory(parts: ByDimensions | None, **settings: Any) -> Callable[..., Any] | None:
    """The factory that `decouple` wants, called with shapes, of which the last is the activation's.

    Args:
        parts: what to build for which activations; None for nothing anywhere.
        settings: what parts may take.
    """
    return None if parts is None else partial(_build, parts, settings)


def _build(parts: ByDimensions, settings: Mapping[str, Any], *shapes: tuple[int, ...]) -> Any:
    dimensions = len(shapes[-1])
    if dimensions not in parts:
        raise ShapeError(
            f"an activation of shape {shapes[-1]}, of {dimensions} dimensions: this method has synthesizers for "
            f"{' or '.join(map(str, parts))}; cut elsewhere, or add one in `methods.py`"
        )
    return parts[dimensions].build(*shapes, **settings)


@dataclass(frozen=True)
class Method:
    """One way to train the same network.

    Attributes:
        name: how it is called for.
        title: what it is, in a few words.
        schedule: who does what when.
        synthesizer: what stands at a cut, by the activation's number of dimensions; None: gradients pass.
        input_synthesizer: what predicts each stage's input, likewise; None: stages learn on the real one.
        plain: train with a plain PyTorch loop, without our library; the schedule then only says what waits for what.
    """

    name: str
    title: str
    schedule: Callable[[], Schedule]
    synthesizer: ByDimensions | None = None
    input_synthesizer: ByDimensions | None = None
    plain: bool = False


_NOTHING = {dimensions: Part("ZeroSynthesizer") for dimensions in (1, 3)}
_UNLABELED = {1: Part("LinearSynthesizer", takes=("rank",)), 3: Part("ConvSynthesizer")}
_LABELED = {
    1: Part("LinearSynthesizer", takes=("classes", "rank")),
    3: Part("ConvSynthesizer", takes=("classes",)),
}
_INPUTS = {dimensions: Part("MLPInputSynthesizer", {"hidden": 512}) for dimensions in (1, 3)}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("bp", "back-propagation, a plain PyTorch loop", backprop, plain=True),
            Method("zero", "no gradient at the cuts", update_unlocked, _NOTHING),
            Method("dni", "synthetic gradients from the activation alone", update_unlocked, _UNLABELED),
            Method("cdni", "synthetic gradients that see the labels", update_unlocked, _LABELED),
            Method(
                "unlock",
                "predicted inputs, and synthetic gradients that see the labels",
                forward_unlocked,
                _LABELED,
                _INPUTS,
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
    return named("method", name, METHODS)
