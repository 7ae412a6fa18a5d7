"""Perceptrons with hidden layers: from an activation to its gradient, and from the batch to a stage's input."""

import math

from torch import Tensor, nn

from synthgrad.core.batch import Context
from synthgrad.core.synthesizers.contract import (
    InputSynthesizer,
    LabelBias,
    Synthesizer,
    as_rows,
    row_features,
    start_at_zero,
)

__all__ = ["MLPInputSynthesizer", "MLPSynthesizer"]


class MLPSynthesizer(Synthesizer):
    """A perceptron on activation and one-hot label, joined. arXiv:1608.05343, section 3.3.

    The paper's unconditioned synthesizer for fully connected nets is `hidden=1024, layers=2, batch_norm=True`. The
    output layer starts at zero, weight and bias.

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W), taken flat.
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        classes: the number of classes, if it sees the labels: (B,) or, for each token, (B, T).
        batch_norm: normalize before each ReLU, over all rows.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        hidden: int = 256,
        layers: int = 1,
        classes: int | None = None,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        features = row_features(shape)
        self.first = nn.Linear(features, hidden)
        self.label = LabelBias(classes, hidden)
        self.classes, self.needs = classes, self.label.needs
        self.rest = nn.Sequential()
        for layer in range(layers):
            if layer > 0:
                self.rest.append(nn.Linear(hidden, hidden))
            if batch_norm:
                self.rest.append(nn.BatchNorm1d(hidden))
            self.rest.append(nn.ReLU())
        self.up = nn.Linear(hidden, features)
        start_at_zero(self.up)

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape."""
        hidden = self.label(self.first(as_rows(activation)), context)
        return self.up(self.rest(hidden.flatten(0, -2))).view_as(activation)  # (B*T, hidden): BatchNorm over all rows


class MLPInputSynthesizer(InputSynthesizer):
    """A perceptron from the model's flattened first input to a stage's input. arXiv:1608.05343, section 3.3.

    Args:
        input_shape: of the model's first input, without batch.
        shape: of the activation to predict, without batch.
        hidden: width of the one hidden layer.
    """

    def __init__(self, input_shape: tuple[int, ...], shape: tuple[int, ...], *, hidden: int = 256) -> None:
        super().__init__()
        first, up = nn.Linear(math.prod(input_shape), hidden), nn.Linear(hidden, math.prod(shape))
        self.net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), up, nn.Unflatten(1, shape))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The predicted activation (B, *shape)."""
        return self.net(inputs[0])
