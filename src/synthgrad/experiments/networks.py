"""The networks there are to train; data, which need no torch to be read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from synthgrad.experiments.names import SettingsError, named, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NETWORKS", "Network", "Sizes", "chosen_cuts", "layers_of", "network_named"]

Shape = tuple[int, ...]


class Sizes(Protocol):
    """What a network is told of its sizes; a `Training` has them."""

    @property
    def layers(self) -> int:
        """Hidden layers."""
        ...

    @property
    def hidden(self) -> int:
        """Features of each hidden layer."""
        ...

    @property
    def channels(self) -> int:
        """Channels of each hidden layer."""
        ...

    @property
    def heads(self) -> int:
        """Attention heads of each block."""
        ...


@dataclass(frozen=True)
class Network:
    """A model of hidden layers `layer1`, `layer2` and so on, and an output.

    Attributes:
        name: how it is called for.
        title: what it is, in a few words.
        build: `build(sizes, shape, classes)`, the plain model for examples of this shape.
        flat: whether it takes images as rows of pixels; else as they are, (C, H, W).
        tokens: whether it takes text, (T,), and no images.
    """

    name: str
    title: str
    build: "Callable[[Sizes, Shape, int], nn.Sequential]"
    flat: bool = False
    tokens: bool = False


def _fully_connected(sizes: Sizes, shape: Shape, classes: int) -> "nn.Sequential":
    from synthgrad.models import fully_connected

    return fully_connected(shape[0], classes, hidden=sizes.hidden, layers=sizes.layers)


def _convolutional(sizes: Sizes, shape: Shape, classes: int) -> "nn.Sequential":
    from synthgrad.models import convolutional

    channels, height, width = shape
    return convolutional(channels, (height, width), classes, channels=sizes.channels, layers=sizes.layers)


def _residual(sizes: Sizes, shape: Shape, classes: int) -> "nn.Sequential":
    from synthgrad.models import residual

    return residual(shape[0], classes, channels=sizes.channels, layers=sizes.layers)


def _transformer(sizes: Sizes, shape: Shape, classes: int) -> "nn.Sequential":
    from synthgrad.models import transformer

    return transformer(classes, width=sizes.hidden, heads=sizes.heads, layers=sizes.layers, context=shape[0])


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        network.name: network
        for network in (
            Network("fully-connected", "layers of features, with BatchNorm and ReLU", _fully_connected, flat=True),
            Network("convolutional", "layers of 5x5 convolutions, with BatchNorm, ReLU and pooling", _convolutional),
            Network("residual", "blocks of two 3x3 convolutions and a shortcut, as in ResNet-18", _residual),
            Network("transformer", "blocks of causal attention and a perceptron", _transformer, tokens=True),
        )
    }
)


def network_named(name: str) -> Network:
    """Find a network.

    Raises:
        UnknownNameError: there is none of this name.

    >>> network_named("fully-connected").flat
    True
    """
    return named("model", name, NETWORKS)


def layers_of(count: int) -> list[str]:
    """Names of the hidden layers, as all models here have them.

    >>> layers_of(2)
    ['layer1', 'layer2']
    """
    return [f"layer{number}" for number in range(1, count + 1)]


def chosen_cuts(cuts: str, layers: int) -> list[str]:
    """The layers to cut after, from the input on.

    Args:
        cuts: `all`; how many, which are then placed evenly; or names of layers, separated by commas or blanks.
        layers: how many hidden layers there are.

    Raises:
        SettingsError: no cut at all, more than there are layers, or a layer that there is not.

    >>> chosen_cuts("all", 3), chosen_cuts("1", 4), chosen_cuts("layer3,layer1", 4)
    (['layer1', 'layer2', 'layer3'], ['layer2'], ['layer1', 'layer3'])
    """
    names = layers_of(layers)
    if cuts.strip() == "all":
        return names
    if cuts.strip().isdecimal():
        count = int(cuts)
        if not 1 <= count <= layers:
            raise SettingsError(f"cuts is {count}: expected 1 to {layers}, one after each layer; or all, or names")
        return [names[number * (layers + 1) // (count + 1) - 1] for number in range(1, count + 1)]
    asked = cuts.replace(",", " ").split()
    for name in asked:
        if name not in names:
            raise SettingsError(f"cuts: no layer {name!r} in a model of {layers} layers{nearest(name, names)}")
    if not asked:
        raise SettingsError(f"cuts: got none, expected all, a number, or some of {', '.join(names)}")
    return [name for name in names if name in asked]
