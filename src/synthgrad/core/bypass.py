"""What goes round a cut: found by running each piece of a model alone.

In a piece, what ended before it is zeros. So whatever bypasses a cut, be it a skip, a mask or a counter in a module
that contains the cut, would be zeros too, and wrong. The pieces are tried on the sample, with NaN for zeros, and must
give the model's values bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.bundle import Bundle
from synthgrad.core.errors import PartitionError, Verdict
from synthgrad.core.piece import Answer, Excerpt, Piece
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.recording import Recording, record

__all__ = ["expect_no_bypass", "expect_state_apart", "needed"]


def needed(piece: Excerpt, bundle: Bundle, name: str, sample: tuple[Any, ...], recording: Recording) -> Bundle:
    """Of the tensors that can cross the cut before a piece, those it uses: other values there change what it gives.

    If it uses none, that is the first; if it cannot be run alone, all of them.

    Args:
        piece: it receives all of them.
        bundle: which they are.
        name: of that cut.
        sample: the model's inputs.
        recording: of the model on the sample, with values.
    """
    output = recording.calls[name][0].output
    tensors = bundle.tensors(output)

    def given(tensors: list[Tensor]) -> Any:
        piece.answer_with(_truth(recording))
        try:
            with torch.no_grad(), random_preserved([*piece.parameters(), *tensors]):
                return call_preserved(piece, sample, bundle.join(tensors).clone())
        finally:
            piece.answer_with(None)

    def is_used(place: int) -> bool:
        others = ([*tensors[:place], change(tensors[place]), *tensors[place + 1 :]] for change in (_nan, _other))
        try:
            return not all(_same(given(other), truth) for other in others)
        except _TRIED:
            return True

    try:
        truth = given(tensors)
    except _TRIED:
        return bundle
    used = tuple(leaf for place, leaf in enumerate(bundle.leaves) if is_used(place))
    return Bundle.of(output, used or bundle.leaves[:1])


def expect_no_bypass(
    pieces: Sequence[Piece],
    names: Sequence[str],
    edges: Sequence[Tensor],
    sample: tuple[Any, ...],
    recording: Recording,
) -> None:
    """Run each piece alone on the sample, and expect what the whole model computed there.

    Args:
        pieces: of the model, in order.
        names: of the cuts, one less.
        edges: what crosses each cut.
        sample: the model's inputs.
        recording: of the model on the sample, with values.

    Raises:
        PartitionError: something bypasses a cut; it is named.
    """
    with random_preserved([*pieces[0].parameters()]):  # the pieces in turn draw the random numbers of one pass
        for index, piece in enumerate(pieces):
            received = edges[index - 1] if index else None
            expected = edges[index] if index < len(edges) else recording.output
            what = _crossing(piece, sample, received, expected, recording) if isinstance(piece, Excerpt) else None
            if what is not None:
                raise PartitionError(
                    f"{what} bypasses the cut at {names[max(index - 1, 0)]!r} and is used behind it; cut where all "
                    f"that passes is what one submodule returns, in floating tensors with a row for each example, for "
                    f"instance at the end of the block that contains both",
                    verdict=Verdict.NOT_YET,
                )
            _gives(piece, sample, received, expected)  # draws the random numbers that are this piece's


def _gives(
    piece: Piece, sample: tuple[Any, ...], received: Tensor | None, expected: Any, answer: Answer | None = None
) -> bool:
    """Whether the piece, run alone, gives what is expected; on the way, whether it writes into what it receives."""
    given = None if received is None else received.clone()
    version = None if given is None else given._version
    if isinstance(piece, Excerpt):
        piece.answer_with(answer)
    try:
        with torch.no_grad():
            return _same(call_preserved(piece, sample, given), expected)
    except _TRIED:
        return False
    finally:
        piece.changes_input |= given is not None and given._version != version
        if isinstance(piece, Excerpt):
            piece.answer_with(None)


# What a forward pass may raise when it computes with values that make no sense: an index out of range, say.
_TRIED = (RuntimeError, IndexError, ValueError, AssertionError)


def _crossing(
    piece: Excerpt, sample: tuple[Any, ...], received: Tensor | None, expected: Any, recording: Recording
) -> str | None:
    """What the piece uses besides what it received, as text; None if that is nothing. Draws no random numbers.

    What can be had from the batch again, as masks and positions can, the piece is told to run anew. Where that does not
    help, since it needs something else in its turn, it is that which bypasses the cut.
    """

    def gives(answer: Answer) -> bool:
        with random_preserved([*piece.parameters()]):
            return _gives(piece, sample, received, expected, answer)

    while (used := _used_besides(piece, gives, recording)) is not None:
        if not used:
            return "something computed before it"
        if used == piece.stand_ins.entry:
            return f"more of the output of {used!r}"
        if any(name.startswith(f"{used}.") for name in recording.changed | recording.moved) or not piece.run_anew(used):
            return f"the output of {used!r}"
    return None


def _used_besides(piece: Excerpt, gives: Callable[[Answer], bool], recording: Recording) -> str | None:
    """The submodule whose output the piece uses, of those that are stubs in it; empty if it is something else."""
    truth = _truth(recording)
    wrong = (_wrong(recording, _nan), _wrong(recording, _other))
    if all(gives(answer) for answer in wrong):
        return None
    if not gives(truth):
        return ""
    for answer in wrong:
        for suspect in piece.stubs():

            def one_wrong(name: str, call: int, a: Answer = answer, wrong: str = suspect) -> Any:
                return (a if name == wrong else truth)(name, call)

            if not gives(one_wrong):
                return suspect
    return None  # the piece only cannot bear all of these values at once


def _truth(recording: Recording) -> Answer:
    """Stubs answer what the submodules returned."""
    return lambda name, call: recording.calls[name][call].output


def _wrong(recording: Recording, change: Callable[[Tensor], Tensor]) -> Answer:
    """Stubs answer what the submodules returned, changed."""
    return lambda name, call: pytree.tree_map_only(Tensor, change, recording.calls[name][call].output)


def _nan(values: Tensor) -> Tensor:
    """NaN; where the type has none, other values."""
    return torch.full_like(values, torch.nan) if values.is_floating_point() or values.is_complex() else _other(values)


def _other(values: Tensor) -> Tensor:
    """Other values of the same type, which a comparison passes on where it would not NaN."""
    if values.dtype is torch.bool:
        return ~values
    return 1 - 2 * values if values.is_floating_point() or values.is_complex() else values + 1


def expect_state_apart(
    model: nn.Module, pieces: Sequence[Piece], sample: tuple[Any, ...], recording: Recording
) -> None:
    """Raise `PartitionError` if a module that contains a cut changes its own state: each piece would do it again."""
    names = {id(module): name for name, module in model.named_modules()}
    for module in pieces[0].split() if isinstance(pieces[0], Excerpt) else []:
        name = names[id(module)]
        remedy = f"move it into a submodule of its own, or cut around {name or 'the model'!r}"
        for key, _ in module.named_buffers(recurse=False):
            full = f"{name}.{key}".lstrip(".")
            if full in recording.changed:
                raise PartitionError(
                    f"the buffer {full!r} is changed by a module that contains a cut, so every piece would change it; "
                    f"{remedy}"
                )
        for full in sorted(recording.moved):  # what moves once and then stays is a cache, made anew where it is missing
            own = full.rpartition(".")[0] == name
            if own and full in record(model, sample, keep=False).moved:
                raise PartitionError(
                    f"the attribute {full!r}, no tensor of the model's state, is changed by a module that contains a "
                    f"cut, and the pieces would not pass it on; {remedy}"
                )


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
