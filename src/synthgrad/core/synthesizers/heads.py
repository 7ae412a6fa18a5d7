"""Auxiliary heads: small models from an activation to the model's output. What a critic is made of.

Legend: B examples, T time steps, D features, C channels, H height, W width, O outputs.
"""

from torch import Tensor, nn

from synthgrad.core.synthesizers.contract import start_at_zero

__all__ = ["LinearHead", "block_head", "conv_head", "linear_head", "mlp_head", "usual_head", "zero_head"]

POOLED = 2  # side of a map when a linear head sees it
SMALL = 2  # side of a map that layers of a head need not make smaller
HEAD_WIDTH = 32  # features of an attention head
STD = 0.02  # of the initial weights behind tokens


class LinearHead(nn.Linear):
    """(B, D) to (B, O), or (B, T, D) to (B, T, O): a head whose gradient a critic can write down without autograd."""


def usual_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """What a critic predicts with where no head is given: `conv_head` on a map of channels, elsewhere `linear_head`.

    Args:
        shape: of the activation, without batch.
        outputs: features of an output row.
    """
    return conv_head(shape, outputs) if len(shape) == 3 else linear_head(shape, outputs)


def linear_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """One linear layer, on a map of channels after average pooling to 2x2.

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


def conv_head(shape: tuple[int, ...], outputs: int, *, kernel: int = 5, pool: bool = False) -> nn.Module:
    """Layers that halve a map until a side of it is 2 or less, and a linear layer behind them.

    A layer is a convolution to as many channels, BatchNorm and ReLU. What halves the map is the convolution, with a
    stride of 2; or, with `pool`, average pooling over 3x3 behind it, at four times the arithmetic.

    Args:
        shape: (C, H, W) of the activation.
        outputs: features of an output row.
        kernel: odd size of the convolutions.
        pool: halve by pooling.
    """
    channels, height, width = shape
    layers = nn.Sequential()
    while min(height, width) > SMALL:
        stride = 1 if pool else 2
        layers.append(nn.Conv2d(channels, channels, kernel, stride, padding=kernel // 2, bias=False))
        layers.extend([nn.BatchNorm2d(channels), nn.ReLU()])
        if pool:
            layers.append(nn.AvgPool2d(3, 2, padding=1, count_include_pad=False))
        height, width = (height + 1) // 2, (width + 1) // 2
    return nn.Sequential(layers, nn.Flatten(), LinearHead(channels * height * width, outputs))


def zero_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """As `linear_head`, started at zero as the paper starts synthesizers: the first synthetic gradient is zero."""
    head = linear_head(shape, outputs)
    start_at_zero(head)
    return head


def block_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Layers like those of the network that such activations come from, and a linear layer behind them.

    (D,): Linear, BatchNorm, ReLU. (T, D): a transformer block that looks back only, and LayerNorm. (C, H, W): 5x5
    convolution, BatchNorm, ReLU and average pooling over 3x3, each of which halves the map, until a side is 2: what
    the paper's convolutional network goes on with. Belilovsky et al. 2019, arXiv:1901.08164, find that heads with
    layers of their own close most of the gap.

    Args:
        shape: of the activation, without batch.
        outputs: features of an output row.
    """
    width = shape[-1]
    if len(shape) == 3:
        return conv_head(shape, outputs, kernel=5, pool=True)
    if len(shape) == 2:
        head = nn.Sequential(CausalBlock(width), nn.LayerNorm(width), linear_head(shape, outputs))
        start_small(head)
        return head
    return nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), linear_head(shape, outputs)
    )


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
    """A pre-norm transformer block in which a token sees itself and those before it; (B, T, D) to the same.

    It starts as GPT-2's do: with torch's own start, whose weights are several times as large, it teaches a transformer
    worse.
    """

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
        start_small(self)

    def forward(self, src: Tensor) -> Tensor:  # pyrefly: ignore  (a mask is not for others to give)
        """The block's output."""
        mask = nn.Transformer.generate_square_subsequent_mask(src.shape[1], device=src.device, dtype=src.dtype)
        return super().forward(src, src_mask=mask, is_causal=True)


def start_small(module: nn.Module) -> None:
    """Draw all matrices from a normal distribution of standard deviation 0.02, and zero the biases of what they make.

    Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3.
    """
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            continue
        for parameter in part.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=STD)
            else:
                nn.init.zeros_(parameter)
