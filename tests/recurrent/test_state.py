"""States: how they are laid out, taken as rows, and begun anew."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import synthgrad as sg
from synthgrad.recurrent.state import Layout


@given(layers=st.integers(1, 3), rows=st.integers(1, 4), units=st.integers(1, 5))
def test_a_row_holds_all_that_belongs_to_a_sequence(layers: int, rows: int, units: int) -> None:
    state = torch.randn(layers, rows, units), torch.randn(layers, rows, 2 * units)
    layout = Layout.of(state)
    got = layout.rows(state)
    assert got.shape == (rows, layout.features) == (rows, 3 * layers * units)
    for row in range(rows):
        assert torch.equal(got[row], torch.cat([state[0][:, row].flatten(), state[1][:, row].flatten()]))


def test_rows_keep_their_graph_and_leave_out_what_has_no_gradient() -> None:
    state = {"steps": torch.zeros(4, dtype=torch.int64), "h": torch.randn(4, 3, requires_grad=True)}
    rows = Layout.of(state).rows(state)
    assert rows.shape == (4, 3) and rows.requires_grad
    rows.sum().backward()
    assert state["h"].grad is not None and state["h"].grad.eq(1).all()


@pytest.mark.parametrize(("shape", "given_dim", "found"), [((2, 4, 3), None, 1), ((4, 3), None, 0), ((4, 2, 3), 0, 0)])
def test_the_sequences_lie_where_torchs_nets_have_them_unless_told(shape: Any, given_dim: Any, found: int) -> None:
    state = torch.zeros(shape)
    layout = Layout.of(state, given_dim)
    assert layout.batch_dim == found and layout.count(state) == 4


@pytest.mark.parametrize("initial", [None, lambda rows: (torch.full((2, rows, 3), 7.0), torch.arange(rows))])
def test_ended_rows_begin_anew_and_the_others_go_on(initial: Any) -> None:
    state = torch.randn(2, 4, 3), torch.ones(4, dtype=torch.int64)
    layout = Layout.of((state[0], state[1].view(1, 4, 1)), 1)
    state = state[0], state[1].view(1, 4, 1)
    begin = None if initial is None else lambda rows: (initial(rows)[0], initial(rows)[1].view(1, rows, 1))
    ends = torch.tensor([False, True, False, True])
    hidden, steps = layout.restarted(state, ends, begin)
    assert (
        torch.equal(hidden[:, ~ends], state[0][:, ~ends]) and hidden[:, ends].eq(0.0 if initial is None else 7.0).all()
    )
    assert steps.flatten().tolist() == ([1, 0, 1, 0] if initial is None else [1, 1, 1, 3])


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(1, 4, 3),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, 2)),
        (torch.zeros(1, 4, 3), torch.zeros(1, 4, 3, dtype=torch.float64)),
        (torch.zeros(1, 4, 3), torch.zeros(4)),
        [torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)],
        (torch.zeros(1, 4, 3), None),
        None,
    ],
)
def test_a_state_laid_out_otherwise_is_refused(other: Any) -> None:
    layout = Layout.of((torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)))
    layout.check((torch.ones(1, 9, 3), torch.ones(1, 9, 3)))  # of other sequences, but so laid out
    with pytest.raises(sg.StateError, match=r"expected float32\[1, 3\], float32\[1, 3\] for each sequence as before"):
        layout.check(other)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (None, "expected a tree of tensors"),
        ((), "expected a tree of tensors"),
        ((torch.zeros(4, 3), 1), "expected a tree of tensors"),
        (torch.zeros(4, 3, dtype=torch.int64), "nothing here has a gradient"),
        ((torch.zeros(4, 3), torch.zeros(5, 3)), "as many sequences in each.*batch_dim="),
        (torch.zeros(()), "sequences in dimension 0"),
    ],
)
def test_what_is_no_state_is_refused(state: Any, words: str) -> None:
    with pytest.raises(sg.StateError, match=words):
        Layout.of(state)
