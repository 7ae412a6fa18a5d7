"""The stream of digits: its targets counted from the images, and nonsense refused."""

import pytest
import torch

from synthgrad.data import DataError, DigitStream, digits

LABELS = torch.arange(10)
IMAGES = LABELS.float().unsqueeze(1)  # an image that shows its label


@pytest.mark.parametrize("period", [1, 2, 3])
def test_both_targets_are_counts_of_what_was_shown(period: int) -> None:
    stream, shown = DigitStream(IMAGES, LABELS, period=period, lanes=4, seed=0), []
    for number in range(1, 4 * period + 1):
        images, odd, threes = next(stream)
        assert images.shape == (period, 4, 1)
        shown.append(images.squeeze(2))
        assert torch.equal(odd, (shown[-1] % 2 == 1).sum(0))
        assert (threes is not None) == (number % period == 0)
        if threes is not None:
            assert torch.equal(threes, (torch.cat(shown[-period:]) == 3).sum(0))


def test_a_seed_says_all_and_lanes_differ() -> None:
    split = digits(fold=0)
    one, same, other = (
        next(DigitStream(split.train_x, split.train_y, period=5, lanes=3, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.images, same.images) and not torch.equal(one.images, other.images)
    assert not torch.equal(one.images[:, 0], one.images[:, 1])


@pytest.mark.parametrize(
    ("images", "labels", "changes", "words"),
    [
        (IMAGES[:0], LABELS[:0], {}, "at least one"),
        (IMAGES, LABELS[:9], {}, r"labels of shape \(9,\)"),
        (IMAGES, IMAGES, {}, "one label"),
        (IMAGES, LABELS, {"period": 0}, "period=0"),
        (IMAGES, LABELS, {"lanes": 0}, "lanes=0"),
    ],
)
def test_what_makes_no_stream_is_refused(images: torch.Tensor, labels: torch.Tensor, changes: dict, words: str) -> None:
    with pytest.raises(DataError, match=words):
        DigitStream(images, labels, **({"period": 3, "lanes": 2, "seed": 0} | changes))
