"""Measuring a model: what every segment between two possible cuts costs, and what a synthesizer there would.

The segments are made into stages of the real kind and run by the real engine; so what is measured is what will run.
"""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from synthgrad.core.actions import Kind
from synthgrad.core.batch import Batch, Context, Loss
from synthgrad.core.boundary import back_propagate, cut
from synthgrad.core.combined import eager
from synthgrad.core.cost import saved_by
from synthgrad.core.errors import PlanningError
from synthgrad.core.events import ActionDone
from synthgrad.core.factories import InputSynthesizerFactory, SynthesizerFactory, expect_answer
from synthgrad.core.partition import Partition
from synthgrad.core.pipelines import zero_bubble
from synthgrad.core.plan import Plan, validate
from synthgrad.core.preserve import random_preserved
from synthgrad.core.schedules import Schedule, backprop, update_unlocked
from synthgrad.core.stage import Learner, Stage
from synthgrad.core.synthesizers import MLPInputSynthesizer, choice
from synthgrad.engines.local import LocalEngine
from synthgrad.engines.ranks import found_by_first
from synthgrad.planning.balance import Segment, balance
from synthgrad.planning.candidates import cut_everywhere

__all__ = ["balanced_cuts", "profile", "rows_of"]

SECONDS, FEWEST, MOST = 15.0, 3, 30  # to measure for, and rounds
# Features that the input synthesizer which is taken by itself reads and writes: no more, or it outgrows the model.
MOST_PREDICTED = 2**16


def balanced_cuts(
    model: nn.Module,
    sample: tuple[Any, ...],
    stages: int,
    *,
    loss: Callable[[Any, Any], Tensor] | Loss | None = None,
    synthesizer: SynthesizerFactory | None = None,
    unlocked: bool = True,
    seconds: float = SECONDS,
    timeout: float = 300.0,
) -> list[str]:
    """Where to cut a model so that its slowest stage is as fast as can be: `decouple(model, at=balanced_cuts(...))`.

    Every segment between two possible cuts is timed on the sample, here and now: let nothing else run meanwhile. With
    several processes, all call it; rank 0 measures and chooses, the others wait for it and get the same names.

    Args:
        model: any module; it is not changed.
        sample: a batch: the model's positional arguments, if need be `Keywords`, and last the target.
        stages: how many stages to make.
        loss: as in `decouple`; if not given, what suits a target of class indices, or squares.
        synthesizer: as in `decouple`; if not given, the task decides which.
        unlocked: count the synthesizers' work; False for schedules that wait for gradients.
        seconds: to measure for, about.
        timeout: with several processes, how many seconds the others wait for rank 0.

    Returns:
        stages - 1 names of submodules.

    Raises:
        PlanningError: no sample with a target, or fewer places to cut than asked for; the message names them.
        TransportError: on the other ranks, rank 0 could not measure, or did not in time.

    >>> model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    >>> sample = torch.randn(16, 8), torch.randint(0, 8, (16,))
    >>> len(balanced_cuts(model, sample, stages=2))
    1
    """

    def found() -> list[str]:
        segments = profile(model, sample, loss=loss, synthesizer=synthesizer, seconds=seconds)
        return [segments[end].name for end in balance(segments, stages, unlocked=unlocked)]

    return found_by_first(found, "choosing cuts", timeout)


def profile(
    model: nn.Module,
    sample: tuple[Any, ...],
    *,
    loss: Callable[[Any, Any], Tensor] | Loss | None = None,
    synthesizer: SynthesizerFactory | None = None,
    input_synthesizer: InputSynthesizerFactory | None = None,
    among: Sequence[str] | None = None,
    seconds: float = SECONDS,
) -> list[Segment]:
    """Measure the segments between all places where the model can be cut; a copy of the model is trained for it.

    Times are lower quartiles over the rounds: what else the machine does only ever adds to one. The updates are Adam's.

    Args:
        model: it is not changed.
        sample: the model's positional arguments, if need be `Keywords`, and last the target.
        loss: as in `decouple`; if not given, what suits the target.
        synthesizer: as in `decouple`; if not given, the task decides which.
        input_synthesizer: as in `decouple`; if not given, a perceptron, where the model's first input has values (and
            not indices) to predict from, and not too many.
        among: names of submodules; cut only there.
        seconds: to measure for, about; at least 3 rounds are run.

    Raises:
        PlanningError: no sample with a target; no loss that suits it; a model that cannot be copied or cut.
        PartitionError: the model cannot be cut at one of `among`.
        ShapeError: an input synthesizer does not predict what crosses a cut.
    """
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise PlanningError(
            f"sample: got {type(sample).__name__}, expected a batch to measure with: a tuple of the model's arguments "
            f"and, last, the target"
        )
    try:
        model = copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise PlanningError(
            f"model: cannot be copied ({error}); it is measured on a copy, so give one that can"
        ) from None
    *arguments, target = sample
    parts = cut_everywhere(model, tuple(arguments), among)
    criterion = loss if isinstance(loss, Loss) else Loss(_loss_for(parts.output, target) if loss is None else loss)
    rows = rows_of(sample)
    criterion.measure(parts.output, target, rows)
    labels = Context(target if isinstance(target, Tensor) else None, torch.arange(rows))
    batch = Batch.of(tuple(arguments), target, labels, criterion)
    with random_preserved([*pytree.tree_leaves(arguments), *model.parameters()]):
        stages = _stages(parts, synthesizer or choice(parts.output, target), criterion)
        times = _measured(stages, batch, seconds)
        found = [_segment(stage, parts, times, batch) for stage in stages]
        if factory := input_synthesizer or _predictor(parts, tuple(arguments)):
            for place, activation in enumerate(parts.activations):
                found[place] = _with_predictor(found[place], activation, factory, batch)
    return found


def rows_of(sample: tuple[Any, ...]) -> int:
    """How many examples the batch has."""
    return next((len(t) for t in pytree.tree_leaves(sample) if isinstance(t, Tensor) and t.dim() > 0), 0)


def _stages(parts: Partition, synthesizer: SynthesizerFactory, loss: Loss) -> list[Stage]:
    factories = [*(synthesizer for _ in parts.names), None]
    stages = []
    for index, (piece, parameters) in enumerate(zip(parts.pieces, parts.parameters, strict=True)):
        factory, at_cut = factories[index], None
        if factory is not None:
            activation = parts.activations[index]
            module = factory(tuple(activation.shape[1:])).to(activation.device, activation.dtype)
            at_cut = _learner(module, [p for p in module.parameters() if p.requires_grad])
        name, own = [*parts.names, "output"][index], _learner(piece, list(parameters.values()))
        stages.append(Stage(index, name, own, synthesizer=at_cut, loss=None if factory else loss))
    for place, stage in enumerate(stages):
        before = stages[:place]
        stage.tells_output = any(one.synthesizer and "output" in one.synthesizer.module.feedback for one in before)
    return stages


def _learner(module: nn.Module, parameters: list[nn.Parameter]) -> Learner:
    # At a rate of 0 a step takes as long as any, and the weights stay good however often one measures.
    return Learner(module, parameters, torch.optim.Adam(parameters, lr=0.0) if parameters else None)


# ---- the clock -------------------------------------------------------------------------------------------------------


def _measured(stages: list[Stage], batch: Batch, seconds: float) -> dict[tuple[str, int, Kind], float]:
    """Seconds of each action, by way, stage and kind: typical of rounds in which the ways take turns."""
    ways: dict[str, Schedule] = {"locked": backprop(), "halves": zero_bubble(1)}
    if len(stages) > 1:
        ways["unlocked"] = eager(update_unlocked())
    taken: dict[tuple[str, int, Kind], list[float]] = {}
    engines = {way: _engine(stages, schedule) for way, schedule in ways.items()}
    device = next((p.device for stage in stages for p in stage.piece.parameters), torch.device("cpu"))
    begin, turned = time.perf_counter(), 0.0
    for round_ in range(-1, MOST):  # the first one warms up
        for way, engine in engines.items():

            def note(done: ActionDone, way: str = way) -> None:
                nonlocal turned
                stage, kind, _ = done.action
                # On a GPU an action ends with its work, and not when that has been handed over.
                seconds = done.end - done.start if device.type == "cpu" else _now(device) - turned
                taken.setdefault((way, stage, kind), []).append(seconds)
                turned = _now(device)

            engine.observe = note if round_ >= 0 else None
            turned = _now(device)
            engine.step(batch)
        if round_ + 1 >= FEWEST and time.perf_counter() - begin > seconds:
            break
    return {what: _typical(times) for what, times in taken.items()}


def _typical(times: Sequence[float]) -> float:
    """The lower quartile: what else the machine does only ever adds to a time."""
    return sorted(times)[len(times) // 4]


def _now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _engine(stages: list[Stage], schedule: Schedule) -> LocalEngine:
    plan = Plan(schedule, tuple(stage.declaration for stage in stages))
    validate(plan)
    return LocalEngine(stages, plan)


def _segment(stage: Stage, parts: Partition, times: dict[tuple[str, int, Kind], float], batch: Batch) -> Segment:
    index, last = stage.index, stage.synthesizer is None

    def of(way: str, kind: Kind) -> float:
        return times.get((way, index, kind), 0.0)

    return Segment(
        stage.name,
        forward=of("locked", Kind.F),
        backward=of("locked", Kind.B),
        input_half=of("halves", Kind.I),
        weight_half=of("halves", Kind.W),
        update=of("locked", Kind.U),
        synthesis=0.0 if last else max(0.0, of("unlocked", Kind.S) - of("locked", Kind.B)),
        lesson=0.0 if last else of("unlocked", Kind.T),
        activation=_saved(stage, None if index == 0 else parts.activations[index - 1], batch),
        boundary=0.0 if last else _bytes([parts.activations[index]]),
        parameters=_bytes(stage.piece.parameters),
        synthesizer=0.0 if stage.synthesizer is None else _bytes(stage.synthesizer.parameters),
    )


def _predictor(parts: Partition, inputs: tuple[Any, ...]) -> InputSynthesizerFactory | None:
    """The perceptron that is taken by itself, if it suits the model's first input and is not too large."""
    first = inputs[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    widest = max((activation[0].numel() for activation in parts.activations), default=0)
    return MLPInputSynthesizer if first[0].numel() + widest <= MOST_PREDICTED else None


def _with_predictor(segment: Segment, activation: Tensor, factory: InputSynthesizerFactory, batch: Batch) -> Segment:
    """With what an input synthesizer behind the cut costs; each is gone again before the next one is made."""
    module = factory(tuple(batch.inputs[0].shape[1:]), tuple(activation.shape[1:]))
    module = module.to(activation.device, activation.dtype)
    expect_answer(f"input synthesizer behind {segment.name!r}", module, batch.inputs, activation)
    learner = _learner(module, list(module.parameters()))
    answers, lessons = list[float](), list[float]()
    for _ in range(1 + 2 * FEWEST):  # the first one warms up
        begin = _now(activation.device)
        predicted = module(*batch.inputs)
        answered = _now(activation.device)
        back_propagate(module.loss(predicted, activation) / batch.rows)
        learner.update()
        answers.append(answered - begin)
        lessons.append(_now(activation.device) - answered)
    return replace(
        segment,
        prediction=_typical(answers[1:]),
        input_lesson=_typical(lessons[1:]),
        predictor=_bytes(learner.parameters),
    )


def _saved(stage: Stage, received: Tensor | None, batch: Batch) -> float:
    """Bytes of distinct storages that autograd saves in the stage's forward pass, its weights excluded."""

    def forward() -> Tensor:
        output = stage.piece.module(batch.inputs, None if received is None else cut(received))
        return output if stage.loss is None else stage.loss(output, batch)

    return float(saved_by(forward, stage.piece.module.parameters()))


def _bytes(tensors: Iterable[Tensor]) -> float:
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def _loss_for(output: Any, target: Any) -> Callable[[Any, Any], Tensor]:
    if isinstance(output, Tensor) and isinstance(target, Tensor):
        if not target.is_floating_point() and output.shape[:-1] == target.shape:
            return lambda scores, labels: functional.cross_entropy(scores.flatten(0, -2), labels.flatten())
        if target.is_floating_point() and output.shape == target.shape:
            return functional.mse_loss
    raise PlanningError(
        "loss: not given, and the target is neither class indices for the output's rows nor values of its shape; give "
        "loss(output, target), as a third value of the build function or as loss="
    )
