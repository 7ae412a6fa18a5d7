import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from synthgrad.models import Recurrent

sizes = st.integers(1, 5)


@given(core=st.sampled_from(["lstm", "gru", "rnn"]), layers=st.integers(1, 3), batch=sizes, early=sizes, late=sizes)
def test_two_windows_are_one_stretch(core: str, layers: int, batch: int, early: int, late: int) -> None:
    model = Recurrent(3, 2, units=4, layers=layers, core=core)
    x = torch.randn(batch, early + late, 3)
    whole, state = model(x)
    first, between = model(x[:, :early])
    second, behind = model(x[:, early:], between)
    assert whole.shape == (batch, early + late, 2)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(behind, state)
    for part in state if core == "lstm" else (state,):
        assert part.shape == (layers, batch, 4)


def test_equals_the_same_network_written_out() -> None:
    model, x = Recurrent(3, 2, units=4), torch.randn(5, 6, 3)
    cell = nn.LSTMCell(3, 4)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.core.state_dict().items()})
    h, c = torch.zeros(5, 4), torch.zeros(5, 4)
    for step in range(6):
        h, c = cell(x[:, step], (h, c))
    torch.testing.assert_close(model(x)[0][:, -1], model.output(h))


def test_tokens_are_looked_up() -> None:
    model = Recurrent(7, 7, units=4, tokens=True)
    tokens = torch.randint(0, 7, (2, 5))
    other = tokens.clone()
    other[0, 3] = (other[0, 3] + 1) % 7
    ours, theirs = model(tokens)[0], model(other)[0]
    assert ours.shape == (2, 5, 7)
    assert torch.equal(ours[:, :3], theirs[:, :3]) and not torch.equal(ours[0, 3:], theirs[0, 3:])


def test_impossible_sizes_and_cores() -> None:
    with pytest.raises(ValueError, match="Recurrent: units is 0, expected 1 or more"):
        Recurrent(3, 2, units=0)
    with pytest.raises(ValueError, match="core is 'ltsm', expected one of lstm, gru, rnn"):
        Recurrent(3, 2, core="ltsm")
