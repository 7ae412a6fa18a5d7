"""BP(lambda) unit by unit, as one writes it down first: to compare speed with, and numbers.

Legend: B sequences, S features of the whole state.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from synthgrad.core.boundary import back_propagate, cut, gradient_at

__all__ = ["PerUnit"]


class PerUnit:
    """A cell that learns by BP(lambda), with a loop over the units of its state where `bp_lambda` has none.

    Each unit's row of the Jacobian comes from autograd, and each unit has a trace of its own: (B, S, S + 1), how its
    value depends on the synthesizer's weights, through the synthetic gradients that it has learned from.

    Args:
        cell: `nn.RNNCell` or `nn.LSTMCell`.
        synthesizer: S to S.
        loss: a mean over sequences.
        core: optimizer of the cell.
        optimizer: of the synthesizer.
        lambda_: see `bp_lambda`.
        gamma: likewise.
        scale: likewise.
    """

    def __init__(
        self,
        cell: nn.RNNCellBase,
        synthesizer: nn.Linear,
        loss: Callable[[Tensor, Tensor], Tensor],
        core: torch.optim.Optimizer,
        optimizer: torch.optim.Optimizer,
        *,
        lambda_: float,
        gamma: float,
        scale: float,
    ) -> None:
        self.cell, self.synthesizer, self.loss, self.core, self.optimizer = cell, synthesizer, loss, core, optimizer
        self.lambda_, self.gamma, self.scale = lambda_, gamma, scale
        self.reset()

    def reset(self) -> None:
        """Begin new sequences."""
        self.state: Tensor | None = None
        self.jacobian: list[Tensor] | None = None
        self.traces: list[Tensor] | None = None

    def step(self, x: Tensor, target: Tensor) -> None:
        """Learn from one step, x (B, D)."""
        count = len(x)
        before = None if self.state is None else cut(self.state)
        after = self._run(x, before)
        loss = self.loss(after[:, : self.cell.hidden_size], target)
        with torch.no_grad():
            ahead = self.synthesizer(after)
        grad = gradient_at(after, loss, keep=True, differentiable=False) * count
        jacobian = None if before is None else [_row(after, before, unit) for unit in range(after.shape[1])]
        self.core.zero_grad()
        back_propagate(after, (grad + self.scale * ahead) / count)
        if before is not None and jacobian is not None:
            pulled = grad + self.gamma * ahead
            known = sum(pulled[:, unit, None] * row for unit, row in enumerate(jacobian))
            self._teach(before.detach(), known - self.synthesizer(before).detach())
        self.core.step()
        self.state, self.jacobian = after.detach(), jacobian

    def _run(self, x: Tensor, before: Tensor | None) -> Tensor:
        if isinstance(self.cell, nn.LSTMCell):
            state = None if before is None else tuple(before.chunk(2, 1))
            return torch.cat(self.cell(x, state), 1)
        return self.cell(x, before)

    def _teach(self, state: Tensor, delta: Tensor) -> None:
        rows, units = state.shape
        seen = torch.cat([state, state.new_ones(rows, 1)], 1)  # (B, S + 1)
        traces = []
        for unit in range(units):
            trace = state.new_zeros(rows, units, units + 1)
            if self.traces is not None and self.jacobian is not None:
                for other in range(units):
                    way = self.gamma * self.lambda_ * self.jacobian[unit][:, other]
                    trace += way[:, None, None] * self.traces[other]
            trace[:, unit] += seen
            traces.append(trace)
        weighed = [delta[:, unit, None, None] * trace for unit, trace in enumerate(traces)]
        reached = torch.stack(weighed).sum((0, 1))
        self.synthesizer.weight.grad = -2 / rows * reached[:, :-1]
        self.synthesizer.bias.grad = -2 / rows * reached[:, -1]
        self.optimizer.step()
        self.traces = traces


def _row(after: Tensor, before: Tensor, unit: int) -> Tensor:
    """How one unit of the state depends on the state before, (B, S)."""
    return gradient_at(before, after[:, unit].sum(), keep=True, differentiable=False)
