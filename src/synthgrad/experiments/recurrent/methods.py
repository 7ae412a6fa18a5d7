"""The methods there are to compare on recurrent nets; data, which need no torch to be read.

A method is written `KIND`, `KIND-T` with a window of its own, or with settings of its own behind colons:

    dni    bptt-8    dni-aux-4:replay=0:lr=3e-4

So that tuning each method for itself, and taking away one thing after the other, is one comparison.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from synthgrad.experiments.names import SettingsError, named

__all__ = ["KINDS", "Kind", "parse_method"]


@dataclass(frozen=True)
class Kind:
    """What comes from behind the end of a window.

    Attributes:
        name: how it is called for.
        title: what it is, in a few words.
        synthetic: whether a synthesizer says it; else nothing comes.
        auxiliary: whether the synthesizer predicts, besides, what it will say a window later.
        learns: what a critic learns from that is told the targets to come and predicts the outputs there, as in
            `CriticSynthesizer`: gradient, labels (these targets), or both. Nothing: no critic, and it is told nothing.
        online: whether it learns at each step, so that its window is one.
    """

    name: str
    title: str
    synthetic: bool = True
    auxiliary: bool = False
    learns: tuple[str, ...] = ()
    online: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("bptt", "truncated back-propagation through time, a plain PyTorch loop", synthetic=False),
            Kind("dni", "a synthetic gradient of the state at the window's end"),
            Kind("dni-aux", "dni that also predicts the synthetic gradient a window later", auxiliary=True),
            Kind(
                "logistic",
                "the gradient of the loss at the targets to come, of outputs predicted there; learned from gradients",
                learns=("gradient",),
            ),
            Kind("sobolev", "logistic that learns from the targets to come, too", learns=("gradient", "labels")),
            Kind("local", "logistic that learns from the targets to come alone", learns=("labels",)),
            Kind(
                "bp-lambda", "learns at each step, by eligibility traces; scale is its gamma, reach lambda", online=True
            ),
        )
    }
)
_METHOD = re.compile(r"(?P<kind>[a-z]+(?:-[a-z]+)*)(?:-(?P<unroll>\d+))?(?P<changes>(?::[a-z_-]+=[^:=]+)*)")


def parse_method(text: str) -> tuple[Kind, int | None, dict[str, str]]:
    """A method's kind, its window and its own settings, if it has any, as they are written.

    Raises:
        UnknownNameError: no such kind.
        SettingsError: it is written in another way.

    >>> parse_method("dni-4:lr=3e-4")[1:]
    (4, {'lr': '3e-4'})
    """
    match = _METHOD.fullmatch(text)
    if match is None:
        raise SettingsError(f"method {text!r}: expected KIND, KIND-T or KIND-T:setting=value, such as dni-4:lr=1e-4")
    changes = dict(change.split("=") for change in match["changes"].split(":") if change)
    unroll = None if match["unroll"] is None else int(match["unroll"])
    return (
        named("method", match["kind"], KINDS),
        unroll,
        {name.replace("-", "_"): value for name, value in changes.items()},
    )
