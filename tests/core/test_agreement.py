import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.core.agreement import Alignment, agree


def by_hand(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Plain Python, in double precision."""
    cosines, norm, other = [], 0.0, 0.0
    for a, b in zip(ours.flatten(1).double().tolist(), theirs.flatten(1).double().tolist(), strict=True):
        lengths = [math.sqrt(sum(value**2 for value in row)) for row in (a, b)]
        product = sum(x * y for x, y in zip(a, b, strict=True))
        cosines.append(product / lengths[0] / lengths[1] if all(lengths) else 0.0)
        norm, other = norm + lengths[0] ** 2, other + lengths[1] ** 2
    return {"cosine": sum(cosines) / len(cosines), "norm_ratio": math.sqrt(norm / other) if other else 0.0}


@given(
    shape=st.sampled_from([(1, 1), (4, 3), (3, 2, 5), (2, 3, 2, 2)]),
    zero_row=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_figures_are_those_computed_by_hand(
    shape: tuple[int, ...], zero_row: bool, dtype: torch.dtype, scale: float
) -> None:
    ours, theirs = torch.randn(shape, dtype=dtype) * scale, torch.randn(shape, dtype=dtype)
    if zero_row:
        ours[0] = 0
    got = agree(ours, theirs).as_dict()
    expected = by_hand(ours, theirs)
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)  # float32, sums of up to 12 products


@given(factor=st.sampled_from([0.25, 2.0, 64.0]), rows=st.integers(1, 5))
def test_only_the_norm_ratio_sees_a_scale(factor: float, rows: int) -> None:
    gradient = torch.randn(rows, 7, dtype=torch.float64)
    figures = agree(gradient * factor, gradient).as_dict()
    assert figures == pytest.approx({"cosine": 1.0, "norm_ratio": factor}, rel=1e-12)
    assert agree(-gradient, gradient).as_dict() == pytest.approx({"cosine": -1.0, "norm_ratio": 1.0}, rel=1e-12)


def test_the_cosine_is_per_row_and_the_norms_are_of_all_rows_together() -> None:
    ours, theirs = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    figures = agree(ours, theirs)
    assert float(figures.cosine) == 0.5  # (1 + 0) / 2
    assert float(figures.norm_ratio) == pytest.approx(5 / math.sqrt(5), rel=1e-6)


def test_zeros_give_zeros_and_never_nan() -> None:
    zeros, some = torch.zeros(2, 3), torch.randn(2, 3)
    assert agree(zeros, some).as_dict() == {"cosine": 0.0, "norm_ratio": 0.0}
    assert agree(some, zeros).as_dict() == {"cosine": 0.0, "norm_ratio": 0.0}
    assert agree(zeros, zeros).as_dict() == {"cosine": 0.0, "norm_ratio": 0.0}


def test_figures_have_no_graph() -> None:
    found = agree(torch.randn(2, 3, requires_grad=True), torch.randn(2, 3))
    assert not found.cosine.requires_grad and not found.norm_ratio.requires_grad


def test_an_alignment_names_its_four_figures() -> None:
    rows = agree(torch.tensor([[1.0, 3**0.5]]), torch.tensor([[1.0, 0.0]]))
    parameters = agree(torch.tensor([[1.0, 15**0.5]]), torch.tensor([[1.0, 0.0]]))
    expected = {"cosine": 0.5, "norm_ratio": 2.0, "parameter_cosine": 0.25, "parameter_norm_ratio": 4.0}
    assert Alignment(rows, parameters).as_dict() == pytest.approx(expected)
