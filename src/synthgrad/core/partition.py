"""Takes a model apart into pieces that can run alone, in any order, in any process, and leaves the model as it is.

A cut is the output of a named submodule. A chain (`nn.Sequential`) is sliced. Any other model runs its own forward:

    model.forward:   embed -> block0 -> [cut] block1 -> block2 -> [cut] block3 -> head
    piece 1 runs:    stub     stub      received        block2    stop there

What ended before the piece is replaced by stubs that return zeros of the recorded shape; the cut's submodule returns
what was received; the forward ends, by an exception, when the next cut's submodule has its output. Whatever the model
computes from the raw batch without weights (masks, positions) is simply computed again: every piece has the batch.
Whatever else crosses a cut would be zeros in the piece, and wrong; so the pieces are tried (`bypass`).
"""

import difflib
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.boundary import cut
from synthgrad.core.bundle import Bundle
from synthgrad.core.bypass import expect_no_bypass, expect_state_apart, needed
from synthgrad.core.errors import PartitionError, Verdict
from synthgrad.core.interface import Interface
from synthgrad.core.piece import Excerpt, Piece, Slice
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.recording import Recorder, Recording, record

__all__ = ["Partition", "partition"]

TRIED_ELSEWHERE = 8  # cuts that are tried, where one is refused, to name one that works


@dataclass(frozen=True)
class Partition:
    """A model taken apart.

    Attributes:
        names: of the cuts, in the order in which the forward pass comes by.
        pieces: one more than there are cuts.
        parameters: for each piece the parameters it trains, by their name in the model. Every trainable parameter of
            the model belongs to one piece.
        activations: at each cut, what the sample gave, (B, ...).
        bundles: of the cuts whose submodule returns more than a tensor, by name: which tensors of it cross, as one.
        output: of the model, on the sample.
    """

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    parameters: tuple[Mapping[str, nn.Parameter], ...]
    activations: tuple[Tensor, ...]
    bundles: Mapping[str, Bundle]
    output: Any


def partition(model: nn.Module, *, at: Sequence[str], sample: tuple[Any, ...]) -> Partition:
    """Take a model apart at the outputs of named submodules. The model is not changed.

    Args:
        model: any module whose forward pass takes `sample`.
        at: names of submodules, as in `model.named_modules()`; none gives one piece.
        sample: positional arguments of the model, last, if need be, `Keywords`; at least one tensor whose first
            dimension is the batch.

    Where a submodule returns a tuple, a dict or the like, those of its floating tensors cross the cut that are used
    behind it, as one activation (see `Bundle`); each has a row for each example. Whatever else it returns may be used
    before the cut only.

    Raises:
        PartitionError: a name that is no submodule (the nearest ones are named), or one that is not called exactly
            once; an output without a floating tensor with a row for each example; something that bypasses a cut, or a
            weight on both sides of one. The message names the nearest cut that works, if there is one near.
    """
    if isinstance(at, str):
        raise PartitionError(f"at: got the string {at!r}, expected a list of names; write [{at!r}]")
    modules = dict(model.named_modules(remove_duplicate=False))
    if found := [name for name, module in modules.items() if isinstance(module, Interface)]:
        raise PartitionError(
            f"the model has an Interface at {found[0]!r}, which swaps gradients within a stage; take it out, and name "
            f"the submodule before it in at="
        )
    first_names = {id(module): name for name, module in model.named_modules()}
    names = [first_names[id(_find(name, modules))] for name in at]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PartitionError(f"at: {twice[0]!r} is named twice; name each cut once")

    recording = record(model, sample, keep=True)
    try:
        return _taken_apart(model, names, sample, recording)
    except PartitionError as error:
        near = _elsewhere(model, names, sample, recording)
        raise PartitionError(f"{error}{near}", verdict=error.verdict) from error


def _taken_apart(model: nn.Module, names: list[str], sample: tuple[Any, ...], recording: Recording) -> Partition:
    rows = next((len(t) for t in pytree.tree_leaves(sample) if isinstance(t, Tensor) and t.dim() > 0), 0)
    whole = {name: bundle for name in names if (bundle := _bundle(name, recording, rows)) is not None}
    names = sorted(names, key=lambda name: recording.calls[name][0].end)
    bundles = _needed(model, names, sample, recording, whole)
    edges = _edges(names, recording, bundles)

    pieces = _pieces(model, names, recording, bundles)
    expect_state_apart(model, pieces, sample, recording)
    try:
        expect_no_bypass(pieces, names, edges, sample, recording)
    except PartitionError:
        # Random numbers that the model draws between its submodules are drawn by several pieces, so that their streams
        # differ from the whole model's; where none are drawn, the pieces must agree all the same.
        if not model.training:
            raise
        with _evaluating(model):
            again = record(model, sample, keep=True)
            expect_no_bypass(pieces, names, _edges(names, again, bundles), sample, again)
    parameters = _parameters(model, pieces, sample, [None, *edges], names)
    return Partition(tuple(names), pieces, parameters, tuple(edges), bundles, recording.output)


def _elsewhere(model: nn.Module, names: list[str], sample: tuple[Any, ...], recording: Recording) -> str:
    """For the message: the cut nearest to the one that is refused, with weights on both sides of it."""

    def works(name: str) -> bool:
        try:
            return all(_taken_apart(model, [name], sample, recording).parameters)
        except PartitionError:
            return False

    refused = next((name for name in names if name in recording.calls and not works(name)), None)
    if refused is None:
        return ""
    depth, end = refused.count("."), recording.calls[refused][-1].end
    near = [name for name, calls in recording.calls.items() if len(calls) == 1 and name.count(".") <= depth]
    near.sort(key=lambda name: abs(recording.calls[name][0].end - end))
    found = next((name for name in near[:TRIED_ELSEWHERE] if name != refused and works(name)), None)
    return f"; the nearest cut that works is {found!r}" if found else ""


def _find(name: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    if name and name in modules:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=3) or [known for known in modules if known][:5]
    raise PartitionError(f"at: the model has no submodule {name!r}; the nearest names are {', '.join(map(repr, near))}")


def _edges(names: Sequence[str], recording: Recording, bundles: Mapping[str, Bundle]) -> list[Tensor]:
    """What crosses each cut."""
    outputs = ((bundles.get(name), recording.calls[name][0].output) for name in names)
    return [output if bundle is None else bundle.pack(output) for bundle, output in outputs]


def _needed(
    model: nn.Module, names: list[str], sample: tuple[Any, ...], recording: Recording, whole: Mapping[str, Bundle]
) -> dict[str, Bundle]:
    """Of what can cross each cut, what is used behind it; from the last cut on, whose needs are those before it too."""
    found, recorder = dict(whole), Recorder(model)
    for entry, leave in reversed([*zip(names, [*names[1:], None], strict=False)]):
        if len(found[entry].leaves if entry in found else ()) > 1:
            piece = Excerpt(model, recorder, entry=entry, leave=leave, recording=recording, bundles=found)
            found[entry] = needed(piece, found[entry], entry, sample, recording)
    return found


def _bundle(name: str, recording: Recording, rows: int) -> Bundle | None:
    """What of the submodule's output can cross the cut; None: it is one tensor. Raises `PartitionError`."""
    calls = recording.calls.get(name, ())
    if len(calls) != 1:
        raise PartitionError(
            f"at: {name!r} was called {len(calls)} times in the forward pass of the sample, expected once; "
            f"cut at a submodule that every batch passes exactly once",
            verdict=Verdict.NEVER,
        )
    output = calls[0].output
    if not isinstance(output, Tensor):
        if found := tuple(place for place, leaf in enumerate(pytree.tree_leaves(output)) if _can_cross(leaf, rows)):
            return Bundle.of(output, found)
        raise PartitionError(
            f"at: {name!r} returns a {type(output).__name__} without a floating tensor that has a row for each of the "
            f"{rows} examples; cut at a submodule that returns one",
            verdict=Verdict.NEVER,
        )
    if not output.is_floating_point():
        raise PartitionError(
            f"at: {name!r} returns {output.dtype}, expected a floating type; no gradient can pass there",
            verdict=Verdict.NEVER,
        )
    if output.dim() < 2 or len(output) != rows:
        raise PartitionError(
            f"at: {name!r} returns shape {tuple(output.shape)} for a batch of {rows}, expected one row of features for "
            f"each example; cut where the batch is the first dimension, with features behind it",
            verdict=Verdict.NOT_YET,
        )
    return None


def _can_cross(leaf: Any, rows: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() > 1 and len(leaf) == rows


def _pieces(
    model: nn.Module, names: list[str], recording: Recording, bundles: Mapping[str, Bundle]
) -> tuple[Piece, ...]:
    if type(model) is nn.Sequential and all(name in model._modules for name in names) and not bundles:
        members = list(model._modules.items())
        ends = [next(i for i, (key, _) in enumerate(members) if key == name) + 1 for name in names]
        edges = zip([0, *ends], [*ends, len(members)], strict=True)
        return tuple(Slice(nn.Sequential(OrderedDict(members[low:high]))) for low, high in edges)
    recorder = Recorder(model)
    edges = zip([None, *names], [*names, None], strict=True)
    return tuple(
        Excerpt(model, recorder, entry=entry, leave=leave, recording=recording, bundles=bundles)
        for entry, leave in edges
    )


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    """Every submodule in eval mode; each goes back to its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


# ---- whose parameter is it -------------------------------------------------------------------------------------------


def _parameters(
    model: nn.Module,
    pieces: tuple[Piece, ...],
    sample: tuple[Any, ...],
    edges: list[Tensor | None],
    names: list[str],
) -> tuple[dict[str, nn.Parameter], ...]:
    """Each piece's parameters: those its output depends on; those no output depends on, where their module stands.

    Raises:
        PartitionError: a parameter on which two pieces' outputs depend.
    """
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    owners: dict[int, int] = {}
    for index, (piece, received) in enumerate(zip(pieces, edges, strict=True)):
        for parameter in _used(piece, sample, received):
            if id(parameter) in owners:
                shared = " (also ".join(map(repr, aliases[id(parameter)])) + ")" * (len(aliases[id(parameter)]) - 1)
                raise PartitionError(
                    f"the weight {shared} is used on both sides of a cut: in {_place(owners[id(parameter)], names)} "
                    f"and in {_place(index, names)}; untie it, or move the cuts so that one stage has both uses"
                )
            owners[id(parameter)] = index
    for index, piece in enumerate(pieces):
        for parameter in piece.parameters():  # a stub's are not its piece's
            owners.setdefault(id(parameter), index)
    # What no piece ever runs moves with the first, where it does no harm: calling it would be refused.
    found: tuple[dict[str, nn.Parameter], ...] = tuple({} for _ in pieces)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[owners.get(id(parameter), 0)][name] = parameter
    return found


def _used(piece: Piece, sample: tuple[Any, ...], received: Tensor | None) -> Iterable[nn.Parameter]:
    """The parameters that the piece's output depends on, found by walking its autograd graph."""
    with torch.enable_grad(), random_preserved([t for t in (received, *piece.parameters()) if t is not None]):
        output = call_preserved(piece, sample, None if received is None else cut(received))
    nodes = [t.grad_fn for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.grad_fn is not None]
    seen, found = set(nodes), {}
    while nodes:
        node = nodes.pop()
        if isinstance(variable := getattr(node, "variable", None), nn.Parameter):
            found[id(variable)] = variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return found.values()


def _place(index: int, names: list[str]) -> str:
    if index == len(names):
        return f"stage {index} (behind {names[-1]!r})"
    return f"stage {index} (up to {names[index]!r})"
