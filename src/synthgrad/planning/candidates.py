"""Where a model could be cut: found in the autograd graph of one forward pass.

At a cut the whole graph must pass through one tensor:

    before ----> h ----> after        a place to cut
    before ----> h ----> after        none: a path leads round h, be it a skip or a weight used on both sides
       +-------------------^
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.batch import arguments
from synthgrad.core.errors import PartitionError, PlanningError
from synthgrad.core.partition import Partition, partition
from synthgrad.core.preserve import call_preserved, random_preserved

__all__ = ["cut_everywhere", "places"]


def cut_everywhere(model: nn.Module, inputs: tuple[Any, ...], among: Sequence[str] | None = None) -> Partition:
    """The model, taken apart wherever it can be.

    Args:
        model: it is not changed.
        inputs: its positional arguments, a batch; last, if need be, `Keywords`.
        among: names of submodules; only there.

    Raises:
        PartitionError: it cannot be cut at one of `among`; the message says why, and where it could.
        PlanningError: there is no place at all.
    """
    found = places(model, inputs)
    if among is not None:
        try:
            return partition(model, at=among, sample=inputs)
        except PartitionError as error:
            raise PartitionError(f"{error}; the model could be cut at {_named(found)}") from None
    try:
        return partition(model, at=found, sample=inputs)
    except PartitionError:  # what the graph does not show, say a value computed without gradients that bypasses a cut
        good = [name for name in found if _can_be_cut(model, name, inputs)]
    if not good:
        raise PlanningError(
            f"the model cannot be cut: the graph of its forward pass goes through {_named(found)} alone, and none of "
            f"these can be run apart; build it from submodules that each batch passes in a row"
        )
    return partition(model, at=good, sample=inputs)


def places(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """Names of the submodules at whose outputs the graph can be cut, in the order in which a batch passes them.

    Of several names for the same place, that of the outermost submodule.
    """
    rows = next((len(t) for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor) and t.dim() > 0), 0)
    calls: dict[str, int] = {}
    nodes: dict[str, Any] = {}

    def note(name: str, output: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        fits = isinstance(output, Tensor) and output.is_floating_point() and output.dim() >= 2 and len(output) == rows
        nodes[name] = output.grad_fn if fits else None

    handles = [
        module.register_forward_hook(lambda _module, _args, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if module is not model
    ]
    try:
        tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        with torch.enable_grad(), random_preserved([*tensors, *model.parameters()]):
            positional, keywords = arguments(inputs)
            output = call_preserved(model, *positional, **keywords)
    finally:
        for handle in handles:
            handle.remove()
    ends = {leaf.grad_fn for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)} - {None}
    by_node = {node: name for name, node in nodes.items() if node is not None and calls[name] == 1}
    found = [(len(_reachable([node])), name) for node, name in by_node.items() if _separates(node, ends)]
    return [name for _, name in sorted(found)]  # each separates the graph, so what lies before one grows


def _separates(node: Any, ends: set[Any]) -> bool:
    """Whether the node stands between all that comes before it and the ends."""
    if node in ends:
        return False  # nothing is behind it
    after = _reachable(ends, stop=node)
    return node in after and after.isdisjoint(_reachable([node]) - {node})


def _reachable(starts: Iterable[Any], stop: Any = None) -> set[Any]:
    frontier, seen = list(starts), set(starts)
    while frontier:
        node = frontier.pop()
        for following, _ in node.next_functions if node is not stop else ():
            if following is not None and following not in seen:
                seen.add(following)
                frontier.append(following)
    return seen


def _can_be_cut(model: nn.Module, name: str, inputs: tuple[Any, ...]) -> bool:
    try:
        partition(model, at=[name], sample=inputs)
    except PartitionError:
        return False
    return True


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no submodule"
