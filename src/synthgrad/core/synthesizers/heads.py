"""Auxiliary heads: small models from an activation to the model's output. What a critic is made of.

Legend: B examples, T time steps, D features, C channels, H height, W width, O outputs.
"""

from torch import nn

__all__ = ["LinearHead", "linear_head"]

POOLED = 2  # side of a map when a linear head sees it


class LinearHead(nn.Linear):
    """(B, D) to (B, O), or (B, T, D) to (B, T, O): a head whose gradient a critic can write down without autograd."""


def linear_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The usual head: one linear layer, on a map of channels after average pooling to 2x2. It starts at zero.

    Belilovsky et al. 2019 (arXiv:1901.08164) and Noekland and Eidnes 2019 (arXiv:1901.06656) pool likewise.

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W).
        outputs: features of an output row: classes, or the size of a vocabulary.
    """
    if len(shape) == 3:
        channels, height, width = shape
        pooled = min(POOLED, height), min(POOLED, width)
        head = LinearHead(channels * pooled[0] * pooled[1], outputs)
        module: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), head)
    else:
        module = head = LinearHead(shape[-1], outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return module
