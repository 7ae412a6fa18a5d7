"""Fixed feedback: the error at the model's output goes straight to every stage, and nothing is learned on the way."""

import torch
from torch import Tensor

from synthgrad.core.batch import Context
from synthgrad.core.errors import ContextError
from synthgrad.core.synthesizers.contract import Synthesizer, row_features

__all__ = ["FeedbackAlignmentSynthesizer", "KickbackSynthesizer"]


class FeedbackAlignmentSynthesizer(Synthesizer):
    """d = e A: direct feedback alignment, with A fixed and random. Noekland 2016, arXiv:1609.01596, section 2.

    e is the gradient of the summed loss with respect to the model's output, so it waits for all later stages' forward
    passes; see the schedule `error_broadcast`. A is drawn as a linear output layer draws its weight, uniformly up to
    1/sqrt(features), as in the author's code: back-propagation through that layer would at first give as much.

    An error for each example, (B, O), reaches all of a map taken flat, and each token whole. An error for each token,
    (B, T, O), reaches its own.

    Args:
        shape: of the activation, without batch: (D,), (T, D) with a row for each token, or (C, H, W), taken flat.
        outputs: features of a row of the model's output, O. A holds `outputs` times the row's features.
    """

    needs = frozenset({"error"})
    feedback = frozenset()
    matrix: Tensor  # (O, D)

    def __init__(self, shape: tuple[int, ...], *, outputs: int) -> None:
        super().__init__()
        features = row_features(shape)
        bound = features**-0.5
        self.register_buffer("matrix", torch.empty(outputs, features).uniform_(-bound, bound))

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape. Raises `ContextError` where no error fits."""
        remedy = "give outputs= as many as a row of the model's output has"
        rows = _error(activation, context, len(self.matrix), type(self).__name__, remedy) @ self.matrix
        if rows.dim() < activation.dim() == 3:
            return rows.unsqueeze(1).expand_as(activation)  # (B, D) to each token
        return rows.view_as(activation)


class KickbackSynthesizer(Synthesizer):
    """d = e 1^T: every unit gets the output's error as it is. Kickback, as Czarnecki et al. 2017 reduce it.

    In the unified view of arXiv:1703.00522 it is direct feedback alignment with ones for A. In the paper itself,
    Balduzzi et al. 2015, arXiv:1411.6191, a unit's influence on the active units of the next layer stands for the one;
    a synthesizer does not see that layer. So the sign is right where that influence is positive, which the paper asks
    of its ("coherent") networks as well, and the size is not.

    It is for one output, as in the paper, which is on regression. Of more, the errors would have to be added up; and
    those of softmax with cross-entropy add up to nothing.

    Args:
        shape: of the activation; not used.
    """

    needs = frozenset({"error"})
    feedback = frozenset()

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape. Raises `ContextError` where no error fits."""
        remedy = "Kickback is for one output; use FeedbackAlignmentSynthesizer"
        error = _error(activation, context, 1, type(self).__name__, remedy)
        return error[(...,) + (None,) * (activation.dim() - error.dim())].expand_as(activation)


def _error(activation: Tensor, context: Context, outputs: int, who: str, remedy: str) -> Tensor:
    """The output's error, (B, O) or, for tokens, (B, T, O), in the activation's type.

    Raises:
        ContextError: there is none, or it is of another shape.
    """
    error = context.error
    if error is None:
        raise ContextError(f"{who} needs the output's error, got none; only S receives it: use error_broadcast()")
    error = error.unsqueeze(1) if error.dim() == 1 else error  # an output (B,)
    rows = activation.shape[: 2 if activation.dim() == 3 else 1]
    if error.shape[-1:] != (outputs,) or error.shape[:-1] not in (rows[:1], rows):
        raise ContextError(
            f"{who}: got an error of shape {tuple(error.shape)} of the output, for an activation of "
            f"{tuple(activation.shape)}, expected {outputs} features for each example or for each token; {remedy}"
        )
    return error.to(activation.dtype)
