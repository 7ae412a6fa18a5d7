"""Whether a model can be cut, and what that costs: told before anything is trained, and without raising."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.batch import Batch, Context, Loss, expect_sample
from synthgrad.core.boundary import cut
from synthgrad.core.cost import arithmetic_of, saved_by
from synthgrad.core.errors import PartitionError, ShapeError, SynthgradError, Verdict
from synthgrad.core.factories import Synthesizers, expect_answer, synthesizers
from synthgrad.core.partition import Partition, partition
from synthgrad.core.piece import Excerpt
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.recording import Recording, record
from synthgrad.core.synthesizers import Feedback, Synthesizer
from synthgrad.decoupled import expect_bare
from synthgrad.planning.advice import size_text

__all__ = ["Crossing", "Finding", "Report", "StageCost", "check"]


@dataclass(frozen=True)
class Finding:
    """Something that stands in the way, or that is good to know.

    Attributes:
        verdict: whether it can never be, is not built yet, or something is to be replaced.
        place: the cut, or the submodule.
        what: is the matter.
        remedy: what to do; empty if there is nothing.
        refused: whether `decouple` raises for it.
    """

    verdict: Verdict
    place: str
    what: str
    remedy: str = ""
    refused: bool = True

    def __str__(self) -> str:
        said = f"{'refused' if self.refused else 'note'}, {self.verdict.value}: {self.place}: {self.what}"
        return f"{said}; {self.remedy}" if self.remedy else said


@dataclass(frozen=True)
class Crossing:
    """What crosses a cut, and what stands there.

    Attributes:
        name: of the cut.
        shape: of the activation on the sample, (B, ...); its gradient's too.
        dtype: likewise.
        bytes: of the activation.
        tensors: how many cross together, as this activation.
        synthesizer: the name of its class; None: gradients pass.
        parameters: of the synthesizer.
        arithmetic: of the synthesizer in one step, its answer and its lesson, in floating point operations.
        share: that arithmetic relative to a forward and a backward pass through the stage before the cut; None where
            that stage has none: an embedding, or layers for which torch has no formula, as recurrent ones.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int
    tensors: int = 1
    synthesizer: str | None = None
    parameters: int = 0
    arithmetic: int = 0
    share: float | None = None


@dataclass(frozen=True)
class StageCost:
    """What a stage costs on the sample.

    Attributes:
        name: the cut behind it, or `output`.
        parameters: that it trains.
        arithmetic: of a forward and a backward pass, in floating point operations.
        saved: bytes that autograd saves in its forward pass: what it holds until its backward pass.
    """

    name: str
    parameters: int
    arithmetic: int
    saved: int


@dataclass(frozen=True)
class Report:
    """What `check` found; printed, it is a table.

    Attributes:
        cuts: in the order in which a batch passes them; none where the model cannot be cut so.
        stages: one more than there are cuts; likewise.
        findings: what stands in the way, and what is good to know.
    """

    cuts: tuple[Crossing, ...]
    stages: tuple[StageCost, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether `decouple` takes the model so."""
        return not any(finding.refused for finding in self.findings)

    def __str__(self) -> str:
        said = ["the model can be cut so" if self.ok else "the model cannot be cut so"]
        if self.stages:
            said += ["", *_aligned([_STAGE, *(_stage_row(stage) for stage in self.stages)])]
        if self.cuts:
            said += ["", *_aligned([_CUT, *(_cut_row(one) for one in self.cuts)])]
        return "\n".join([*said, *[""] * bool(self.findings), *map(str, self.findings)])


def check(
    model: nn.Module,
    *,
    at: Sequence[str],
    sample: tuple[Any, ...],
    loss: Callable[[Any, Any], Tensor] | Loss | None = None,
    synthesizer: Synthesizers = "auto",
) -> Report:
    """Look whether `decouple` would take a model, and what decoupling would cost; the model is left as it is.

    It makes the same pass over the sample as `decouple`, but does not raise where a model cannot be cut: it reports.
    Costs are counted on the sample, in the mode the model is in.

    Args:
        model: any module.
        at: names of the submodules at whose outputs to cut, as in `decouple`.
        sample: the model's positional arguments, and last the target.
        loss: as in `decouple`; if given, it is tried too.
        synthesizer: as in `decouple`.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> report = check(model, at=["1"], sample=(torch.randn(16, 4), torch.randint(0, 3, (16,))))
    >>> report.ok, report.cuts[0].shape
    (True, (16, 8))
    """
    place = "sample"
    try:
        expect_sample(sample)
        place = "the model"
        expect_bare(model)
    except (ShapeError, PartitionError) as error:
        return Report((), (), (_finding(place, error),))
    *arguments, target = sample
    inputs = tuple(arguments)
    try:
        parts = partition(model, at=at, sample=inputs)
    except PartitionError as error:
        return Report((), (), tuple(_refusals(model, at, inputs, error)))
    except Exception as error:  # the model's own
        return Report((), (), (_finding("the model, called with the sample,", error),))
    recording = record(model, inputs, keep=False)
    notes = [*_batch_norms(parts), *_kept_outside_tensors(recording), *_not_on_the_way(model, parts, recording)]
    stages = [_stage_cost(parts, index, inputs) for index in range(len(parts.pieces))]
    cuts = [_crossing(name, one, parts) for name, one in zip(parts.names, parts.activations, strict=True)]
    try:
        modules = synthesizers(synthesizer, parts, target)
        context = _context(parts, inputs, target, loss)
        found = zip(cuts, parts.activations, modules, stages, strict=False)
        cuts = [_with_synthesizer(*one, context, parts.output) for one in found]
    except Exception as error:  # theirs or ours
        notes.insert(0, _finding("loss or synthesizer", error))
    return Report(tuple(cuts), tuple(stages), tuple(notes))


# ---- what stands in the way ------------------------------------------------------------------------------------------


def _refusals(model: nn.Module, at: Sequence[str], inputs: tuple[Any, ...], error: PartitionError) -> Iterator[Finding]:
    """One for each cut that cannot be by itself; if they all can, one for all together."""
    found = False
    for name in () if isinstance(at, str) or len(at) < 2 else dict.fromkeys(at):
        try:
            partition(model, at=[name], sample=inputs)
        except PartitionError as alone:
            found = True
            yield _finding(name, alone)
    if not found:
        yield _finding(at if isinstance(at, str) else ", ".join(at), error)


def _finding(place: str, error: Exception) -> Finding:
    said = str(error) if isinstance(error, SynthgradError) else f"fails with {type(error).__name__}: {error}"
    what, _, remedy = said.removeprefix("at: ").removeprefix("sample: ").partition("; ")
    return Finding(error.verdict if isinstance(error, PartitionError) else Verdict.REPLACE, place, what, remedy)


def _batch_norms(parts: Partition) -> Iterator[Finding]:
    norm = nn.modules.batchnorm._BatchNorm
    named = zip([*parts.names, "output"], parts.pieces, strict=True)
    found = [name for name, piece in named if any(isinstance(one, norm) and one.training for one in piece.modules())]
    if found:
        what = "BatchNorm normalizes over the examples that come together, so microbatches teach something else"
        remedy = "take GroupNorm or LayerNorm, or a schedule with one microbatch"
        yield Finding(Verdict.REPLACE, f"stages up to {', '.join(found)}", what, remedy, refused=False)


def _kept_outside_tensors(recording: Recording) -> Iterator[Finding]:
    """What a second pass still changes; what only the first one changes is a cache."""
    for full in sorted(recording.moved):
        what = "is changed by a forward pass, and is neither parameter nor buffer, so no checkpoint has it"
        yield Finding(Verdict.REPLACE, full, what, "make it a buffer", refused=False)


def _not_on_the_way(model: nn.Module, parts: Partition, recording: Recording) -> Iterator[Finding]:
    """What can learn, was not called, and stands where no one stage would have it if it were: an expert, say."""
    stubs = {name for piece in parts.pieces if isinstance(piece, Excerpt) for name in piece.stubs()}
    named = {name: list(model.get_submodule(name).parameters()) for name in sorted(stubs - recording.calls.keys())}
    if found := [repr(name) for name, own in named.items() if any(one.requires_grad for one in own)]:
        what = "not called on the sample, so a batch that calls them will be refused"
        remedy = "pass a sample that calls them, or cut elsewhere"
        yield Finding(Verdict.REPLACE, ", ".join(found), what, remedy, refused=False)


# ---- what it costs ---------------------------------------------------------------------------------------------------


def _stage_cost(parts: Partition, index: int, inputs: tuple[Any, ...]) -> StageCost:
    piece, parameters = parts.pieces[index], list(parts.parameters[index].values())
    received = None if index == 0 else cut(parts.activations[index - 1])
    made: list[Any] = []

    def forward() -> None:
        made.append(call_preserved(piece, inputs, received))

    def pass_through() -> None:
        made.clear()
        forward()
        _gradients(made[0], [*parameters, *([] if received is None else [received])])

    with torch.enable_grad(), random_preserved([*piece.parameters(), *parts.activations]):
        arithmetic = arithmetic_of(pass_through)
        saved = saved_by(forward, piece.parameters())
    return StageCost([*parts.names, "output"][index], sum(one.numel() for one in parameters), arithmetic, saved)


def _gradients(output: Any, leaves: Sequence[Tensor]) -> None:
    """Those of the sum of all that was put out; they are dropped."""
    ends = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if ends and leaves:
        torch.autograd.grad(ends, leaves, [torch.ones_like(end) for end in ends], allow_unused=True)


def _context(parts: Partition, inputs: tuple[Any, ...], target: Any, loss: Any) -> Context:
    """As a synthesizer would see it. Raises an error of ours where sample, target and loss do not fit together."""
    criterion = loss if isinstance(loss, Loss) else Loss(loss or (lambda output, target: torch.zeros(())))
    rows = len(parts.activations[0]) if parts.activations else len(target)
    criterion.measure(parts.output, target, rows)
    labels = Context(target if isinstance(target, Tensor) else None, torch.zeros(rows, dtype=torch.int64))
    context = Batch.of(inputs, target, labels, criterion).context
    error = torch.zeros_like(parts.output) if isinstance(parts.output, Tensor) else None
    return Context(context.labels, context.index, error)


def _crossing(name: str, activation: Tensor, parts: Partition) -> Crossing:
    bundle = parts.bundles.get(name)
    tensors = 1 if bundle is None else len(bundle.leaves)
    return Crossing(name, tuple(activation.shape), activation.dtype, activation.nbytes, tensors)


def _with_synthesizer(
    crossing: Crossing, activation: Tensor, module: Synthesizer | None, stage: StageCost, context: Context, output: Any
) -> Crossing:
    if module is None:
        return crossing
    module.check(context)
    context = context.on(activation.device)
    expect_answer(f"synthesizer at {crossing.name!r}", module, (activation, context), activation)
    feedback = Feedback(torch.zeros_like(activation), output if isinstance(output, Tensor) else None)
    weights = [one for one in module.parameters() if one.requires_grad]

    def lesson() -> None:
        taught = module.learn(activation, module.answer(activation, context), context, feedback)
        if taught is not None and taught.requires_grad:
            _gradients(taught, weights)

    with torch.enable_grad(), random_preserved([activation]):
        arithmetic = arithmetic_of(lesson)
    share = arithmetic / stage.arithmetic if stage.arithmetic else None
    parameters = sum(one.numel() for one in weights)
    return replace(
        crossing, synthesizer=type(module).__name__, parameters=parameters, arithmetic=arithmetic, share=share
    )


# ---- in words --------------------------------------------------------------------------------------------------------

_STAGE = ("stage up to", "parameters", "arithmetic", "saved")
_CUT = ("cut", "what crosses", "bytes", "synthesizer", "parameters", "arithmetic", "of the stage's")


def _stage_row(stage: StageCost) -> tuple[str, ...]:
    return stage.name, f"{stage.parameters:,}", f"{stage.arithmetic:.3g}", size_text(stage.saved)


def _cut_row(one: Crossing) -> tuple[str, ...]:
    crosses = f"{str(one.dtype).removeprefix('torch.')} {one.shape}" + f", {one.tensors} tensors" * (one.tensors > 1)
    if one.synthesizer is None:
        return one.name, crosses, size_text(one.bytes), "none", "", "", ""
    costs = f"{one.parameters:,}", f"{one.arithmetic:.3g}", "-" if one.share is None else f"{one.share:.1%}"
    return one.name, crosses, size_text(one.bytes), one.synthesizer, *costs


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
