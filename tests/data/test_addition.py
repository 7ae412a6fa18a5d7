import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.data import DataError, Split, addition

some_seeds = st.integers(0, 2**32 - 1)


def numbers(bits: Tensor) -> list[int]:
    """The integer that each row writes, worked out as text."""
    return [int("".join(str(int(bit)) for bit in reversed(row)), 2) for row in bits.tolist()]


def parts_of(split: Split) -> list[tuple[Tensor, Tensor]]:
    return [(split.train_x, split.train_y), (split.valid_x, split.valid_y), (split.test_x, split.test_y)]


def pairs(x: Tensor) -> list[tuple[int, int]]:
    bits = x.shape[1] // 2
    return list(zip(numbers(x[:, :bits]), numbers(x[:, bits:]), strict=True))


def all_pairs(split: Split) -> list[tuple[int, int]]:
    return [pair for x, _ in parts_of(split) for pair in pairs(x)]


@given(bits=st.integers(2, 31), seed=some_seeds)
def test_every_target_is_the_sum(bits: int, seed: int) -> None:
    split = addition(bits, examples=200, seed=seed)
    for x, y in parts_of(split):
        assert x.dtype == y.dtype == torch.float32
        assert x.shape[1] == 2 * bits and y.shape[1] == bits + 1 == split.classes
        assert set(torch.cat([x, y], dim=1).unique().tolist()) <= {0.0, 1.0}
        assert [a + b for a, b in pairs(x)] == numbers(y)


def test_the_default_holds_every_pair_of_bytes_once() -> None:
    split = addition()
    assert [len(y) for _, y in parts_of(split)] == [52_430, 6_553, 6_553]
    assert sorted(all_pairs(split)) == [(a, b) for a in range(256) for b in range(256)]
    assert all([a + b for a, b in pairs(x)] == numbers(y) for x, y in parts_of(split))


@given(bits=st.integers(2, 5), seed=some_seeds)
def test_small_numbers_are_all_there(bits: int, seed: int) -> None:
    split = addition(bits, seed=seed)
    assert sorted(all_pairs(split)) == [(a, b) for a in range(2**bits) for b in range(2**bits)]
    assert len(split.valid_y) == len(split.test_y) == 4**bits // 10 > 0


@given(bits=st.integers(3, 31), examples=st.integers(10, 300), seed=some_seeds)
def test_no_pair_occurs_twice(bits: int, examples: int, seed: int) -> None:
    drawn = all_pairs(addition(bits, examples=examples, seed=seed))
    assert len(drawn) == len(set(drawn)) == min(examples, 4**bits)
    assert all(0 <= a < 2**bits and 0 <= b < 2**bits for a, b in drawn)


def test_large_numbers_are_drawn_evenly() -> None:
    split = addition(20, examples=20_000)
    for x, _ in parts_of(split):
        # Each bit is a fair coin; 5 standard deviations of its mean.
        assert ((x.mean(0) - 0.5).abs() < 5 * 0.5 / len(x) ** 0.5).all()


@given(bits=st.integers(2, 12), seed=some_seeds)
def test_the_seed_fixes_everything(bits: int, seed: int) -> None:
    first, again = addition(bits, examples=50, seed=seed), addition(bits, examples=50, seed=seed)
    for (x, y), (again_x, again_y) in zip(parts_of(first), parts_of(again), strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_another_seed_gives_another_order() -> None:
    assert not torch.equal(addition(4, seed=0).train_x, addition(4, seed=1).train_x)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    addition(4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bits", [-1, 1, 32])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(DataError, match=f"addition: bits is {bits}, expected 2 to 31"):
        addition(bits)


def test_too_few_examples() -> None:
    with pytest.raises(DataError, match="addition: examples is 9, expected 10 or more"):
        addition(examples=9)
