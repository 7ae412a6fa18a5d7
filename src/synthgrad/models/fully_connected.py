"""The fully connected network of the paper's feed-forward experiments.

Shapes: `B` batch.
"""

from torch import nn

from synthgrad.models.chain import chain, check_sizes

__all__ = ["fully_connected"]


def fully_connected(inputs: int, outputs: int, *, hidden: int = 256, layers: int = 4) -> nn.Sequential:
    """Build Linear-BatchNorm-ReLU layers and a Linear output, taking (B, inputs) to (B, outputs).

    The children are named `layer1` to `layer{layers}` and `output`, so that cuts can be named. The initial weights are
    drawn from torch's global generator, as every module's are: call `torch.manual_seed` before.

    Args:
        inputs: features of an input row.
        outputs: features of an output row, for classification the number of classes.
        hidden: features of each hidden layer.
        layers: number of hidden layers, at least 1.

    Returns:
        The model.

    Raises:
        ValueError: if one of the sizes is below 1.

    Reference:
        M. Jaderberg et al. Decoupled Neural Interfaces using Synthetic Gradients. ICML 2017, Sect. 3.3.
        arXiv:1608.05343

    >>> model = fully_connected(64, 10, layers=2)
    >>> [name for name, _ in model.named_children()]
    ['layer1', 'layer2', 'output']
    """
    check_sizes("fully_connected", inputs=inputs, outputs=outputs, hidden=hidden, layers=layers)
    # A list, so that the hidden layers draw their weights before the output does.
    hidden_layers = [_layer(inputs if number == 0 else hidden, hidden) for number in range(layers)]
    return chain(hidden_layers, nn.Linear(hidden, outputs))


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    # No bias: BatchNorm subtracts the batch mean and the bias with it, and adds a bias of its own. The gradient of the
    # first would be rounding noise, which an optimizer such as Adam scales up to full steps.
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())
