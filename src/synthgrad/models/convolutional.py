"""The convolutional network of the paper's feed-forward experiments.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of a map.
"""

from torch import nn

from synthgrad.models.chain import chain, check_sizes

__all__ = ["convolutional"]

KERNEL = 5
POOL, STRIDE = 3, 2


def convolutional(
    channels_in: int, image: tuple[int, int], outputs: int, *, channels: int = 64, layers: int = 4
) -> nn.Sequential:
    """Build Conv-BatchNorm-ReLU-pooling layers and a Linear output, taking (B, channels_in, H, W) to (B, outputs).

    The convolutions are 5x5 and keep the map's size; the pooling is over 3x3, the maximum in the first layer and the
    average in the others. A layer ends with its pooling, so a cut after it is (B, channels, H', W').

    The paper says so much. This is how we read the rest: neighboring pools overlap, a stride of 2 halving each side
    (rounded up: 28, 14, 7, 4, 2); `layers` counts the convolutions; no hidden layer is fully connected, the output
    alone is. The average is over the pixels that are there, not over the padding.

    The children are named `layer1` to `layer{layers}` and `output`, so that cuts can be named. The initial weights are
    drawn from torch's global generator, as every module's are: call `torch.manual_seed` before.

    Args:
        channels_in: channels of an image.
        image: height and width of an image.
        outputs: features of an output row, for classification the number of classes.
        channels: channels of each hidden layer; the paper has 64 for MNIST and 128 for CIFAR-10.
        layers: number of hidden layers, at least 1; the paper has 3 and 4.

    Returns:
        The model.

    Raises:
        ValueError: if one of the sizes is below 1.

    Reference:
        M. Jaderberg et al. Decoupled Neural Interfaces using Synthetic Gradients. ICML 2017, Sect. 3.3.
        arXiv:1608.05343

    >>> model = convolutional(1, (28, 28), 10, layers=2)
    >>> [name for name, _ in model.named_children()]
    ['layer1', 'layer2', 'output']
    """
    height, width = image
    check_sizes(
        "convolutional",
        channels_in=channels_in,
        height=height,
        width=width,
        outputs=outputs,
        channels=channels,
        layers=layers,
    )
    hidden = [_layer(channels_in if number == 0 else channels, channels, first=number == 0) for number in range(layers)]
    for _ in hidden:
        height, width = _halved(height), _halved(width)
    return chain(hidden, nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, outputs)))


def _layer(channels_in: int, channels: int, *, first: bool) -> nn.Sequential:
    pool = (
        nn.MaxPool2d(POOL, STRIDE, padding=POOL // 2)
        if first
        else nn.AvgPool2d(POOL, STRIDE, padding=POOL // 2, count_include_pad=False)
    )
    # No bias, as BatchNorm subtracts it.
    convolution = nn.Conv2d(channels_in, channels, KERNEL, padding=KERNEL // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), pool)


def _halved(size: int) -> int:
    """What the pooling makes of a side: half of it, rounded up."""
    return (size + 1) // STRIDE
