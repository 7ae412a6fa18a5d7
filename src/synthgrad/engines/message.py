"""What travels between two processes: one frame of bytes, of which the first are a header that says what it is.

    0        320
    | header | tensor | tensor |        at most two tensors, each beginning at a multiple of 64 bytes

So shapes may change from step to step, and a message that is not the expected one is known before it is used. What is
read from a frame lies in it: each message has a frame of its own, which is never written again.
"""

import math
import struct
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthgrad.core.actions import Action, Kind
from synthgrad.core.batch import Gradient
from synthgrad.core.errors import TransportError

__all__ = [
    "HEADER_BYTES",
    "TEXT_BYTES",
    "Header",
    "Layout",
    "News",
    "farewell",
    "pack",
    "places_of",
    "product",
    "read_header",
]

VERSION = 0x5347_0003  # "SG", and a number that changes with the layout of the header
ALIGNMENT = 64
TENSORS, DIMS = 2, 8
NUMBERS = 4 + DIMS  # of a layout
FIELDS = 12 + TENSORS * NUMBERS  # of 8 bytes each, in the order in which `_write_header` has them
_LAYOUTS = struct.Struct(f"<{TENSORS * NUMBERS}q")
_FORM = struct.Struct(f"<8qd2qd{_LAYOUTS.size}s")  # whole numbers, but for the loss and the time; and the layouts
HEADER_BYTES = -(-8 * FIELDS // ALIGNMENT) * ALIGNMENT
TEXT_BYTES = 512  # every edge has room for so much after a header, from the first message on
KINDS = (*Kind, None)  # None: a farewell
NO_COUNT = -1

# Numbered by their place; a new one goes to the end, and is a new VERSION.
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
DEVICES = ("cpu", "cuda")  # likewise


class Layout(NamedTuple):
    """How a tensor lies in memory: with its dimensions put into `order`, it is contiguous.

    The same values in another order of memory can give other last bits (channels last, a transposed matrix). It travels
    through the memory of the host, and arrives on the kind of `device` that it left; which one, the receiver says
    (`torch.cuda.set_device`).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    order: tuple[int, ...]
    device: str = "cpu"

    @property
    def size(self) -> int:
        """In bytes."""
        return _memory(self)[0]

    def within(self, frame: Tensor, start: int) -> Tensor:
        """The tensor of this layout that begins at that byte of the frame."""
        _, strides = _memory(self)
        place = torch.empty(0, dtype=self.dtype)
        return place.set_(frame.untyped_storage(), start // self.dtype.itemsize, self.shape, strides)


@lru_cache(maxsize=256)
def _memory(layout: Layout) -> tuple[int, tuple[int, ...]]:
    """Size in bytes, and the strides."""
    strides, step = [1] * len(layout.shape), 1
    for dim in reversed(layout.order):
        strides[dim], step = step, step * max(1, layout.shape[dim])
    return math.prod(layout.shape) * layout.dtype.itemsize, tuple(strides)


@lru_cache(maxsize=256)
def _content(layouts: tuple[Layout, ...]) -> int:
    return sum(_padded(layout.size) for layout in layouts)


class News(NamedTuple):
    """The newest loss that the sender has heard of, and its step; it travels along with what is sent anyway."""

    step: int = -1
    loss: float = math.nan


class Header(NamedTuple):
    """What a message says of itself.

    Attributes:
        action: what made its content; None: the sender has given up, and the content is its reason.
        step: to whose batch it belongs.
        digest: of that batch.
        count: of a gradient; None: the content is a tensor.
        news: of the loss.
        layouts: of the tensors; none where the product is None.
        sent: when, on the sender's monotonic clock, in seconds.
    """

    action: Action | None
    step: int
    digest: int
    count: int | None
    news: News
    layouts: tuple[Layout, ...]
    sent: float = 0.0

    @property
    def content(self) -> int:
        """Bytes that follow the header."""
        return _content(self.layouts)

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return HEADER_BYTES + self.content

    def __str__(self) -> str:
        shapes = ", ".join(f"{str(one.dtype).removeprefix('torch.')} {one.shape}" for one in self.layouts)
        return f"{self.action or 'farewell'} of step {self.step}, {shapes or 'nothing'}, {self.content} bytes"


# ---- writing ---------------------------------------------------------------------------------------------------------


def fresh(size: int) -> Tensor:
    """A frame of so many bytes, uint8 (size,), in memory of its own."""
    return torch.empty(size, dtype=torch.uint8)


def pack(
    action: Action, product: Any, *, step: int, digest: int, news: News, make: Callable[[int], Tensor] = fresh
) -> Tensor:
    """The frame of a message, a copy: what was packed may change or go.

    Args:
        action: what made the product.
        product: a tensor, a `Gradient`, or None.
        step: to whose batch it belongs.
        digest: of that batch.
        news: to tell along with it.
        make: gives an empty frame of so many bytes; see `Frames`.

    Returns:
        Bytes, uint8 (HEADER_BYTES + content,).

    Raises:
        TransportError: a tensor of a kind that cannot travel.
    """
    count, given = (product.count, (product.values, product.output)) if isinstance(product, Gradient) else (None, ())
    tensors = [t.detach() for t in given or (product,) if t is not None]
    header = Header(action, step, digest, count, news, tuple(map(_layout_of, tensors)))
    frame = make(header.size)
    for place, tensor in zip(places_of(header.layouts, frame), tensors, strict=True):
        place.copy_(tensor)
    _write_header(frame, header)
    return frame


def farewell(step: int, reason: str) -> Tensor:
    """The frame of a last message, that the sender has given up; it fits into every buffer."""
    text = (reason or "?").encode()[:TEXT_BYTES]
    layout = Layout(torch.uint8, (len(text),), (0,))
    header = Header(None, step, 0, None, News(), (layout,))
    frame = torch.zeros(header.size, dtype=torch.uint8)
    _write_header(frame, header)
    frame[HEADER_BYTES : HEADER_BYTES + len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return frame


def _layout_of(tensor: Tensor) -> Layout:
    """As it lies; without the gaps or overlaps, if there are any."""
    device, dims = tensor.device.type, tensor.dim()
    if tensor.dtype not in DTYPES or tensor.layout is not torch.strided or dims > DIMS or device not in DEVICES:
        raise TransportError(
            f"a {tensor.layout} tensor of {tensor.dtype} with {dims} dimensions on {device} cannot travel; "
            f"expected a dense one of at most {DIMS} dimensions on {' or '.join(DEVICES)}, of "
            f"{', '.join(map(str, DTYPES))}; convert it, or cut elsewhere"
        )
    order = tuple(range(dims))
    if not tensor.is_contiguous():
        falling = tuple(sorted(order, key=tensor.stride().__getitem__, reverse=True))
        order = falling if tensor.permute(falling).is_contiguous() else order
    return Layout(tensor.dtype, tuple(tensor.shape), order, device)


def _write_header(frame: Tensor, header: Header) -> None:
    stage, kind, microbatch = header.action or (0, None, 0)
    _FORM.pack_into(
        frame.numpy(),  # pyrefly: ignore  (an array is a buffer)
        0,
        VERSION,
        KINDS.index(kind),
        stage,
        microbatch,
        header.step,
        header.digest,
        NO_COUNT if header.count is None else header.count,
        *header.news,
        header.content,
        len(header.layouts),
        time.monotonic(),
        _numbers(header.layouts),
    )


@lru_cache(maxsize=256)
def _numbers(layouts: tuple[Layout, ...]) -> bytes:
    numbers: list[int] = []
    for dtype, shape, order, device in layouts:
        packed = sum(place << 4 * position for position, place in enumerate(order))
        numbers += [DTYPES.index(dtype), len(shape), packed, DEVICES.index(device), *shape, *[0] * (DIMS - len(shape))]
    return _LAYOUTS.pack(*numbers, *[0] * (TENSORS * NUMBERS - len(numbers)))


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_header(frame: Tensor) -> Header:
    """What the frame says of itself.

    Raises:
        TransportError: the numbers make no header of this version, or contradict each other.
    """
    version, kind, stage, microbatch, step, digest, count, news_step, loss, content, tensors, sent, numbers = (
        _FORM.unpack_from(frame.numpy())  # pyrefly: ignore
    )
    if version != VERSION:
        raise TransportError(f"version: got {version:#x}, expected {VERSION:#x}; install one synthgrad on all ranks")
    if not 0 <= kind < len(KINDS) or not 0 <= tensors <= TENSORS:
        raise TransportError(f"got kind {kind} with {tensors} tensors, expected 0 to {len(KINDS) - 1} and at most 2")
    name = KINDS[kind]
    header = Header(
        None if name is None else Action(stage, name, microbatch),
        step,
        digest,
        None if count == NO_COUNT else count,
        News(news_step, loss),
        _layouts(tensors, numbers),
        sent,
    )
    if header.content != content:
        raise TransportError(f"size: the header announces {content} bytes, its shapes and dtypes make {header.content}")
    return header


@lru_cache(maxsize=256)
def _layouts(tensors: int, numbers: bytes) -> tuple[Layout, ...]:
    fields = _LAYOUTS.unpack(numbers)
    return tuple(_layout(*fields[place * NUMBERS :][:NUMBERS]) for place in range(tensors))


def _layout(dtype: int, dims: int, packed: int, device: int, *shape: int) -> Layout:
    for what, number, count in (("dtype", dtype, len(DTYPES)), ("device", device, len(DEVICES))):
        if not 0 <= number < count:
            raise TransportError(f"{what}: got number {number}, expected 0 to {count - 1}")
    order = tuple(packed >> 4 * position & 15 for position in range(max(0, min(dims, DIMS))))
    if not 0 <= dims <= DIMS or sorted(order) != list(range(dims)) or min(shape) < 0:
        raise TransportError(f"shape: got {dims} dimensions {shape} in order {order}, expected at most {DIMS}")
    return Layout(DTYPES[dtype], tuple(shape[:dims]), order, DEVICES[device])


def product(header: Header, places: Sequence[Tensor]) -> Any:
    """What the message brings, whose tensors lie in these `places` of its frame; or on their own device.

    A farewell's is its text.
    """
    values = [place.to(layout.device) for place, layout in zip(places, header.layouts, strict=True)]
    if header.action is None:
        return bytes(values[0].tolist()).decode(errors="replace")
    if header.count is not None:
        return Gradient(values[0], header.count, *values[1:])
    return values[0] if values else None


def places_of(layouts: Sequence[Layout], frame: Tensor, start: int = HEADER_BYTES) -> list[Tensor]:
    """Where in the frame tensors of these layouts lie, from the byte `start` on."""
    places: list[Tensor] = []
    for layout in layouts:
        places.append(layout.within(frame, start))
        start += _padded(layout.size)
    return places


def _padded(size: int) -> int:
    """The next multiple of the alignment: a tensor that begins elsewhere may be computed with in another order."""
    return -(-size // ALIGNMENT) * ALIGNMENT
