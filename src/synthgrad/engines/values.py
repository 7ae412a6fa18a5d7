"""Nested plain values as JSON, with the tensors among them taken out and named; and put together again.

    {"lr": 0.1, "betas": (0.9, 0.99), "step": tensor}
    {"dict": {"lr": 0.1, "betas": {"tuple": [0.9, 0.99]}, "step": {"tensor": "optimizers/step", ...}}}

So nothing has to be pickled to be saved, and nothing that is read can be more than data.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from synthgrad.core.errors import CheckpointError

__all__ = ["Tensors", "put_together", "take_apart", "tensors_in"]


class Tensors:
    """Tensors that were taken out, by name; what lies in the same memory (a tied weight) has the first one's name."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._known: dict[tuple[Any, ...], str] = {}

    def add(self, name: str, tensor: Tensor) -> str:
        """The name under which the tensor is found."""
        place = (tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr())
        name = self._known.setdefault(place, name) if tensor.numel() else name
        self.by_name.setdefault(name, tensor)
        return name


def take_apart(value: Any, name: str, tensors: Tensors) -> Any:
    """What JSON can hold of the value; the tensors in it go to `tensors`, detached, by their path below `name`.

    Raises:
        CheckpointError: something in it is neither plain nor a tensor.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        found = tensors.add(name, value.detach())
        return {"tensor": found, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [take_apart(one, f"{name}/{place}", tensors) for place, one in enumerate(value)]}
    if isinstance(value, Mapping):
        parts = {key: take_apart(one, f"{name}/{key}", tensors) for key, one in value.items()}
        if all(isinstance(key, str) for key in parts) and not isinstance(value, Counter):
            return {"dict": parts}
        keys = [take_apart(key, name, tensors) for key in parts]
        return {"counter" if isinstance(value, Counter) else "items": list(zip(keys, parts.values(), strict=True))}
    raise CheckpointError(
        f"{name}: got a {type(value).__module__}.{type(value).__qualname__}, expected None, a bool, a number, a "
        f"string, a tensor, or lists, tuples and dicts of them; save what can be written as such"
    )


def put_together(parts: Any, tensor: Callable[[str], Tensor]) -> Any:
    """The value; `tensor(name)` gives the tensors."""
    if not isinstance(parts, dict):
        return parts
    if "tensor" in parts:
        return tensor(parts["tensor"])
    ((kind, inner),) = parts.items()
    if kind == "dict":
        return {key: put_together(one, tensor) for key, one in inner.items()}
    if kind in ("items", "counter"):
        pairs = {put_together(key, tensor): put_together(one, tensor) for key, one in inner}
        return Counter(pairs) if kind == "counter" else pairs
    values = [put_together(one, tensor) for one in inner]
    return values if kind == "list" else tuple(values)


def tensors_in(parts: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By name, type and shape of the tensors that it needs to be put together."""
    if not isinstance(parts, dict):
        return {}
    if "tensor" in parts:
        return {parts["tensor"]: (parts["dtype"], tuple(parts["shape"]))}
    ((kind, inner),) = parts.items()
    if kind == "dict":
        inner = inner.values()
    elif kind in ("items", "counter"):
        inner = [one for pair in inner for one in pair]
    return {name: kept for one in inner for name, kept in tensors_in(one).items()}
