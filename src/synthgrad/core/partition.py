"""Takes a model apart into pieces that can run alone, in any order, in any process, and leaves the model as it is.

A cut is the output of a named submodule. A chain (`nn.Sequential`) is sliced. Any other model runs its own forward:

    model.forward:   embed -> block0 -> [cut] block1 -> block2 -> [cut] block3 -> head
    piece 1 runs:    stub     stub      received        block2    stop there

What ended before the piece is replaced by stubs that return zeros of the recorded shape; the cut's submodule returns
what was received; the forward ends, by an exception, when the next cut's submodule has its output. Whatever the model
computes between its submodules from the raw batch (masks, positions) is simply computed again: every piece has the
batch. Whatever else crosses a cut would be zeros in the piece, and wrong; so the pieces are tried on the sample, with
NaN for zeros, and must give the model's values bit for bit.
"""

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.boundary import cut
from synthgrad.core.errors import PartitionError
from synthgrad.core.piece import Excerpt, Piece, Slice
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.recording import Recorder, Recording, record

__all__ = ["Partition", "partition"]


@dataclass(frozen=True)
class Partition:
    """A model taken apart.

    Attributes:
        names: of the cuts, in the order in which the forward pass comes by.
        pieces: one more than there are cuts.
        parameters: for each piece the parameters it trains, by their name in the model. Every trainable parameter of
            the model belongs to one piece.
        activations: at each cut, what the sample gave, (B, ...).
        output: of the model, on the sample.
    """

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    parameters: tuple[Mapping[str, nn.Parameter], ...]
    activations: tuple[Tensor, ...]
    output: Any


def partition(model: nn.Module, *, at: Sequence[str], sample: tuple[Any, ...]) -> Partition:
    """Take a model apart at the outputs of named submodules. The model is not changed.

    Args:
        model: any module whose forward pass takes `sample`.
        at: names of submodules, as in `model.named_modules()`; none gives one piece.
        sample: positional arguments of the model; at least one tensor whose first dimension is the batch.

    Raises:
        PartitionError: a name that is no submodule (the nearest ones are named), or one that is not called exactly
            once; an output that is no floating tensor with a row for each example; something that bypasses a cut, or a
            weight on both sides of one.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    first_names = {id(module): name for name, module in model.named_modules()}
    names = [first_names[id(_find(name, modules))] for name in at]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PartitionError(f"at: {twice[0]!r} is named twice; name each cut once")

    recording = record(model, sample, keep=True)
    rows = next((len(t) for t in pytree.tree_leaves(sample) if isinstance(t, Tensor) and t.dim() > 0), 0)
    activations = {name: _activation(name, recording, rows) for name in names}
    names.sort(key=lambda name: recording.calls[name][0].end)

    pieces = _pieces(model, names, recording)
    edges = [None, *(activations[name] for name in names)]
    with random_preserved([*model.parameters()]):  # the pieces in turn draw the random numbers of one pass
        for index, piece in enumerate(pieces):
            expected = activations[names[index]] if index < len(names) else recording.output
            _try_alone(piece, index, names, sample, edges[index], expected, recording)
    parameters = _parameters(model, pieces, sample, edges, names)
    return Partition(tuple(names), pieces, parameters, tuple(activations[name] for name in names), recording.output)


def _find(name: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    if name and name in modules:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=3) or [known for known in modules if known][:5]
    raise PartitionError(f"at: the model has no submodule {name!r}; the nearest names are {', '.join(map(repr, near))}")


def _activation(name: str, recording: Recording, rows: int) -> Tensor:
    """What crosses the cut. Raises `PartitionError` if it cannot be one."""
    calls = recording.calls.get(name, ())
    if len(calls) != 1:
        raise PartitionError(
            f"at: {name!r} was called {len(calls)} times in the forward pass of the sample, expected once; "
            f"cut at a submodule that every batch passes exactly once"
        )
    output = calls[0].output
    if not isinstance(output, Tensor):
        raise PartitionError(
            f"at: {name!r} returns a {type(output).__name__}, expected one tensor; cut at a submodule that returns one"
        )
    if not output.is_floating_point():
        raise PartitionError(
            f"at: {name!r} returns {output.dtype}, expected a floating type; no gradient can pass there"
        )
    if output.dim() == 0 or len(output) != rows:
        raise PartitionError(
            f"at: {name!r} returns shape {tuple(output.shape)} for a batch of {rows}, expected one row for each "
            f"example; cut where the batch is the first dimension"
        )
    return output


def _pieces(model: nn.Module, names: list[str], recording: Recording) -> tuple[Piece, ...]:
    if type(model) is nn.Sequential and all(name in model._modules for name in names):
        members = list(model._modules.items())
        ends = [next(i for i, (key, _) in enumerate(members) if key == name) + 1 for name in names]
        edges = zip([0, *ends], [*ends, len(members)], strict=True)
        return tuple(Slice(nn.Sequential(OrderedDict(members[low:high]))) for low, high in edges)
    recorder = Recorder(model)
    edges = zip([None, *names], [*names, None], strict=True)
    return tuple(Excerpt(model, recorder, entry=entry, leave=leave, recording=recording) for entry, leave in edges)


# ---- what crosses a cut ----------------------------------------------------------------------------------------------


def _try_alone(
    piece: Piece,
    index: int,
    names: list[str],
    sample: tuple[Any, ...],
    received: Tensor | None,
    expected: Any,
    recording: Recording,
) -> None:
    """Run the piece alone on the sample, stubs returning NaN. Raises `PartitionError`, naming what bypasses the cut."""
    given = None if received is None else received.clone()

    def gives(answer: Any) -> bool:
        if isinstance(piece, Excerpt):
            piece.answer_with(answer)
        try:
            with torch.no_grad():
                return _same(call_preserved(piece, sample, given), expected)
        finally:
            if isinstance(piece, Excerpt):
                piece.answer_with(None)

    version = None if given is None else given._version
    same = gives(lambda name, call, shapes: _poisoned(shapes, sample))
    if given is not None and given._version != version:
        piece.changes_input = True
        given = received
    if same:
        return
    crossing = []
    for suspect in piece.stubs() if isinstance(piece, Excerpt) else []:

        def answer(name: str, call: int, shapes: Any, suspect: str = suspect) -> Any:
            return _poisoned(shapes, sample) if name == suspect else recording.calls[name][call].output

        if not gives(answer):
            crossing.append(suspect)
    what = f"the output of {crossing[0]!r}" if crossing else "something computed before it"
    raise PartitionError(
        f"{what} bypasses the cut at {names[index - 1] if index else names[0]!r} and is used behind it; "
        f"cut where only one tensor passes, for instance at the end of the block that contains both"
    )


def _poisoned(shapes: Any, sample: tuple[Any, ...]) -> Any:
    """NaN of the given shapes; zeros where the type has no NaN."""
    device = next((t.device for t in pytree.tree_leaves(sample) if isinstance(t, Tensor)), torch.device("cpu"))

    def poison(t: Tensor) -> Tensor:
        value = float("nan") if t.is_floating_point() or t.is_complex() else 0
        return torch.full(t.shape, value, dtype=t.dtype, device=device)

    return pytree.tree_map_only(Tensor, poison, shapes)


def _same(got: Any, expected: Any) -> bool:
    """Whether two trees are equal: bit for bit on the CPU, nearly elsewhere, where kernels may add in any order."""
    ours, theirs = pytree.tree_leaves(got), pytree.tree_leaves(expected)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            close = torch.equal if a.device.type == "cpu" else torch.allclose
            if a.shape != b.shape or not close(a, b):
                return False
        elif type(a) is not type(b):
            return False
    return True


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
        for parameter in piece.parameters():
            owners.setdefault(id(parameter), index)
    found: tuple[dict[str, nn.Parameter], ...] = tuple({} for _ in pieces)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) in owners:
            found[owners[id(parameter)]][name] = parameter
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
