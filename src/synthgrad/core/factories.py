"""What stands at the cuts: made by factories from the shapes there, and tried on the sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from synthgrad.core.actions import Kind
from synthgrad.core.batch import Context
from synthgrad.core.errors import ContextError, PartitionError, ShapeError, SynthgradError
from synthgrad.core.partition import Partition
from synthgrad.core.plan import Plan
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.stage import Stage
from synthgrad.core.synthesizers import InputSynthesizer, Synthesizer, choice

__all__ = [
    "InputSynthesizerFactory",
    "SynthesizerFactory",
    "Synthesizers",
    "expect_answer",
    "expect_factory",
    "expect_outputs",
    "input_synthesizers",
    "synthesizers",
]

SynthesizerFactory = Callable[[tuple[int, ...]], Synthesizer]
InputSynthesizerFactory = Callable[[tuple[int, ...], tuple[int, ...]], InputSynthesizer]
Synthesizers = SynthesizerFactory | Mapping[str, SynthesizerFactory] | Literal["auto"] | None


def synthesizers(given: Synthesizers, parts: Partition, target: Any) -> list[Synthesizer | None]:
    """One for each cut; `auto`: as the task suggests.

    Raises:
        PartitionError: factories by name for other cuts than there are.
    """
    factories = choice(parts.output, target) if given == "auto" else given
    if isinstance(factories, Mapping) and set(factories) != set(parts.names):
        raise PartitionError(
            f"synthesizer: got factories for {sorted(factories)}, expected one for each of {parts.names}"
        )
    found: list[Synthesizer | None] = []
    for name, activation in zip(parts.names, parts.activations, strict=True):
        factory = factories[name] if isinstance(factories, Mapping) else factories
        if factory is None:
            found.append(None)
            continue
        expect_factory("synthesizer", factory, "partial(LinearSynthesizer, classes=10)")
        found.append(factory(tuple(activation.shape[1:])).to(activation.device, activation.dtype))
    return found


def input_synthesizers(
    factory: InputSynthesizerFactory | None, parts: Partition, inputs: tuple[Any, ...]
) -> list[InputSynthesizer | None]:
    """One behind each cut. Raises `ShapeError` if one does not predict what crosses there."""
    found: list[InputSynthesizer | None] = []
    for name, activation in zip(parts.names, parts.activations, strict=True):
        if factory is None:
            found.append(None)
            continue
        expect_factory("input_synthesizer", factory, "MLPInputSynthesizer")
        module = factory(tuple(inputs[0].shape[1:]), tuple(activation.shape[1:]))
        module = module.to(activation.device, activation.dtype)
        expect_answer(f"input synthesizer behind {name!r}", module, inputs, activation)
        found.append(module)
    return found


def expect_factory(name: str, given: Any, example: str) -> None:
    """Raise `SynthgradError` where one thing is given in place of what makes one for each stage."""
    if not callable(given) or isinstance(given, nn.Module):
        kind = type(given).__name__
        raise SynthgradError(f"{name}: got one {kind}, expected a function that makes one for each stage: {example}")


def expect_answer(who: str, module: nn.Module, arguments: tuple[Any, ...], activation: Tensor) -> None:
    """Raise `ShapeError` if the module does not answer with the activation's shape."""
    shape = tuple(activation.shape)
    remedy = f"build it from the shape that its factory is called with, {shape[1:]}"
    try:
        with torch.no_grad(), random_preserved([activation]):
            answer = call_preserved(module, *arguments)
    except (RuntimeError, IndexError) as error:
        raise ShapeError(f"{who}: cannot take an activation of shape {shape}: {error}; {remedy}") from error
    if answer.shape != activation.shape:
        raise ShapeError(
            f"{who}: got an answer of shape {tuple(answer.shape)}, expected {shape} as the activation; {remedy}"
        )


def expect_outputs(stages: Sequence[Stage], plan: Plan, activations: Sequence[Tensor], context: Context) -> None:
    """Raise `ContextError` if a synthesizer learns from the model's output, and no lesson will ever bring it one.

    Args:
        stages: all of them.
        plan: says which lessons there are, and from whom they come.
        activations: of the sample, at each cut.
        context: of the sample, and an error, if a synthesizer needs one.
    """
    if not any("output" in stage.feedback for stage in plan.stages):
        return
    at_cuts = zip(stages, activations, strict=False)
    told = [_predicts_output(stage, activation, context) for stage, activation in at_cuts]
    mixes = [stage.mixing < 1.0 for stage in stages]
    for stage, after in zip(stages, stages[1:], strict=False):
        asks = stage.synthesizer is not None and "output" in stage.declaration.feedback
        if asks and _is_left_without(stage.index, plan, told, mixes):
            by = type(after.synthesizer.module).__name__ if after.synthesizer else "the stage behind it"
            raise ContextError(
                f"synthesizer at {stage.name!r}: learns from the model's output, but no lesson brings it one: "
                f"{by} at {after.name!r} predicts none; expected one there that does, say CriticSynthesizer, or take "
                f"'output' out of learns= at {stage.name!r}"
            )


class _Answering(nn.Module):
    """A synthesizer that is asked for its whole answer."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        super().__init__()
        self.synthesizer = synthesizer

    def forward(self, activation: Tensor, context: Context) -> Any:
        return self.synthesizer.answer(activation, context)


def _predicts_output(stage: Stage, activation: Tensor, context: Context) -> bool:
    """Whether the stage's synthesizer answers with an output."""
    if stage.synthesizer is None:
        return False
    with torch.no_grad(), random_preserved([activation]):
        return call_preserved(_Answering(stage.synthesizer.module), activation, context).output is not None


def _is_left_without(stage: int, plan: Plan, told: list[bool], mixes: list[bool]) -> bool:
    """Whether the stage has lessons in the first steps, and none of them brings an output."""
    microbatches = range((plan.schedule.lateness + max(8, plan.schedule.period)) * plan.schedule.microbatches)
    lessons = [microbatch for microbatch in microbatches if Kind.T in plan.kinds(stage, microbatch)]
    return bool(lessons) and not any(_brings_output(stage + 1, plan, lesson, told, mixes) for lesson in lessons)


def _brings_output(stage: int, plan: Plan, microbatch: int, told: list[bool], mixes: list[bool]) -> bool:
    """Whether what the stage sends back has an output in it: the real one, or one that its synthesizer predicts."""
    backward = plan.backward(stage, microbatch)
    if stage == plan.last or backward is None:
        return backward is not None
    if told[stage] and (backward.kind is Kind.S or mixes[stage]):
        return True
    return backward.kind is not Kind.S and _brings_output(stage + 1, plan, microbatch, told, mixes)
