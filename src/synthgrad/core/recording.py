"""What happens inside a model's forward pass: which submodule is called when, and what it returns."""

from collections import deque
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.batch import arguments
from synthgrad.core.preserve import random_preserved, uncompiled

__all__ = ["Call", "Recorder", "Recording", "record"]

_OWN = vars(nn.Module()).keys()
KNOWN_AT_MOST = 64  # shapes of batches that a recorder remembers; a recording of shapes is small, a new one is a pass


@dataclass(frozen=True)
class Call:
    """One call of a submodule.

    Attributes:
        start: when it was called, counted in calls and returns.
        end: when it returned.
        output: what it returned, a tree of tensors; without their values, on the device `meta`, if not kept.
    """

    start: int
    end: int
    output: Any


@dataclass(frozen=True)
class Recording:
    """One forward pass.

    Attributes:
        calls: of each submodule, by its first name, in order. Submodules that were not called are missing.
        output: of the model, as in `Call`.
        end: when the pass was over, on the calls' clock.
        changed: names of the buffers that the pass would have changed.
        moved: names of other attributes of modules that it did change: what they remember outside their tensors.
    """

    calls: Mapping[str, tuple[Call, ...]]
    output: Any
    end: int
    changed: frozenset[str]
    moved: frozenset[str] = frozenset()


def record(model: nn.Module, inputs: tuple[Any, ...], *, keep: bool) -> Recording:
    """Run the model once, without gradients, and leave its buffers and the random state as they were.

    Args:
        model: in the mode (`train` or `eval`) it is in.
        inputs: its positional arguments; last, if need be, `Keywords`.
        keep: keep the values that were returned (as they were then: later changes in place do not show).
    """
    calls: dict[str, list[Call]] = {}
    running: dict[str, list[int]] = {}
    clock = iter(range(2**62))

    def values(output: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda t: t.detach().clone() if keep else t.detach().to("meta"), output)

    handles = []
    for name, module in model.named_modules():
        if module is model:
            continue

        def before(_module: nn.Module, _args: Any, name: str = name) -> None:
            running.setdefault(name, []).append(next(clock))

        def after(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
            calls.setdefault(name, []).append(Call(running[name].pop(), next(clock), values(output)))

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        before_it = _remembered(model)
        with torch.no_grad(), uncompiled(), random_preserved([*tensors, *model.parameters()]):
            output = values(torch.func.functional_call(model, buffers, *arguments(inputs)))
    finally:
        for handle in handles:
            handle.remove()
    changed = frozenset(name for name, buffer in model.named_buffers() if not torch.equal(buffer, buffers[name]))
    now = _remembered(model)
    moved = frozenset(name for name in before_it | now if _differs(before_it.get(name), now.get(name)))
    return Recording({name: tuple(found) for name, found in calls.items()}, output, next(clock), changed, moved)


def _remembered(model: nn.Module) -> dict[str, Any]:
    """What modules hold besides parameters, buffers, submodules and torch's own; containers as they are now."""
    return {
        f"{name}.{key}".lstrip("."): copy(value) if isinstance(value, list | dict | set | deque) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in _OWN
    }


def _differs(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor) or isinstance(now, Tensor):
        return before is not now
    if isinstance(now, bool | int | float | str | None):
        return type(before) is not type(now) or before != now
    if isinstance(now, list | tuple | deque | set | dict) and type(before) is type(now):
        return [*map(id, _items(before))] != [*map(id, _items(now))]
    return before is not now


def _items(container: Any) -> Iterable[Any]:
    return (item for pair in container.items() for item in pair) if isinstance(container, dict) else container


class Recorder:
    """Recordings of a model's shapes, one for each kind of batch; made when the first batch of that kind comes.

    So batches may change their shape from step to step, at the price of one more forward pass for each new shape.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._known: dict[Any, Recording] = {}

    def of(self, inputs: tuple[Any, ...]) -> Recording:
        """The recording for batches of this shape, without values."""
        leaves = (
            (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf)
            for leaf in pytree.tree_leaves(inputs)
        )
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), torch.empty(0))
        shape = (self.model.training, weight.dtype, torch.is_autocast_enabled(weight.device.type), *leaves)
        shape += tuple(arguments(inputs)[1])
        if shape not in self._known:
            if len(self._known) >= KNOWN_AT_MOST:
                del self._known[next(iter(self._known))]
            self._known[shape] = record(self.model, inputs, keep=False)
        return self._known[shape]
