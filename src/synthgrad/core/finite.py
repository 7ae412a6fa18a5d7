"""Looking for NaN and infinity in what has just been made, before anything is updated with it."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["all_finite", "flags_of"]


def flags_of(values: Iterable[Tensor | None]) -> list[Tensor]:
    """For each value a scalar that is not finite if any element is not: the cheapest look at all of them.

    None is passed over. Half precision is summed in full.
    """
    return [value.sum(dtype=torch.promote_types(value.dtype, torch.float32)) for value in values if value is not None]


def all_finite(value: Tensor) -> bool:
    """Whether every element is finite; the device is waited for."""
    return bool(value.isfinite().all())
