"""What travels between two processes: one frame of bytes, of which the first are a header that says what it is.

    0        320
    | header | tensor | tensor |        at most two tensors, each beginning at a multiple of 64 bytes

So shapes may change from step to step, and a message that is not the expected one is known before it is used. What is
read from a frame lies in it: each message has a frame of its own, which is never written again.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synthgrad.core.actions import Action, Kind
from synthgrad.core.batch import Gradient
from synthgrad.core.errors import TransportError

__all__ = ["HEADER_BYTES", "TEXT_BYTES", "Header", "Layout", "News", "farewell", "pack", "product", "read_header"]

VERSION = 0x5347_0001  # "SG", and a number that changes with the layout of the header
ALIGNMENT = 64
TENSORS, DIMS = 2, 8
FIELDS = 12 + TENSORS * (3 + DIMS)  # int64 numbers, in the order in which `_header` writes them
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


class Layout(NamedTuple):
    """How a tensor lies in memory: with its dimensions put into `order`, it is contiguous.

    The same values in another order of memory can give other last bits (channels last, a transposed matrix).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class News(NamedTuple):
    """The newest loss that the sender has heard of, and its step; it travels along with what is sent anyway."""

    step: int = -1
    loss: float = math.nan


@dataclass(frozen=True)
class Header:
    """What a message says of itself.

    Attributes:
        action: what made its content; None: the sender has given up, and the content is its reason.
        step: to whose batch it belongs.
        digest: of that batch.
        count: of a gradient; None: the content is a tensor.
        news: of the loss.
        layouts: of the tensors; none where the product is None.
    """

    action: Action | None
    step: int
    digest: int
    count: int | None
    news: News
    layouts: tuple[Layout, ...]

    @property
    def content(self) -> int:
        """Bytes that follow the header."""
        return sum(_padded(layout.size) for layout in self.layouts)

    def __str__(self) -> str:
        shapes = ", ".join(f"{str(one.dtype).removeprefix('torch.')} {one.shape}" for one in self.layouts)
        return f"{self.action or 'farewell'} of step {self.step}, {shapes or 'nothing'}, {self.content} bytes"


# ---- writing ---------------------------------------------------------------------------------------------------------


def pack(action: Action, product: Any, *, step: int, digest: int, news: News) -> Tensor:
    """The frame of a message, a copy: what was packed may change or go.

    Args:
        action: what made the product.
        product: a tensor, a `Gradient`, or None.
        step: to whose batch it belongs.
        digest: of that batch.
        news: to tell along with it.

    Returns:
        Bytes, uint8 (HEADER_BYTES + content,).

    Raises:
        TransportError: a tensor of a kind that cannot travel.
    """
    count, given = (product.count, (product.values, product.output)) if isinstance(product, Gradient) else (None, ())
    tensors = [t for t in given or (product,) if t is not None]
    dense = [_dense(tensor.detach()) for tensor in tensors]
    layouts = tuple(layout for layout, _ in dense)
    header = Header(action, step, digest, count, news, layouts)
    frame = torch.empty(HEADER_BYTES + header.content, dtype=torch.uint8)
    _write_header(frame, header)
    for place, layout, (_, values) in zip(_places(frame, layouts), layouts, dense, strict=True):
        place.view(layout.dtype).view(values.shape).copy_(values)
    return frame


def farewell(step: int, reason: str) -> Tensor:
    """The frame of a last message, that the sender has given up; it fits into every buffer."""
    text = (reason or "?").encode()[:TEXT_BYTES]
    layout = Layout(torch.uint8, (len(text),), (0,))
    header = Header(None, step, 0, None, News(), (layout,))
    frame = torch.zeros(HEADER_BYTES + header.content, dtype=torch.uint8)
    _write_header(frame, header)
    frame[HEADER_BYTES : HEADER_BYTES + len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return frame


def _dense(tensor: Tensor) -> tuple[Layout, Tensor]:
    """The tensor with its dimensions in the order of memory, copied only if there are gaps or overlaps; its layout."""
    if tensor.dtype not in DTYPES or tensor.layout is not torch.strided or tensor.dim() > DIMS:
        raise TransportError(
            f"a {tensor.layout} tensor of {tensor.dtype} with {tensor.dim()} dimensions cannot travel; expected a "
            f"dense one of at most {DIMS} dimensions, of {', '.join(map(str, DTYPES))}; convert it, or cut elsewhere"
        )
    order = tuple(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    values = tensor.permute(order)
    if not values.is_contiguous():
        order, values = tuple(range(tensor.dim())), tensor.contiguous()
    return Layout(tensor.dtype, tuple(tensor.shape), order), values


def _write_header(frame: Tensor, header: Header) -> None:
    (loss,) = struct.unpack("<q", struct.pack("<d", header.news.loss))
    stage, kind, microbatch = header.action or (0, None, 0)
    count = NO_COUNT if header.count is None else header.count
    fields = [VERSION, KINDS.index(kind), stage, microbatch, header.step, header.digest, count]
    fields += [header.news.step, loss, header.content, len(header.layouts), 0]
    for layout in header.layouts:
        order = sum(place << 4 * position for position, place in enumerate(layout.order))
        shape = [*layout.shape, *[0] * (DIMS - len(layout.shape))]
        fields += [DTYPES.index(layout.dtype), len(layout.shape), order, *shape]
    frame[: 8 * len(fields)].view(torch.int64).copy_(torch.tensor(fields))


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_header(frame: Tensor) -> Header:
    """What the frame says of itself.

    Raises:
        TransportError: the numbers make no header of this version, or contradict each other.
    """
    fields = frame[: 8 * FIELDS].view(torch.int64).tolist()
    version, kind, stage, microbatch, step, digest, count, news_step, loss, content, tensors, _ = fields[:12]
    if version != VERSION:
        raise TransportError(f"version: got {version:#x}, expected {VERSION:#x}; install one synthgrad on all ranks")
    if not 0 <= kind < len(KINDS) or not 0 <= tensors <= TENSORS:
        raise TransportError(f"got kind {kind} with {tensors} tensors, expected 0 to {len(KINDS) - 1} and at most 2")
    layouts = tuple(_read_layout(fields[12 + place * (3 + DIMS) :][: 3 + DIMS]) for place in range(tensors))
    name = KINDS[kind]
    (value,) = struct.unpack("<d", struct.pack("<q", loss))
    header = Header(
        None if name is None else Action(stage, name, microbatch),
        step,
        digest,
        None if count == NO_COUNT else count,
        News(news_step, value),
        layouts,
    )
    if header.content != content:
        raise TransportError(f"size: the header announces {content} bytes, its shapes and dtypes make {header.content}")
    return header


def _read_layout(fields: Sequence[int]) -> Layout:
    dtype, dims, packed, *shape = fields
    if not 0 <= dtype < len(DTYPES):
        raise TransportError(f"dtype: got number {dtype}, expected 0 to {len(DTYPES) - 1}")
    order = tuple(packed >> 4 * position & 15 for position in range(max(0, min(dims, DIMS))))
    if not 0 <= dims <= DIMS or sorted(order) != list(range(dims)) or min(shape) < 0:
        raise TransportError(f"shape: got {dims} dimensions {shape} in order {order}, expected at most {DIMS}")
    return Layout(DTYPES[dtype], tuple(shape[:dims]), order)


def product(header: Header, content: Tensor) -> Any:
    """What the message brings; its tensors lie in `content`, the bytes after the header.

    A farewell's is its text.
    """
    values = [
        _read(place, layout) for place, layout in zip(_places(content, header.layouts, 0), header.layouts, strict=True)
    ]
    if header.action is None:
        return bytes(values[0].tolist()).decode(errors="replace")
    if header.count is not None:
        return Gradient(values[0], header.count, *values[1:])
    return values[0] if values else None


def _read(place: Tensor, layout: Layout) -> Tensor:
    ordered = place.view(layout.dtype).view([layout.shape[dim] for dim in layout.order])
    return ordered.permute([layout.order.index(dim) for dim in range(len(layout.order))])


def _places(frame: Tensor, layouts: Sequence[Layout], start: int = HEADER_BYTES) -> list[Tensor]:
    """Where in the frame each tensor lies, as bytes."""
    places: list[Tensor] = []
    for layout in layouts:
        places.append(frame[start : start + layout.size])
        start += _padded(layout.size)
    return places


def _padded(size: int) -> int:
    """The next multiple of the alignment: a tensor that begins elsewhere may be computed with in another order."""
    return -(-size // ALIGNMENT) * ALIGNMENT
