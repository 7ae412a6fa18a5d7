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
    """Two gradients compared row by row; the figures are worked out when somebody looks, and reading one is what waits.

    Attributes:
        products: of each row of the one with the same row of the other, (B,).
        norms: of each row of the one, (B,).
        other_norms: of each row of the other, (B,).
    """

    products: Tensor
    norms: Tensor
    other_norms: Tensor

    @property
    def cosine(self) -> Tensor:
        """The mean over rows of the cosine, a scalar; a row counts as 0 where either is zero."""
        tiny = torch.finfo(self.norms.dtype).tiny
        return (self.products / self.norms.clamp_min(tiny) / self.other_norms.clamp_min(tiny)).mean()

    @property
    def norm_ratio(self) -> Tensor:
        """Norm of the one over norm of the other, all rows together, a scalar; 0 where the other is zero."""
        norm, other = torch.linalg.vector_norm(self.norms), torch.linalg.vector_norm(self.other_norms)
        return torch.where(other > 0, norm / other.clamp_min(torch.finfo(other.dtype).tiny), torch.zeros_like(norm))

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
    norms, other_norms = (torch.linalg.vector_norm(rows, dim=1) for rows in (ours, theirs))
    return Agreement(torch.linalg.vecdot(ours, theirs), norms, other_norms)
