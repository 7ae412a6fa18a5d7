"""A small transformer that tells, after each token, the next one.

Shapes: `B` batch, `T` tokens, `D` width, `H` heads.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from synthgrad.models.chain import chain, check_sizes

__all__ = ["transformer"]

STD = 0.02
"""Of the initial weights."""

HIDDEN = 4
"""So many times as wide is a block's hidden layer."""


def transformer(
    vocabulary: int, *, width: int = 128, heads: int = 4, layers: int = 4, context: int = 64
) -> nn.Sequential:
    """Build a decoder of pre-norm blocks, taking tokens int64 (B, T) to scores of the next ones (B, T, vocabulary).

    `layer1` begins with the sum of a learned vector for the token and one for its position. A block computes
    x + attention(LayerNorm(x)), where a token sees itself and those before it, and then x + mlp(LayerNorm(x)), of one
    hidden layer with GELU, four times as wide. The output is LayerNorm and Linear. There is no dropout. T may be any
    length up to `context`.

    Unlike GPT-2's, the output does not share its weight with the embedding of the tokens: that one is the first
    stage's and this one the last's, and a weight on both sides of a cut would have to wait for both.

    The children are named `layer1` to `layer{layers}` and `output`, so that cuts can be named. The initial weights are
    drawn from torch's global generator, as every module's are: call `torch.manual_seed` before. They are normal with a
    standard deviation of 0.02, divided by sqrt(2 * layers) where a block adds to the sum; biases are zero.

    Args:
        vocabulary: how many different tokens there are.
        width: D, features of a token.
        heads: of the attention, of D / H features each.
        layers: number of blocks, at least 1.
        context: the longest T.

    Returns:
        The model. It raises ValueError if it is given more tokens than `context` in a row.

    Raises:
        ValueError: if one of the sizes is below 1, or `width` is not divisible by `heads`.

    Reference:
        A. Radford et al. Language Models are Unsupervised Multitask Learners. 2019, Sect. 2.3.

    >>> model = transformer(65, layers=2)
    >>> [name for name, _ in model.named_children()]
    ['layer1', 'layer2', 'output']
    """
    check_sizes("transformer", vocabulary=vocabulary, width=width, heads=heads, layers=layers, context=context)
    if width % heads:
        raise ValueError(
            f"transformer: width is {width} with {heads} heads, expected a multiple of their number; pass width="
            f"{math.ceil(width / heads) * heads}"
        )
    embedding = _Embedding(vocabulary, width, context)
    # Each of the 2 * layers terms of the sum adds its variance, which so does not grow with the depth.
    blocks = [_Block(width, heads, branch_std=STD / math.sqrt(2 * layers)) for _ in range(layers)]
    output = nn.Sequential(nn.LayerNorm(width), _linear(width, vocabulary))
    return chain([nn.Sequential(embedding, blocks[0]), *blocks[1:]], output)


class _Embedding(nn.Module):
    """Takes tokens (B, T) to (B, T, D)."""

    def __init__(self, vocabulary: int, width: int, context: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=STD)

    def forward(self, tokens: Tensor) -> Tensor:
        length, context = tokens.shape[1], self.position.num_embeddings
        if length > context:
            raise ValueError(
                f"transformer: got {length} tokens in a row, expected {context} or fewer; pass shorter ones, or build "
                f"the model with context={length}"
            )
        return self.token(tokens) + self.position.weight[:length]


class _Block(nn.Module):
    """Takes (B, T, D) to (B, T, D).

    Attributes:
        attention: what is added first.
        mlp: what is added then.
    """

    def __init__(self, width: int, heads: int, *, branch_std: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads, branch_std=branch_std))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            _linear(width, HIDDEN * width),
            nn.GELU(),
            _linear(HIDDEN * width, width, std=branch_std),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class _Attention(nn.Module):
    """Takes (B, T, D) to (B, T, D), where each token looks at itself and those before it."""

    def __init__(self, width: int, heads: int, *, branch_std: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = _linear(width, 3 * width)
        self.projection = _linear(width, width, std=branch_std)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(x).unflatten(2, (3, self.heads, -1))  # (B, T, 3, H, D / H)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (B, H, T, D / H)
        return self.projection(seen.transpose(1, 2).flatten(2))  # (B, T, D)


def _linear(inputs: int, outputs: int, *, std: float = STD) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear
