"""The Jacobian of one step of a recurrent net, in closed form: what a gradient behind the step is before it.

Legend: B sequences, H units, S features of the whole state (H, or 2 H of an LSTM: h and c), N rows for each sequence.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad.core.errors import SynthgradError
from synthgrad.recurrent.state import State

__all__ = ["Jacobian", "expect_known", "jacobian_of"]


@dataclass(frozen=True)
class Jacobian:
    """dh_t / dh_{t-1}, (S, S) for each sequence: never written out, as it is weights for all, and slopes for each.

    Attributes:
        weight: (G H, H), as it was at this step; G gates, 1 of an RNN, 4 of an LSTM.
        slopes: (B, 1, G H), of each gate: of the state behind the step (an LSTM's c; h for its output gate).
        keep: (B, 1, H), what an LSTM's cell keeps of itself; None of an RNN.
        show: (B, 1, H), what of a change of the cell is seen in h.
    """

    weight: Tensor
    slopes: Tensor
    keep: Tensor | None = None
    show: Tensor | None = None

    def pulled(self, rows: Tensor) -> Tensor:
        """Rows (B, N, S) times J."""
        if self.keep is None or self.show is None:
            return (rows * self.slopes) @ self.weight
        output, cell = rows.chunk(2, 2)
        cell = torch.addcmul(cell, output, self.show)
        hidden = (torch.cat([cell, cell, cell, output], 2) * self.slopes) @ self.weight
        return torch.cat([hidden, cell * self.keep], 2)


@torch.no_grad()
def jacobian_of(module: nn.Module, inputs: Tensor, before: State, after: State) -> Jacobian:
    """The Jacobian of the step that has taken the state `before` to the state `after`.

    Args:
        module: one that `expect_known` lets pass.
        inputs: of this step, with or without a dimension of time.
        before: the module's own kind of state.
        after: likewise.
    """
    suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
    weight = getattr(module, f"weight_hh{suffix}").clone()  # the optimizer is about to change it
    if not isinstance(module, nn.LSTM | nn.LSTMCell):
        reached = _rows(after)
        slopes = 1 - reached.square() if module.nonlinearity == "tanh" else (reached > 0).to(reached)
        return Jacobian(weight, slopes.unsqueeze(1))
    hidden, kept = map(_rows, before)
    biases = [getattr(module, f"{name}{suffix}") if module.bias else None for name in ("bias_ih", "bias_hh")]
    gates = functional.linear(_rows(inputs), getattr(module, f"weight_ih{suffix}"), biases[0])
    gates = (gates + functional.linear(hidden, weight, biases[1])).chunk(4, 1)  # torch's order: i, f, g, o
    takes, keep, gives = (torch.sigmoid(gates[place]) for place in (0, 1, 3))
    new, shown = torch.tanh(gates[2]), torch.tanh(_rows(after[1]))
    slopes = [
        new * takes * (1 - takes),
        kept * keep * (1 - keep),
        takes * (1 - new.square()),
        shown * gives * (1 - gives),
    ]
    show = gives * (1 - shown.square())
    return Jacobian(weight, torch.cat(slopes, 1).unsqueeze(1), keep.unsqueeze(1), show.unsqueeze(1))


def expect_known(module: nn.Module) -> None:
    """Raise `SynthgradError` if the Jacobian of the module's step is not known here."""
    known = isinstance(module, nn.RNN | nn.RNNCell | nn.LSTM | nn.LSTMCell)
    if isinstance(module, nn.RNNBase):
        known = known and module.num_layers == 1 and not module.bidirectional and not module.proj_size
    if not known:
        raise SynthgradError(
            f"bp_lambda: got {module}, expected an nn.RNN or nn.LSTM of one layer and one direction, or one of their "
            f"cells: of those the Jacobian of a step is known; TruncatedBPTT takes every net"
        )


def _rows(values: Tensor) -> Tensor:
    """One step, (1, B, ...), (B, 1, ...) or (B, ...), as (B, ...)."""
    return values.flatten(0, -2)
