"""A residual network for small images.

Shapes: `B` batch, `C` channels, `H` and `W` height and width of a map.
"""

from torch import Tensor, nn

from synthgrad.models.chain import chain, check_sizes

__all__ = ["residual"]

WIDTHS = 4
"""As many widths there are, each twice the one before."""


def residual(channels_in: int, outputs: int, *, channels: int = 64, layers: int = 8) -> nn.Sequential:
    """Build basic residual blocks and a Linear output, taking (B, channels_in, H, W) to (B, outputs).

    A block adds what two 3x3 convolutions make of the map to the map itself: Conv-BatchNorm-ReLU-Conv-BatchNorm, the
    sum, ReLU. Blocks are `channels`, twice, four and eight times as wide, in four runs as equal as can be, the earlier
    ones longer; with fewer than four blocks each is twice as wide as the one before. Where the width changes, the
    stride is 2 and a 1x1 convolution with BatchNorm takes the map to the sum; elsewhere it goes there as it is.

    `layer1` begins with a stem, a 3x3 convolution with BatchNorm and ReLU that keeps the map's size: images of 32x32
    are too small for the 7x7 convolution and the pooling of the original for ImageNet. The output is the average over
    the map, and Linear. With its defaults this is the ResNet-18 usual for CIFAR-10.

    The children are named `layer1` to `layer{layers}` and `output`, so that cuts can be named. The initial weights are
    drawn from torch's global generator, as every module's are: call `torch.manual_seed` before. Those of convolutions
    are normal with a variance of 2 over the terms that each input feeds (He et al. 2015, arXiv:1502.01852, eq. 14).

    Args:
        channels_in: channels of an image.
        outputs: features of an output row, for classification the number of classes.
        channels: channels of the first blocks.
        layers: number of blocks, at least 1; 8 is ResNet-18.

    Returns:
        The model.

    Raises:
        ValueError: if one of the sizes is below 1.

    Reference:
        K. He et al. Deep Residual Learning for Image Recognition. CVPR 2016, Sect. 3.3 and 4.2. arXiv:1512.03385

    >>> model = residual(3, 10, layers=2)
    >>> [name for name, _ in model.named_children()]
    ['layer1', 'layer2', 'output']
    """
    check_sizes("residual", channels_in=channels_in, outputs=outputs, channels=channels, layers=layers)
    widths = [channels * 2 ** (number * min(WIDTHS, layers) // layers) for number in range(layers)]
    # The stem is part of the first layer: behind it alone, a cut would save next to no waiting.
    first = nn.Sequential(*_normed(channels_in, channels, 3), nn.ReLU(), _Block(channels, channels))
    rest = [_Block(before, width) for before, width in zip(widths, widths[1:], strict=False)]
    output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))
    return chain([first, *rest], output)


class _Block(nn.Module):
    """Takes (B, channels_in, H, W) to (B, channels, H', W'): the same size, or half of it if the channels change.

    Attributes:
        branch: the two convolutions.
        shortcut: what the input goes through, beside them.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        changes = channels != channels_in
        stride = 2 if changes else 1
        self.branch = nn.Sequential(
            *_normed(channels_in, channels, 3, stride), nn.ReLU(), *_normed(channels, channels, 3)
        )
        self.shortcut = nn.Sequential(*_normed(channels_in, channels, 1, stride)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


def _normed(channels_in: int, channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    # No bias, as BatchNorm subtracts it.
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(channels)]
