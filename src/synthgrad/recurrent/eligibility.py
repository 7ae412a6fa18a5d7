"""The eligibility trace of a linear synthesizer: how its earlier predictions bear on the state as it now is.

    e_t = sum over steps r <= t of  decay^(t-r) dh_t/dh_r  x  [h_r; 1]

Legend: B sequences, S features of the whole state h_t.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from synthgrad.recurrent.jacobian import Jacobian

__all__ = ["Trace"]


class Way(NamedTuple):
    """How a state came from the one before.

    Attributes:
        jacobian: of that step.
        factors: (B, 1, 1), decay; 0 where the one has nothing to do with the other.
    """

    jacobian: Jacobian
    factors: Tensor

    def pulled(self, rows: Tensor) -> Tensor:
        """Rows (B, N, S) back over that step."""
        return self.jacobian.pulled(rows * self.factors)


class Trace:
    """The trace of B sequences, of which never more is asked than delta e, summed over sequences.

    The derivative of output j with respect to its weights is [h; 1], and zero with respect to those of the others: so
    e, (S, S, S + 1) for each sequence, is a sum of products, one for each step. To move e with every step takes S^4
    multiplications. Here the last steps, S at most, are kept apart, as what their Jacobians are made of, and delta is
    taken back through them, one vector, at S^2 a step; e itself is moved once in S steps. That is the same sum.

    Args:
        decay: gamma times lambda; with 0 nothing is kept.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self._full: Tensor | None = None  # e as it was before the steps below, (B, S, S (S + 1))
        self._ways: list[Way] = []  # between the states below, and from the full trace to the first of them
        self._seen: list[Tensor] = []  # [h_r; 1], (B, S + 1)

    def see(self, state: Tensor) -> None:
        """Add a step, at which the state was (B, S)."""
        if len(self._seen) == state.shape[1]:
            self._add_up()
        self._seen.append(torch.cat([state, state.new_ones(len(state), 1)], 1))

    def move(self, jacobian: Jacobian, links: Tensor) -> None:
        """Go on to the next state; `links`, (B,), is 0 where that has nothing to do with the one before, else 1."""
        if self.decay and self._seen:
            self._ways.append(Way(jacobian, (links * self.decay).view(-1, 1, 1)))
        else:
            self.clear()

    def reached(self, delta: Tensor) -> Tensor:
        """Delta e, summed over sequences, (S, S + 1): for delta (B, S) of the state that was seen last."""
        back = [delta.unsqueeze(1)]  # (B, 1, S), of the last state first
        for way in reversed(self._ways):
            back.append(way.pulled(back[-1]))
        errors = torch.cat(back[: len(self._seen)]).squeeze(1)  # (R B, S)
        reached = errors.t() @ torch.cat(self._seen[::-1])
        if self._full is None:
            return reached
        return reached + (back[-1].flatten() @ self._full.flatten(0, 1)).view_as(reached)

    def _add_up(self) -> None:
        """Make the steps that are kept apart, the last of which has its way from the full trace to it, the full one."""
        newest, features = self._seen[-1], self._seen[-1].shape[1] - 1
        *ways, last = self._ways
        unit = torch.eye(features, dtype=newest.dtype, device=newest.device)
        back = [unit.expand(len(newest), -1, -1)]  # (B, S, S), of the last state first
        for way in reversed(ways):
            back.append(way.pulled(back[-1]))
        products = torch.stack(back[: len(self._seen)], 1).flatten(2)  # (B, R, S S)
        seen = torch.stack(self._seen[::-1], 1)  # (B, R, S + 1)
        full = torch.bmm(products.transpose(1, 2), seen).view(len(newest), features, -1)  # (B, S, S (S + 1))
        if self._full is not None:
            full.baddbmm_(back[-1], self._full)
        self._full, self._ways, self._seen = full, [last], []
