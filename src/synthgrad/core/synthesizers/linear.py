"""The linear synthesizer: the paper's best on fully connected nets, given labels."""

from torch import Tensor, nn

from synthgrad.core.batch import Context
from synthgrad.core.synthesizers.contract import LabelBias, Synthesizer, as_rows, row_features, start_at_zero

__all__ = ["LinearSynthesizer"]


class LinearSynthesizer(Synthesizer):
    """g = W h + V[y] + b: a linear map of activation and one-hot label, joined. arXiv:1608.05343, section 3.3.

    It is linear in h given y, so it believes in a loss that is quadratic in h (Czarnecki et al. 2017,
    arXiv:1703.00522, section 4). W, V and b start at zero (with a rank, one factor of W does).

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W), taken flat.
        classes: the number of classes, if it sees the labels: (B,) or, for each token, (B, T).
        rank: W as the product of D x rank and rank x D; full if not given.
    """

    def __init__(self, shape: tuple[int, ...], *, classes: int | None = None, rank: int | None = None) -> None:
        super().__init__()
        features = row_features(shape)
        self.down = nn.Linear(features, rank, bias=False) if rank else nn.Identity()
        self.up = nn.Linear(rank or features, features)
        self.label = LabelBias(classes, features)
        self.classes, self.needs = classes, self.label.needs
        start_at_zero(self.up, self.label)

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape."""
        rows = as_rows(activation)
        return self.label(self.up(self.down(rows)), context).view_as(activation)
