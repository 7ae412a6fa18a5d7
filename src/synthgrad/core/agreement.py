"""How well a synthetic gradient agrees with another one.

Agreement compares it with the target that its synthesizer regresses to, and is free; alignment compares it with the
true gradient, and costs a full pass (see `probe`). The monitor looks at agreement, and warns where there is none.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from synthgrad.core.errors import SynthgradError

__all__ = ["Agreement", "Alignment", "Monitor", "agree"]


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


class Monitor:
    """Warns, once for each cut, that its synthetic gradients have pointed away from their targets for two windows.

    It waits for a device once a window, and holds no more than the row sums of a few steps.

    Args:
        window: over how many lessons of a cut the cosine is averaged; 0: it looks at nothing.

    Raises:
        SynthgradError: a negative window.
    """

    def __init__(self, window: int) -> None:
        if window < 0:
            raise SynthgradError(f"monitor={window}: expected over how many steps to look, or 0 for not at all")
        self.window = window
        self._watches: dict[str, _Watch] = {}

    def see(self, agreement: Mapping[str, Agreement]) -> None:
        """Take note of a step's agreement, by cut; warn with a `UserWarning` when two windows in a row were bad."""
        if not self.window:
            return
        for name, seen in agreement.items():
            watch = self._watches.setdefault(name, _Watch())
            watch.seen.append(seen)
            watch.lessons += 1
            full = watch.lessons == self.window
            if full or len(watch.seen) == TOGETHER:
                watch.add_up()
            if full:
                self._judge(name, watch)

    def _judge(self, name: str, watch: "_Watch") -> None:
        assert watch.total is not None
        before, now = watch.before, float(watch.total) / self.window
        watch.before, watch.total, watch.lessons = now, None, 0
        if before is None or before >= 0 or now >= 0 or watch.warned:
            return
        watch.warned = True
        warnings.warn(
            f"cut {name!r}: synthetic gradients point away from their targets, with a cosine of "
            f"{(before + now) / 2:.2g} in the mean of the last {2 * self.window} lessons, expected above 0; give the "
            f"synthesizer labels, wrap it in Replay, lower the learning rate below the cut, or take another signal, "
            f"say a CriticSynthesizer (monitor=0 looks away)",
            UserWarning,
            stacklevel=4,  # whoever called `step`
        )


TOGETHER = 20  # agreements whose cosine is worked out at once: what takes time is the calls, not the rows


@dataclass
class _Watch:
    """One cut: in this window the sum of the cosines, and agreements not yet in it; the mean of the window before."""

    seen: list[Agreement] = field(default_factory=list)
    total: Tensor | None = None
    lessons: int = 0
    before: float | None = None
    warned: bool = False

    def add_up(self) -> None:
        """Add the mean cosine of all rows at hand, for each lesson; nothing is read."""
        here = self.seen[-1].norms.device
        rows = [torch.cat([getattr(seen, figure.name).to(here) for seen in self.seen]) for figure in fields(Agreement)]
        added = Agreement(*rows).cosine * len(self.seen)
        self.total = added if self.total is None else self.total.to(here) + added
        self.seen = []
