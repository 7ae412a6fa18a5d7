import gzip
import math
import os
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad.core.errors import SynthgradError
from synthgrad.data import DataError, Split, idx_folder, read_idx
from synthgrad.data.idx import idx_names

# Code in the file, how struct writes the type, what torch calls it.
TYPES = [
    (0x08, "B", torch.uint8),
    (0x09, "b", torch.int8),
    (0x0B, "h", torch.int16),
    (0x0C, "i", torch.int32),
    (0x0D, "f", torch.float32),
    (0x0E, "d", torch.float64),
]
FORMATS = {code: letter for code, letter, _ in TYPES}
NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES
TRAIN, TEST, HEIGHT, WIDTH = 20, 8, 3, 2


def header(shape: tuple[int, ...], code: int = 0x08) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


def packed(values: list[int] | list[float], shape: tuple[int, ...], code: int = 0x08) -> bytes:
    """A whole file, written without our reader's numpy."""
    return header(shape, code) + struct.pack(f">{len(values)}{FORMATS[code]}", *values)


def pixels(count: int) -> bytes:
    """Images that differ: the first pixel is the image's number."""
    size = HEIGHT * WIDTH
    return packed(
        [k if p == 0 else (7 * k + p) % 256 for k in range(count) for p in range(size)], (count, HEIGHT, WIDTH)
    )


def labels(count: int) -> bytes:
    """The label tells the image's number, modulo 10."""
    return packed([k % 10 for k in range(count)], (count,))


def fill(folder: Path, **changed: bytes) -> Path:
    """A folder of four good files, but for those named: their first two words, joined by an underscore."""
    contents = dict(zip(NAMES, [pixels(TRAIN), labels(TRAIN), pixels(TEST), labels(TEST)], strict=True))
    for name, content in contents.items():
        key = "_".join(name.split("-")[:2])
        (folder / name).write_bytes(changed.get(key, content))
    return folder


def parts_of(split: Split) -> list[tuple[Tensor, Tensor]]:
    return [(split.train_x, split.train_y), (split.valid_x, split.valid_y), (split.test_x, split.test_y)]


def numbers(images: Tensor) -> list[int]:
    """Which images of the file these are."""
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def damaged(folder: Path, content: bytes) -> str:
    """What the reader says of a file with this content; its name must be in it."""
    path = folder / "some-file"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(path) in str(caught.value) and "expected" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("packer", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(("code", "letter", "dtype"), TYPES, ids=[str(dtype) for _, _, dtype in TYPES])
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    packer: type[bytes],
    code: int,
    letter: str,
    dtype: torch.dtype,
    shape: list[int],
    seed: int,
) -> None:
    raw = torch.randint(0, 128, (math.prod(shape),), generator=torch.Generator().manual_seed(seed))
    values = raw.tolist() if letter == "B" else (raw - 64).tolist()
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(packer(packed(values, tuple(shape), code)))
    array = read_idx(path)
    assert array.dtype == dtype and array.shape == tuple(shape)
    assert array.flatten().tolist() == values


def test_numbers_of_several_bytes_are_big_endian(tmp_path: Path) -> None:
    (tmp_path / "array").write_bytes(bytes([0, 0, 0x0B, 1, 0, 0, 0, 2, 0x01, 0x02, 0xFF, 0xFE]))
    assert read_idx(tmp_path / "array").tolist() == [258, -2]


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "array").write_bytes(labels(3))
    assert read_idx(tmp_path / "array").add_(1).tolist() == [1, 2, 3]


def test_an_error_is_one_of_ours_and_a_value_error() -> None:
    assert issubclass(DataError, SynthgradError) and issubclass(DataError, ValueError)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: got no such file, .* check the path"):
        read_idx(tmp_path / "absent")


def test_an_empty_file(tmp_path: Path) -> None:
    assert "got an empty file" in damaged(tmp_path, b"")
    assert "got an empty file" in damaged(tmp_path, gzip.compress(b""))


@pytest.mark.parametrize(
    "magic",
    [b"\0\0\x08", b"\0\1\x08\1", b"\0\0\x0a\1", b"\0\0\x08\0", b"\0\0\x08\x09", b"<!DO"],
    ids=["short", "not zero", "type", "no dimension", "nine dimensions", "a web page"],
)
def test_another_format(tmp_path: Path, magic: bytes) -> None:
    message = damaged(tmp_path, magic + bytes(40) if len(magic) == 4 else magic)
    assert f"begins with {magic.hex(' ')}, expected an IDX file: 00 00, a type (08, 09, 0b, 0c, 0d, 0e)" in message


def test_a_header_cut_short(tmp_path: Path) -> None:
    assert "got 6 bytes for the shape, expected 12" in damaged(tmp_path, header((2, 2, 2))[:10])


@pytest.mark.parametrize("lost", [1, TRAIN - 1, TRAIN])
@pytest.mark.parametrize("packer", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_too_little_data(tmp_path: Path, packer: type[bytes], lost: int) -> None:
    message = damaged(tmp_path, packer(labels(TRAIN)[:-lost]))
    assert f"got {TRAIN - lost} bytes of data, expected {TRAIN} for shape ({TRAIN},)" in message


def test_too_much_data(tmp_path: Path) -> None:
    assert f"got more than the {TRAIN} bytes of data" in damaged(tmp_path, labels(TRAIN) + b"\0")
    assert f"got more than the {TRAIN} bytes of data" in damaged(tmp_path, gzip.compress(labels(TRAIN) + b"\0"))


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (5, 0, 28)])
def test_no_items(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert f"without items, of shape {shape}" in damaged(tmp_path, header(shape))


def test_every_way_to_cut_a_compressed_file_short(tmp_path: Path) -> None:
    whole = gzip.compress(labels(TRAIN))
    for length in range(2, len(whole)):
        assert "damaged gzip data" in damaged(tmp_path, whole[:length])


def test_a_compressed_file_with_wrong_bits(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(pixels(TRAIN)))
    whole[-8] ^= 1  # of the checksum
    assert "damaged gzip data (CRC check failed" in damaged(tmp_path, bytes(whole))
    assert "damaged gzip data" in damaged(tmp_path, bytes(whole[:10]) + b"\xff" * 30)


def test_a_promise_of_too_much_costs_no_memory(tmp_path: Path) -> None:
    shape = (2**32 - 1,) * 3
    assert f"got 5 bytes of data, expected {(2**32 - 1) ** 3}" in damaged(tmp_path, header(shape) + b"12345")
    assert "got 5 bytes of data" in damaged(tmp_path, gzip.compress(header(shape) + b"12345"))


def test_no_more_is_unpacked_than_the_header_promises(tmp_path: Path) -> None:
    bomb = gzip.compress(labels(TRAIN) + bytes(64 << 20))
    tracemalloc.start()
    try:
        assert "got more than" in damaged(tmp_path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # of the 64 MiB that would come out
    finally:
        tracemalloc.stop()


def test_shapes_types_and_sizes(tmp_path: Path) -> None:
    split = idx_folder(fill(tmp_path), valid=5)
    assert [tuple(x.shape) for x, _ in parts_of(split)] == [(count, 1, HEIGHT, WIDTH) for count in (15, 5, TEST)]
    assert [len(y) for _, y in parts_of(split)] == [15, 5, TEST]
    assert {x.dtype for x, _ in parts_of(split)} == {torch.float32}
    assert {y.dtype for _, y in parts_of(split)} == {torch.int64}
    assert split.classes == 10


def test_pixels_are_scaled_and_stand_in_rows(tmp_path: Path) -> None:
    image = packed([0, 51, 102, 153, 204, 255], (1, HEIGHT, WIDTH))
    split = idx_folder(fill(tmp_path, t10k_images=image, t10k_labels=labels(1)), valid=0)
    expected = torch.tensor([[0, 0.2], [0.4, 0.6], [0.8, 1]])
    assert torch.equal(split.test_x, expected.expand(1, 1, HEIGHT, WIDTH))


@given(valid=st.integers(0, TRAIN - 1), seed=st.integers(0, 2**32 - 1))
def test_what_is_held_out_comes_from_training_only(
    tmp_path_factory: pytest.TempPathFactory, valid: int, seed: int
) -> None:
    split = idx_folder(fill(tmp_path_factory.mktemp("idx")), valid=valid, seed=seed)
    train, held_out, test = (numbers(x) for x, _ in parts_of(split))
    assert sorted(train + held_out) == list(range(TRAIN)) and len(held_out) == valid
    assert train == sorted(train) and held_out == sorted(held_out)
    assert test == list(range(TEST))
    for x, y in parts_of(split):
        assert [number % 10 for number in numbers(x)] == y.tolist()  # each image kept its label


def test_the_seed_decides_and_the_global_generator_has_no_say(tmp_path: Path) -> None:
    fill(tmp_path)
    first = numbers(idx_folder(tmp_path, valid=8, seed=1).valid_x)
    before = torch.get_rng_state()
    assert numbers(idx_folder(tmp_path, valid=8, seed=1).valid_x) == first
    assert numbers(idx_folder(tmp_path, valid=8, seed=2).valid_x) != first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("spelling", range(4), ids=["plain", "gz", "dot", "dot gz"])
def test_all_spellings_of_the_names(tmp_path: Path, spelling: int) -> None:
    fill(tmp_path)
    for name in NAMES:
        other = tmp_path / idx_names("-".join(name.split("-")[:2]))[spelling]
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        other.write_bytes(gzip.compress(content) if other.suffix == ".gz" else content)
    assert (
        sorted(path.name for path in tmp_path.iterdir())[-1]
        == [
            "train-labels-idx1-ubyte",
            "train-labels-idx1-ubyte.gz",
            "train-labels.idx1-ubyte",
            "train-labels.idx1-ubyte.gz",
        ][spelling]
    )
    assert len(idx_folder(tmp_path, valid=5).train_y) == 15


def test_a_name_that_ends_in_gz_without_being_compressed(tmp_path: Path) -> None:
    # Some browsers unpack what they download, and keep the name.
    fill(tmp_path)
    for name in NAMES:
        (tmp_path / name).rename(tmp_path / f"{name}.gz")
    assert len(idx_folder(tmp_path, valid=5).train_y) == 15


def test_classes_are_counted_over_both_files(tmp_path: Path) -> None:
    more = packed([k + 5 for k in range(TEST)], (TEST,))
    assert idx_folder(fill(tmp_path, t10k_labels=more), valid=0).classes == TEST + 5


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: got no such folder, expected one with the files train-images-idx3"):
        idx_folder(tmp_path / "absent")


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / TRAIN_LABELS).unlink()
    (tmp_path / TEST_IMAGES).unlink()
    with pytest.raises(DataError, match="got 2 of 4 files") as caught:
        idx_folder(tmp_path)
    for name in (*idx_names("train-labels"), *idx_names("t10k-images")):
        assert name in str(caught.value)
    assert "train-images" not in str(caught.value) and "t10k-labels" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    whole = gzip.compress((tmp_path / name).read_bytes())
    (tmp_path / name).write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"{name}: got damaged gzip data .* get it again"):
        idx_folder(tmp_path, valid=5)


def test_images_and_labels_swapped(tmp_path: Path) -> None:
    fill(tmp_path, train_images=labels(TRAIN), train_labels=pixels(TRAIN))
    with pytest.raises(DataError, match=rf"{TRAIN_IMAGES}: got an array of 1 dimensions, .* expected 3; .* mixed up"):
        idx_folder(tmp_path)


def test_more_labels_than_images(tmp_path: Path) -> None:
    fill(tmp_path, t10k_labels=labels(TEST + 1))
    with pytest.raises(
        DataError, match=f"{TEST_LABELS}: got 9 labels, expected 8, one for each image in {TEST_IMAGES}"
    ):
        idx_folder(tmp_path)


def test_a_negative_label(tmp_path: Path) -> None:
    fill(tmp_path, train_labels=packed([-1] + [0] * (TRAIN - 1), (TRAIN,), code=0x09))
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}: got the label -1, expected 0 or more"):
        idx_folder(tmp_path)


def test_labels_that_are_no_whole_numbers(tmp_path: Path) -> None:
    fill(tmp_path, train_labels=packed([0.5] * TRAIN, (TRAIN,), code=0x0D))
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}: got labels of torch.float32, expected whole numbers"):
        idx_folder(tmp_path)


def test_pixels_that_are_no_bytes(tmp_path: Path) -> None:
    fill(tmp_path, train_images=packed([0.5] * 6 * TRAIN, (TRAIN, HEIGHT, WIDTH), code=0x0D))
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES}: got pixels of torch.float32, expected unsigned bytes"):
        idx_folder(tmp_path)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    fill(tmp_path, t10k_images=packed([0] * 6 * TEST, (TEST, WIDTH, HEIGHT)))
    with pytest.raises(DataError, match=f"{TEST_IMAGES}: got images of 2x3 pixels, expected 3x2 as in {TRAIN_IMAGES}"):
        idx_folder(tmp_path, valid=5)


@pytest.mark.parametrize("valid", [-1, TRAIN, TRAIN + 1])
def test_nothing_left_to_train_on(tmp_path: Path, valid: int) -> None:
    with pytest.raises(DataError, match=f"got valid={valid} of 20 training images, expected 0 to 19"):
        idx_folder(fill(tmp_path), valid=valid)


@pytest.mark.skipif("SYNTHGRAD_DATA" not in os.environ, reason="SYNTHGRAD_DATA names no folder with real data")
def test_the_real_mnist() -> None:
    folder = Path(os.environ["SYNTHGRAD_DATA"], "mnist")
    if not folder.is_dir():
        pytest.skip(f"no mnist in {folder.parent}")
    split = idx_folder(folder)
    assert [tuple(x.shape) for x, _ in parts_of(split)] == [(count, 1, 28, 28) for count in (55_000, 5_000, 10_000)]
    train, valid, test = (y.bincount(minlength=10) for _, y in parts_of(split))
    # How often each digit is in the two files, as published.
    assert (train + valid).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = torch.cat([split.train_x, split.valid_x])
    assert round(float(pixels.mean()), 4) == 0.1307 and round(float(pixels.std()), 4) == 0.3081
    assert split.classes == 10
