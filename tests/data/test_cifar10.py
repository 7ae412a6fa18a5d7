import os
from pathlib import Path

import pooch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.data import DataError, Split, cifar10

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
NAMES = [*BATCHES, "test_batch.bin"]
PER_BATCH, TEST = 4, 3
TRAIN = 5 * PER_BATCH
FOLDER = "cifar-10-batches-bin"

# As published; written here a second time.
MEANS, STDS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def record(label: int, pixels: bytes) -> bytes:
    assert len(pixels) == 3 * 32 * 32
    return bytes([label]) + pixels


def numbered(number: int) -> bytes:
    """A record whose pixels all tell its number, and whose label does, modulo 10."""
    return record(number % 10, bytes([number]) * 3072)


def records(start: int, stop: int) -> bytes:
    return b"".join(map(numbered, range(start, stop)))


def fill(folder: Path, **changed: bytes) -> Path:
    """Six good files, but for those named, without their ending."""
    contents = [*(records(k, k + PER_BATCH) for k in range(0, TRAIN, PER_BATCH)), records(0, TEST)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(NAMES, contents, strict=True):
        (folder / name).write_bytes(changed.get(Path(name).stem, content))
    return folder


def parts_of(split: Split) -> list[tuple[Tensor, Tensor]]:
    return [(split.train_x, split.train_y), (split.valid_x, split.valid_y), (split.test_x, split.test_y)]


def to_bytes(images: Tensor) -> Tensor:
    """The pixels as they were in the file, (N, 3, 32, 32)."""
    channels = [images[:, c].double() * STDS[c] + MEANS[c] for c in range(3)]
    return (torch.stack(channels, dim=1) * 255).round().int()


def numbers(images: Tensor) -> list[int]:
    """Which images these are, read off every pixel of each."""
    pixels = to_bytes(images)
    assert (pixels == pixels[:, :1, :1, :1]).all()
    return pixels[:, 0, 0, 0].tolist()


@given(valid=st.integers(0, TRAIN - 1), seed=st.integers(0, 2**32 - 1))
def test_what_is_held_out_comes_from_training_only(
    tmp_path_factory: pytest.TempPathFactory, valid: int, seed: int
) -> None:
    split = cifar10(fill(tmp_path_factory.mktemp("cifar10")), valid=valid, seed=seed)
    train, held_out, test = (numbers(x) for x, _ in parts_of(split))
    assert sorted(train + held_out) == list(range(TRAIN)) and len(held_out) == valid
    assert train == sorted(train) and held_out == sorted(held_out)
    assert test == list(range(TEST))
    for x, y in parts_of(split):
        assert [number % 10 for number in numbers(x)] == y.tolist()  # each image kept its label


@given(seed=st.integers(0, 2**32 - 1))
def test_every_pixel_is_where_it_was_written(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    pixels = torch.randint(0, 256, (2, 3072), generator=torch.Generator().manual_seed(seed)).tolist()
    content = b"".join(record(label, bytes(image)) for label, image in zip((9, 0), pixels, strict=True))
    split = cifar10(fill(tmp_path_factory.mktemp("cifar10"), test_batch=content), valid=1)
    expected = [
        [[[image[1024 * c + 32 * i + j] for j in range(32)] for i in range(32)] for c in range(3)] for image in pixels
    ]
    assert to_bytes(split.test_x).tolist() == expected
    assert split.test_y.tolist() == [9, 0]


def test_channels_are_normalized_each_by_its_own_numbers(tmp_path: Path) -> None:
    content = record(0, bytes([0]) * 1024 + bytes([255]) * 1024 + bytes([51]) * 1024)
    image = cifar10(fill(tmp_path, test_batch=content), valid=1).test_x[0]  # (3, 32, 32)
    expected = torch.tensor([-0.4914 / 0.2470, (1 - 0.4822) / 0.2435, (0.2 - 0.4465) / 0.2616])
    # Three operations in float32.
    torch.testing.assert_close(image, expected.view(3, 1, 1).expand(3, 32, 32), rtol=1e-6, atol=1e-6)


def test_shapes_types_and_sizes(tmp_path: Path) -> None:
    split = cifar10(fill(tmp_path), valid=6)
    assert [tuple(x.shape) for x, _ in parts_of(split)] == [(count, 3, 32, 32) for count in (14, 6, TEST)]
    assert [tuple(y.shape) for _, y in parts_of(split)] == [(14,), (6,), (TEST,)]
    assert {x.dtype for x, _ in parts_of(split)} == {torch.float32}
    assert {y.dtype for _, y in parts_of(split)} == {torch.int64}
    assert all(x.is_contiguous() for x, _ in parts_of(split))
    assert split.classes == 10


def test_files_may_be_of_different_sizes(tmp_path: Path) -> None:
    split = cifar10(fill(tmp_path, data_batch_3=numbered(99)), valid=0)
    assert numbers(split.train_x) == [*range(8), 99, *range(12, 20)]


def test_the_seed_decides_and_the_global_generator_has_no_say(tmp_path: Path) -> None:
    fill(tmp_path)
    before = torch.get_rng_state()
    one, same, other = (numbers(cifar10(tmp_path, valid=8, seed=seed).valid_x) for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no variable that names another place."""
    monkeypatch.delenv("SYNTHGRAD_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "synthgrad" / "cifar10"


def found(folder: Path | None = None) -> int:
    """The number of test images in the folder that was chosen, by which folders are told apart."""
    return len(cifar10(folder, valid=1).test_y)


def test_the_places_in_their_order(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("SYNTHGRAD_DATA", str(data))
    # From the last place to the first: each is preferred to all those filled before.
    places = [cache, cache / FOLDER, data, data / FOLDER, data / "cifar10", data / "cifar10" / FOLDER]
    for count, place in enumerate(places, start=1):
        fill(place, test_batch=records(0, count))
        assert found() == count
    (places[-1] / BATCHES[2]).unlink()
    assert found() == len(places) - 1  # passes over a place that lacks a file
    monkeypatch.delenv("SYNTHGRAD_DATA")
    assert found() == 2
    monkeypatch.setenv("SYNTHGRAD_DATA", "")
    assert found() == 2


def test_a_given_folder_is_the_only_place(cache: Path, tmp_path: Path) -> None:
    fill(cache)
    with pytest.raises(DataError, match="after looking in .*given"):
        cifar10(tmp_path / "given")
    fill(tmp_path / "given", test_batch=records(0, 1))
    assert found(tmp_path / "given") == 1
    fill(tmp_path / "given" / FOLDER, test_batch=records(0, 2))
    assert found(tmp_path / "given") == 2 == found(tmp_path / "given" / FOLDER)


def test_without_files_the_message_says_how_to_get_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHGRAD_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match="cifar10: got no folder with all six files") as caught:
        cifar10()
    message = str(caught.value)
    for part in (
        *NAMES,
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d87530",
        f"unpack it in {tmp_path / 'data' / 'cifar10'}, which makes {FOLDER} there",
        "SYNTHGRAD_DATA",
        str(cache / FOLDER),
    ):
        assert part in message
    assert not cache.exists()  # asking leaves no trace


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path)
    assert f"after looking in {tmp_path / FOLDER} (without any); {tmp_path} (without {name}); " in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "an empty file"),
        (numbered(0)[:-1], "3072 bytes"),
        (numbered(0) * 2 + b"\0", "6147 bytes"),
        (b"\0" + numbered(0), "3074 bytes"),  # as a record of CIFAR-100
    ],
    ids=["empty", "short", "long", "two labels"],
)
def test_a_file_of_the_wrong_size(tmp_path: Path, name: str, content: bytes, got: str) -> None:
    fill(tmp_path, **{Path(name).stem: content})
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path, valid=1)
    assert f"{tmp_path / name}: got {got}, expected a multiple of 3073, one byte for a label" in str(caught.value)
    assert "remove the file and unpack it again from https://" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", [10, 255])
def test_a_label_out_of_range(tmp_path: Path, name: str, label: int) -> None:
    content = numbered(9) + 2 * record(label, bytes(3072))
    fill(tmp_path, **{Path(name).stem: content})
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path, valid=1)
    expected = f"{tmp_path / name}: got the label {label} in record 1, expected 0 to 9; remove the file"
    assert expected in str(caught.value)


@pytest.mark.parametrize("valid", [-1, TRAIN, 5000])
def test_nothing_left_to_train_on(tmp_path: Path, valid: int) -> None:
    with pytest.raises(DataError, match=f"got valid={valid} of 20 training images, expected 0 to 19"):
        cifar10(fill(tmp_path), valid=valid)


@pytest.mark.slow
@pytest.mark.skipif("SYNTHGRAD_DATA" not in os.environ, reason="SYNTHGRAD_DATA names no folder with real data")
def test_the_real_cifar10() -> None:
    try:
        split = cifar10()
    except DataError as error:
        pytest.skip(str(error))
    assert [len(y) for _, y in parts_of(split)] == [45_000, 5_000, 10_000]
    train, valid, test = (y.bincount(minlength=10) for _, y in parts_of(split))
    assert (train + valid).tolist() == 10 * [5_000] and test.tolist() == 10 * [1_000]
    pixels = torch.cat([split.train_x, split.valid_x]).transpose(0, 1).flatten(1)  # (3, N * 32 * 32)
    # Half of the last digit that is published.
    assert ((pixels.mean(1) * torch.tensor(STDS)).abs() < 0.0001).all()
    assert ((pixels.std(1) - 1) * torch.tensor(STDS)).abs().max() < 0.0001
