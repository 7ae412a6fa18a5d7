"""Auxiliary heads: small models from an activation to the model's output. What a critic is made of.

Legend: B examples, T time steps, D features, C channels, H height, W width, O outputs.
"""

from torch import Tensor, nn

from synthgrad.core.synthesizers.contract import start_at_zero

__all__ = ["LinearHead", "block_head", "linear_head", "mlp_head", "zero_head"]

POOLED = 2  # side of a map when a linear head sees it
HEAD_WIDTH = 32  # features of an attention head


class LinearHead(nn.Linear):
    """(B, D) to (B, O), or (B, T, D) to (B, T, O): a head whose gradient a critic can write down without autograd."""


def linear_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The usual head: one linear layer, on a map of channels after average pooling to 2x2.

    Belilovsky et al. 2019 (arXiv:1901.08164) and Noekland and Eidnes 2019 (arXiv:1901.06656) pool likewise. It starts
    at random, and so does the gradient. Started at zero it taught a transformer worse; see `zero_head` and
    docs/signals.md.

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W).
        outputs: features of an output row: classes, or the size of a vocabulary.
    """
    if len(shape) == 3:
        channels, height, width = shape
        pooled = min(POOLED, height), min(POOLED, width)
        head = LinearHead(channels * pooled[0] * pooled[1], outputs)
        return nn.Sequential(nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), head)
    return LinearHead(shape[-1], outputs)


def zero_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The linear head, started at zero as the paper starts its synthesizers: the first synthetic gradient is zero."""
    head = linear_head(shape, outputs)
    start_at_zero(head)
    return head


def block_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One layer like those of the network that such activations come from, and the linear head behind it.

    (D,): Linear, BatchNorm, ReLU; (T, D): a transformer block that looks back only, then LayerNorm; (C, H, W): a 3x3
    convolution, BatchNorm, ReLU. Belilovsky et al. 2019, arXiv:1901.08164, find that such heads close most of the gap.

    Args:
        shape: of the activation, without batch.
        outputs: features of an output row.
    """
    width = shape[0] if len(shape) == 3 else shape[-1]
    if len(shape) == 3:
        convolution = nn.Conv2d(width, width, 3, padding=1, bias=False)
        block = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
    elif len(shape) == 2:
        block = nn.Sequential(CausalBlock(width), nn.LayerNorm(width))
    else:
        block = nn.Sequential(nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(block, linear_head(shape, outputs))


def mlp_head(shape: tuple[int, ...], outputs: int, *, hidden: int = 256) -> nn.Module:
    """One hidden layer, and a linear path beside it. It starts at zero, and so does the gradient.

    What a critic in time predicts the coming outputs with; see `TruncatedBPTT`.

    Args:
        shape: of the activation, without batch: (D,), or (T, D) with a row for each token.
        outputs: features of an output row.
        hidden: width of the hidden layer.
    """
    return MLPHead(shape[-1], hidden, outputs)


class MLPHead(nn.Module):
    """(B, D) to (B, O), or (B, T, D) to (B, T, O): W_2 relu(W_1 h + b_1) + W_3 h + b_2."""

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.up = nn.Linear(features, hidden), nn.Linear(hidden, outputs)
        self.past = nn.Linear(features, outputs, bias=False)
        start_at_zero(self.up, self.past)

    def forward(self, rows: Tensor) -> Tensor:
        """The outputs."""
        return self.up(self.first(rows).relu()) + self.past(rows)


class CausalBlock(nn.TransformerEncoderLayer):
    """A pre-norm transformer block in which a token sees itself and those before it; (B, T, D) to the same."""

    def __init__(self, width: int) -> None:
        heads = max(1, width // HEAD_WIDTH)
        super().__init__(
            width,
            heads if width % heads == 0 else 1,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )

    def forward(self, src: Tensor) -> Tensor:  # pyrefly: ignore  (a mask is not for others to give)
        """The block's output."""
        mask = nn.Transformer.generate_square_subsequent_mask(src.shape[1], device=src.device, dtype=src.dtype)
        return super().forward(src, src_mask=mask, is_causal=True)
