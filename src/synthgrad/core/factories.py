"""What stands at the cuts: made by factories from the shapes there, and tried on the sample."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from synthgrad.core.errors import PartitionError, ShapeError
from synthgrad.core.partition import Partition
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.synthesizers import InputSynthesizer, Synthesizer, choice

__all__ = [
    "InputSynthesizerFactory",
    "SynthesizerFactory",
    "Synthesizers",
    "expect_answer",
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
        module = factory(tuple(inputs[0].shape[1:]), tuple(activation.shape[1:]))
        module = module.to(activation.device, activation.dtype)
        expect_answer(f"input synthesizer behind {name!r}", module, inputs, activation)
        found.append(module)
    return found


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
