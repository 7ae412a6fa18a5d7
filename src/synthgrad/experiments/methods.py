"""The methods there are to compare; data, which need no torch to be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from synthgrad.core.combined import teach_every, true_every, warm_up
from synthgrad.core.errors import ShapeError
from synthgrad.core.schedules import Schedule, backprop, error_broadcast, forward_unlocked, update_unlocked
from synthgrad.experiments.names import UnknownNameError, named

__all__ = ["METHODS", "Method", "Part", "UnknownMethodError", "factory", "method_named"]

UnknownMethodError = UnknownNameError  # by this name where methods are meant


@dataclass(frozen=True)
class Part:
    """A class of `synthgrad.core.synthesizers` as data.

    Attributes:
        kind: name of the class.
        options: keyword arguments, besides the shapes that `decouple` gives.
        takes: further keyword arguments, which the comparison or the data set knows: `classes`, `outputs`, `rank`,
            `examples`.
        head: name of the function that makes a critic's head; its own choice if not given.
        inside: the part that this one is wrapped around.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    head: str | None = None
    inside: "Part | None" = None

    def build(self, *shapes: tuple[int, ...], **settings: Any) -> Any:
        """Build one for activations of these shapes; of the settings it picks those that it takes."""
        from synthgrad.core import synthesizers  # brings torch, which the front desk does without

        kind = getattr(synthesizers, self.kind)
        if self.inside is not None:
            return kind(self.inside.build(*shapes, **settings), **self.options)
        chosen = {"head": getattr(synthesizers, self.head)} if self.head else {}
        return kind(*shapes, **self.options, **{name: settings[name] for name in self.takes}, **chosen)


# What to build, by how many dimensions the activation at the cut has, without the batch: 1 for a row of features, 2 for
# a row for each token, 3 for a map of channels.
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


ALL = (1, 2, 3)


def _everywhere(part: Part) -> ByDimensions:
    return dict.fromkeys(ALL, part)


def _critic(*learns: str, head: str | None = None) -> ByDimensions:
    return _everywhere(Part("CriticSynthesizer", {"learns": learns}, takes=("classes",), head=head))


_LINEAR, _CONV = Part("LinearSynthesizer", takes=("rank",)), Part("ConvSynthesizer")
_UNLABELED = {1: _LINEAR, 2: _LINEAR, 3: _CONV}
_LABELED = {dimensions: replace(part, takes=(*part.takes, "classes")) for dimensions, part in _UNLABELED.items()}


def _least_squares(**options: Any) -> ByDimensions:
    """Of rows and tokens: a map has too many features to solve for."""
    return dict.fromkeys((1, 2), Part("LeastSquaresSynthesizer", options, takes=("classes",)))


def _practice(name: str, title: str, wrapper: str, **options: Any) -> "Method":
    """`cdni`, with one of the ways around it that are to make it work."""
    wrapped = {dimensions: Part(wrapper, options, inside=part) for dimensions, part in _LABELED.items()}
    return Method(f"cdni-{name}", f"cdni, {title}", update_unlocked, wrapped)


_INPUTS = _everywhere(Part("MLPInputSynthesizer", {"hidden": 512}))


def _true_first(steps: int) -> Schedule:
    return warm_up(steps, update_unlocked())


def _true_every(steps: int) -> Schedule:
    return true_every(steps, update_unlocked())


def _taught_every(steps: int) -> Schedule:
    return teach_every(steps, update_unlocked())


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("bp", "back-propagation, a plain PyTorch loop", backprop, plain=True),
            Method("zero", "no gradient at the cuts", update_unlocked, _everywhere(Part("ZeroSynthesizer"))),
            Method("dni", "synthetic gradients from the activation alone", update_unlocked, _UNLABELED),
            Method("cdni", "synthetic gradients that see the labels", update_unlocked, _LABELED),
            Method(
                "unlock",
                "predicted inputs, and synthetic gradients that see the labels",
                forward_unlocked,
                _critic("labels", "gradient"),
                _INPUTS,
            ),
            # What follows is not compared by default.
            Method(
                "cdni-exact",
                "cdni, solved for by least squares",
                update_unlocked,
                _least_squares(belief=False, decay=0.9),
            ),
            Method(
                "cdni-belief",
                "cdni-exact, which also sees what a linear head believes of the labels",
                update_unlocked,
                _least_squares(),
            ),
            Method("logistic", "cdni whose gradients are those of a log-loss", update_unlocked, _critic("gradient")),
            Method(
                "sobolev",
                "a head learns the labels and the gradients that come back",
                update_unlocked,
                _critic("labels", "gradient"),
            ),
            Method(
                "sobolev-zero",
                "sobolev, its head started at zero",
                update_unlocked,
                _critic("labels", "gradient", head="zero_head"),
            ),
            Method(
                "sobolev-fourth",
                "sobolev-zero, with lessons in every fourth step alone",
                partial(_taught_every, 4),
                _critic("labels", "gradient", head="zero_head"),
            ),
            Method("critic", "a head learns the output that the rest makes", update_unlocked, _critic("output")),
            Method(
                "critic-zero",
                "critic, its head started at zero",
                update_unlocked,
                _critic("output", head="zero_head"),
            ),
            Method("local", "a head learns the labels, and nothing comes back", update_unlocked, _critic("labels")),
            Method(
                "local-zero",
                "local, its head started at zero",
                update_unlocked,
                _critic("labels", head="zero_head"),
            ),
            Method(
                "local-block",
                "local, with a layer in the head",
                update_unlocked,
                _critic("labels", head="block_head"),
            ),
            Method(
                "critic-block",
                "a head with layers learns the labels and the output that the rest makes",
                update_unlocked,
                _critic("labels", "output", head="block_head"),
            ),
            Method(
                "predsim",
                "local, and examples of one class are to look alike",
                update_unlocked,
                _everywhere(Part("SimilaritySynthesizer", takes=("classes",))),
            ),
            Method(
                "dfa",
                "the output's error, through a fixed random matrix",
                error_broadcast,
                _everywhere(Part("FeedbackAlignmentSynthesizer", takes=("outputs",))),
            ),
            Method(
                "stale",
                "what came back when the same example was last seen",
                update_unlocked,
                _everywhere(Part("StaleSynthesizer", takes=("examples",))),
            ),
            _practice("replay", "with three more lessons a step from what it remembers", "Replay"),
            _practice("average", "answering from a moving average", "Averaged", decay=0.9),
            _practice("normal", "its targets normalized", "Normalized"),
            _practice("clip", "its answers clipped", "Clipped", norm=1.0),
            Method("cdni-warm", "cdni, behind 100 true steps", partial(_true_first, 100), _LABELED),
            Method("cdni-true", "cdni, every fourth step a true one", partial(_true_every, 4), _LABELED),
            # The same numbers as `bp`, at the price of our stages.
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
