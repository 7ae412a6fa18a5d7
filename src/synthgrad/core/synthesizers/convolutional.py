"""The convolutional synthesizer, for maps of channels."""

from torch import Tensor, nn

from synthgrad.core.batch import Context
from synthgrad.core.errors import ShapeError
from synthgrad.core.synthesizers.contract import LabelBias, Synthesizer, start_at_zero

__all__ = ["ConvSynthesizer"]


class ConvSynthesizer(Synthesizer):
    """Same-padded convolutions that keep the map's size. arXiv:1608.05343, section 3.3.

    The paper's is `layers=2, kernel=5, batch_norm=True`. The label enters as a bias for each channel of the first
    layer, which away from the edges is what the paper's constant one-hot planes give. The output layer starts at
    zero, weight and bias.

    Args:
        shape: (C, H, W) of the activation.
        channels: of the hidden layers; C if not given.
        layers: number of hidden layers.
        kernel: odd size of all kernels.
        classes: the number of classes, if it sees the labels, (B,).
        batch_norm: normalize before each ReLU.

    Raises:
        ShapeError: the activation is no map of channels.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        channels: int | None = None,
        layers: int = 1,
        kernel: int = 5,
        classes: int | None = None,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ShapeError(
                f"ConvSynthesizer: got an activation of shape (B, {', '.join(map(str, shape))}), expected "
                f"(B, C, H, W); use LinearSynthesizer or MLPSynthesizer"
            )
        width = channels or shape[0]
        self.first = nn.Conv2d(shape[0], width, kernel, padding="same")
        self.label = LabelBias(classes, width)
        self.classes, self.needs = classes, self.label.needs
        self.rest = nn.Sequential()
        for layer in range(layers):
            if layer > 0:
                self.rest.append(nn.Conv2d(width, width, kernel, padding="same"))
            if batch_norm:
                self.rest.append(nn.BatchNorm2d(width))
            self.rest.append(nn.ReLU())
        self.up = nn.Conv2d(width, shape[0], kernel, padding="same")
        start_at_zero(self.up)

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient (B, C, H, W)."""
        return self.up(self.rest(self.label(self.first(activation), context)))
