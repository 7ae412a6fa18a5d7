"""A recurrent network that reads one thing at each step, and says one.

Shapes: `B` batch, `T` steps, `D` features of an input, `U` units, `K` outputs.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from synthgrad.models.chain import check_sizes

__all__ = ["CORES", "Recurrent"]

CORES: Mapping[str, Callable[..., nn.RNNBase]] = MappingProxyType({"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN})
"""The kinds of core there are, by name."""


class Recurrent(nn.Module):
    """An LSTM, GRU or plain RNN with a linear read-out at each step; (input, state) -> (output, state).

    The state is the core's own, (h, c) of an LSTM and h of the others, each (layers, B, U); the next window goes on
    from it. Weights are drawn by torch's rules from its global generator: call `torch.manual_seed` before.

    Args:
        inputs: D; or, with `tokens`, how many different ones there are.
        outputs: K.
        units: U of each layer.
        layers: of the core, stacked.
        core: lstm, gru or rnn.
        tokens: the input is tokens, int64 (B, T), each of which is given a learned vector of U features first.

    Raises:
        ValueError: a size below 1, or no such core.

    >>> import torch
    >>> model = Recurrent(10, 8, units=16)
    >>> scores, state = model(torch.zeros(2, 5, 10))
    >>> scores, state = model(torch.zeros(2, 5, 10), state)
    >>> scores.shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self, inputs: int, outputs: int, *, units: int = 128, layers: int = 1, core: str = "lstm", tokens: bool = False
    ) -> None:
        check_sizes("Recurrent", inputs=inputs, outputs=outputs, units=units, layers=layers)
        if core not in CORES:
            raise ValueError(f"Recurrent: core is {core!r}, expected one of {', '.join(CORES)}")
        super().__init__()
        self.embedding = nn.Embedding(inputs, units) if tokens else nn.Identity()
        self.core = CORES[core](units if tokens else inputs, units, layers, batch_first=True)
        self.output = nn.Linear(units, outputs)

    def forward(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Scores (B, T, K) and the state behind the last step, for inputs (B, T, D) or tokens (B, T).

        Args:
            inputs: what is read.
            state: behind the step before; zeros if not given.
        """
        hidden, state = self.core(self.embedding(inputs), state)  # (B, T, U)
        return self.output(hidden), state
