"""Frames: what is read is what was packed, and what cannot be read says why."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from synthgrad import Action, Gradient
from synthgrad.core.errors import TransportError
from synthgrad.engines.message import (
    DTYPES,
    HEADER_BYTES,
    TEXT_BYTES,
    Header,
    News,
    farewell,
    pack,
    places_of,
    product,
    read_header,
)

MADE = Action.parse("2B7")


def frame_of(value: object, news: News = News()) -> Tensor:  # noqa: B008
    return pack(MADE, value, step=3, digest=0xDEADBEEF, news=news)


def sent(value: object) -> object:
    return unpacked(frame_of(value))


def unpacked(frame: Tensor) -> Any:
    header = read_header(frame)
    return product(header, places_of(header.layouts, frame))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (2, 3), (2, 3, 4, 5)], ids=str)
def test_a_tensor_comes_out_as_it_went_in(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    found = sent(tensor)
    assert isinstance(found, Tensor) and found.dtype == dtype and found.shape == shape
    assert torch.equal(found, tensor)


@given(shape=st.lists(st.integers(0, 4), max_size=5), data=st.data())
def test_the_order_of_memory_travels_along(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    tensor = torch.randn(shape).permute(order)
    found = sent(tensor)
    assert isinstance(found, Tensor) and torch.equal(found, tensor)
    moved = [dim for dim, size in enumerate(tensor.shape) if size > 1]
    if tensor.numel():
        assert [found.stride(dim) for dim in moved] == [tensor.stride(dim) for dim in moved]


def test_channels_last_and_transposed_stay_so_and_gaps_are_closed() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    found = sent(image)
    assert isinstance(found, Tensor) and found.is_contiguous(memory_format=torch.channels_last)
    for odd in (torch.randn(4, 6)[:, ::2], torch.randn(4, 1).expand(4, 5)):
        found = sent(odd)
        assert isinstance(found, Tensor) and found.is_contiguous() and torch.equal(found, odd)


@pytest.mark.parametrize("output", [None, torch.randn(5, 3)], ids=["alone", "with the output"])
def test_a_gradient_keeps_its_count_and_output(output: Tensor | None) -> None:
    values = torch.randn(5, 7)
    found = sent(Gradient(values, 5, output))
    assert isinstance(found, Gradient) and found.count == 5 and torch.equal(found.values, values)
    assert found.output is None if output is None else found.output is not None and torch.equal(found.output, output)


def test_nothing_is_a_message_too() -> None:
    assert sent(None) is None and len(frame_of(None)) == HEADER_BYTES


def test_every_tensor_begins_where_one_of_its_own_would() -> None:
    values, output = torch.randn(3, 3), torch.randn(3, 2, dtype=torch.float64)
    found = sent(Gradient(values, 3, output))
    assert isinstance(found, Gradient) and found.output is not None
    assert found.values.data_ptr() % 64 == found.output.data_ptr() % 64 == torch.empty(9).data_ptr() % 64


def test_what_was_packed_may_change_afterwards() -> None:
    tensor = torch.ones(4)
    frame = frame_of(tensor)
    tensor.zero_()
    assert torch.equal(unpacked(frame), torch.ones(4))


def test_the_header_says_what_and_whose() -> None:
    header = read_header(frame_of(Gradient(torch.zeros(2, 3), 2), News(1, 0.1)))
    assert (header.action, header.step, header.digest, header.count) == (MADE, 3, 0xDEADBEEF, 2)
    assert header.news == News(1, 0.1)
    assert str(header) == "2B7 of step 3, float32 (2, 3), 64 bytes"
    assert math.isnan(read_header(frame_of(None)).news.loss)


def test_the_header_says_on_what_kind_of_device_the_tensor_was() -> None:
    frame = frame_of(torch.zeros(2))
    assert [layout.device for layout in read_header(frame).layouts] == ["cpu"]
    frame[:HEADER_BYTES].view(torch.int64)[15] = 1
    assert [layout.device for layout in read_header(frame).layouts] == ["cuda"]
    with pytest.raises(TransportError, match="dimensions on meta cannot travel; .* on cpu or cuda"):
        frame_of(torch.zeros(2, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool], ids=str)
def test_a_tensor_arrives_on_the_kind_of_device_that_it_left(dtype: torch.dtype) -> None:
    values = torch.randn(2, 3, 4, 5, device="cuda").to(dtype).to(memory_format=torch.channels_last)
    found = sent(Gradient(values, 2, torch.ones(3)))
    assert isinstance(found, Gradient) and found.values.device == torch.device("cuda", torch.cuda.current_device())
    assert torch.equal(found.values, values) and found.values.is_contiguous(memory_format=torch.channels_last)
    assert found.output is not None and found.output.device.type == "cpu"


@pytest.mark.parametrize("reason", ["", "NumericalError: stage 1 ('s1')", "ü" * TEXT_BYTES])
def test_a_farewell_tells_its_reason_and_fits_everywhere(reason: str) -> None:
    frame = farewell(4, reason)
    header = read_header(frame)
    assert header.action is None and header.step == 4 and len(frame) <= HEADER_BYTES + TEXT_BYTES
    assert unpacked(frame) == (reason or "?").encode()[:TEXT_BYTES].decode()


@pytest.mark.parametrize(
    "tensor", [torch.zeros((1,) * 9), torch.zeros(3).to_sparse(), torch.zeros(3, dtype=torch.float8_e4m3fn)], ids=str
)
def test_what_cannot_travel_is_refused_by_name(tensor: Tensor) -> None:
    with pytest.raises(TransportError, match="cannot travel; expected a dense one of at most 8 dimensions"):
        frame_of(tensor)


FORGERIES = {
    "version": (0, 7, "version: got 0x7"),
    "kind": (1, 77, "got kind 77"),
    "negative kind": (1, -1, "got kind -1"),
    "tensors": (10, 3, "with 3 tensors"),
    "bytes": (9, 1 << 40, "size: the header announces 1099511627776 bytes, its shapes and dtypes make 64"),
    "dtype": (12, len(DTYPES), "dtype: got number 12"),
    "another dtype": (12, DTYPES.index(torch.float64), "size: .* make 128"),
    "dimensions": (13, 9, "shape: got 9 dimensions"),
    "order": (14, 0x11, "shape: got 2 dimensions"),
    "device": (15, 2, "device: got number 2, expected 0 to 1"),
    "shape": (16, -2, "shape: got 2 dimensions"),
    "larger shape": (16, 60, "size: .* announces 64 bytes"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_header_that_contradicts_itself_is_not_believed(name: str) -> None:
    place, value, message = FORGERIES[name]
    frame = frame_of(torch.randn(4, 4))
    assert isinstance(read_header(frame), Header)
    frame[:HEADER_BYTES].view(torch.int64)[place] = value
    with pytest.raises(TransportError, match=message):
        read_header(frame)
