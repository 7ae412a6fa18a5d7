import hashlib
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.data import Split, digits, load_digits

# Of the bytes of the arrays, taken from the source when the file was made.
SHA256 = {
    "images": "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3",
    "labels": "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
}
PER_CLASS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]

some_folds = st.integers(2, min(PER_CLASS))
some_seeds = st.integers(0, 2**32 - 1)


def rows(*parts: tuple[Tensor, Tensor]) -> list[tuple[float, ...]]:
    """Images with their labels as sorted rows: equal lists mean equal collections, whatever the order."""
    joined = torch.cat([torch.cat([x, y.float().unsqueeze(1)], dim=1) for x, y in parts])  # (N, 65)
    return sorted(map(tuple, joined.tolist()))


def parts_of(split: Split) -> list[tuple[Tensor, Tensor]]:
    return [(split.train_x, split.train_y), (split.valid_x, split.valid_y), (split.test_x, split.test_y)]


def class_counts(labels: Tensor) -> Tensor:
    return labels.bincount(minlength=10)  # (10,)


def test_shipped_arrays_are_those_of_the_source() -> None:
    with resources.files("synthgrad.data").joinpath("digits.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    assert {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()} == SHA256
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    assert arrays["images"].shape == (1797, 8, 8)


def test_load_digits_scales_and_counts() -> None:
    images, labels = load_digits()
    assert images.shape == (1797, 64) and images.dtype == torch.float32
    assert labels.shape == (1797,) and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1
    assert torch.equal(images * 16, (images * 16).round())  # sixteenths are exact in float32
    assert class_counts(labels).tolist() == PER_CLASS


def test_no_image_occurs_twice() -> None:
    # What makes comparing rows, below, a test of disjointness.
    everything = rows(load_digits())
    assert len(set(everything)) == len(everything)


def test_default_split_sizes() -> None:
    split = digits(fold=0)
    assert [len(y) for _, y in parts_of(split)] == [1293, 144, 360]
    assert {x.dtype for x, _ in parts_of(split)} == {torch.float32}
    assert {y.dtype for _, y in parts_of(split)} == {torch.int64}


@given(folds=some_folds, fold=st.integers(0, 400), seed=some_seeds)
def test_parts_are_disjoint_and_hold_everything(folds: int, fold: int, seed: int) -> None:
    # Sorted lists of distinct rows are equal only if nothing is missing and nothing occurs twice.
    assert rows(*parts_of(digits(fold, folds, seed))) == rows(load_digits())


@given(folds=st.integers(2, 12), seed=some_seeds)
def test_folds_test_each_image_once(folds: int, seed: int) -> None:
    splits = [digits(fold, folds, seed) for fold in range(folds)]
    assert rows(*[(split.test_x, split.test_y) for split in splits]) == rows(load_digits())
    sizes = [len(split.test_y) for split in splits]
    assert max(sizes) - min(sizes) <= 1


@given(folds=some_folds, fold=st.integers(0, 400), seed=some_seeds)
def test_every_part_is_stratified(folds: int, fold: int, seed: int) -> None:
    split = digits(fold, folds, seed)
    test, valid = class_counts(split.test_y), class_counts(split.valid_y)
    expected_test = torch.tensor(PER_CLASS) / folds
    expected_valid = (torch.tensor(PER_CLASS) - test) / 10
    # Dealing gives each class its share, rounded up or down.
    assert ((test - expected_test).abs() < 1).all()
    assert ((valid - expected_valid).abs() < 1).all()


@given(folds=some_folds, fold=st.integers(0, 400), seed=some_seeds)
def test_same_arguments_give_same_split(folds: int, fold: int, seed: int) -> None:
    torch.manual_seed(seed)  # the global generator has no say
    first = parts_of(digits(fold, folds, seed))
    torch.manual_seed(seed + 1)
    for (x, y), (again_x, again_y) in zip(first, parts_of(digits(fold, folds, seed)), strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    digits(fold=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_another_split() -> None:
    assert rows((digits(0, seed=0).test_x, digits(0, seed=0).test_y)) != rows(
        (digits(0, seed=1).test_x, digits(0, seed=1).test_y)
    )


def test_fold_counts_on_from_the_start() -> None:
    assert torch.equal(digits(fold=7).test_x, digits(fold=2).test_x)


def test_parts_keep_the_mixed_order_of_the_data_set() -> None:
    # Class after class, batches of one class would come out of a loader that forgets to shuffle.
    images, _ = load_digits()
    position = {tuple(image): index for index, image in enumerate(images.tolist())}
    for x, _ in parts_of(digits(fold=3)):
        positions = [position[tuple(image)] for image in x.tolist()]
        assert positions == sorted(positions)


@pytest.mark.parametrize("folds", [-1, 0, 1, min(PER_CLASS) + 1])
def test_impossible_number_of_folds(folds: int) -> None:
    with pytest.raises(ValueError, match=rf"folds is {folds}, expected 2 to 174 .* 5 is usual"):
        digits(fold=0, folds=folds)


def test_negative_fold() -> None:
    with pytest.raises(ValueError, match="fold is -1, expected 0 or more; count the folds from 0 to 4"):
        digits(fold=-1)
