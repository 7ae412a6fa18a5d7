"""What the models here have in common: hidden layers `layer1`, `layer2`, ... and `output`, one after another."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

__all__ = ["chain", "check_sizes", "layer_names"]

OUTPUT = "output"


def chain(layers: Sequence[nn.Module], output: nn.Module) -> nn.Sequential:
    """Join the hidden layers and the output to one model, and name them, so that cuts can be named.

    Args:
        layers: the hidden layers, from the input on; they become `layer1`, `layer2` and so on.
        output: what follows the last of them; it becomes `output`.

    Returns:
        The model.
    """
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for number, layer in enumerate(layers, start=1):
        children[f"layer{number}"] = layer
    children[OUTPUT] = output
    return nn.Sequential(children)


def layer_names(model: nn.Sequential) -> list[str]:
    """Names of the hidden layers of a model from this package, from the input on: to cut after each of them.

    >>> layer_names(chain([nn.Linear(4, 3), nn.ReLU()], nn.Linear(3, 2)))
    ['layer1', 'layer2']
    """
    return [name for name, _ in model.named_children() if name != OUTPUT]


def check_sizes(model: str, **sizes: int) -> None:
    """See that all sizes are 1 or more.

    Args:
        model: name of the function that was called, for the message.
        sizes: its arguments.

    Raises:
        ValueError: if one of them is not.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{model}: {name} is {size}, expected 1 or more; pass {name}=1 at least")
