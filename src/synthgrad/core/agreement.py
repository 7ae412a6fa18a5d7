"""How well a synthetic gradient agrees with another one.

Agreement compares it with the target that its synthesizer regresses to, and is free; alignment compares it with the
true gradient, and costs a full pass (see `probe`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Agreement", "Alignment", "agree"]


@dataclass(frozen=True)
class Agreement:
    """Two gradients compared; both figures are scalars on the gradients' device, so reading one is what waits.

    Attributes:
        cosine: the mean over rows of the cosine; 0 where a row of either is zero.
        norm_ratio: norm of the first over norm of the second, all rows together; 0 where the second is zero.
    """

    cosine: Tensor
    norm_ratio: Tensor

    def as_dict(self) -> dict[str, float]:
        """The figures as plain numbers."""
        return {"cosine": float(self.cosine), "norm_ratio": float(self.norm_ratio)}


@dataclass(frozen=True)
class Alignment:
    """Synthetic against true gradient at one cut.

    Attributes:
        rows: at the cut, per row.
        parameters: of the gradient that each gives the parameters of the stage below the cut, all in one vector.
            Per-row agreement is not learning: this one ranks signals better.
    """

    rows: Agreement
    parameters: Agreement

    def as_dict(self) -> dict[str, float]:
        """The figures as plain numbers."""
        rows, parameters = self.rows.as_dict(), self.parameters.as_dict()
        return rows | {f"parameter_{name}": value for name, value in parameters.items()}


@torch.no_grad()
def agree(synthetic_grad: Tensor, target_grad: Tensor) -> Agreement:
    """Compare two gradients of equal shape (B, ...), row by row.

    >>> float(agree(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])).norm_ratio)
    0.5
    """
    ours, theirs = (gradient.flatten(1) for gradient in (synthetic_grad, target_grad))  # (B, D)
    tiny = torch.finfo(ours.dtype).tiny
    our_norms, their_norms = (torch.linalg.vector_norm(rows, dim=1) for rows in (ours, theirs))  # (B,)
    products = torch.linalg.vecdot(ours, theirs)  # (B,)
    cosine = (products / our_norms.clamp_min(tiny) / their_norms.clamp_min(tiny)).mean()
    norm, other = torch.linalg.vector_norm(our_norms), torch.linalg.vector_norm(their_norms)
    return Agreement(cosine, torch.where(other > 0, norm / other.clamp_min(tiny), torch.zeros_like(norm)))
