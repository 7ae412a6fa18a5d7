"""Which synthesizer to take where none is named."""

from collections.abc import Callable

from torch import Tensor

from synthgrad.core.synthesizers.contract import Synthesizer
from synthgrad.core.synthesizers.convolutional import ConvSynthesizer
from synthgrad.core.synthesizers.critic import CriticSynthesizer
from synthgrad.core.synthesizers.heads import block_head
from synthgrad.core.synthesizers.linear import LinearSynthesizer

__all__ = ["choice"]


def choice(output: object, target: object) -> Callable[[tuple[int, ...]], Synthesizer]:
    """A factory that suits the task: what came out best in our comparisons; docs/signals.md has their figures.

    A classifier, of examples (B,) or of tokens (B, T), gets critics: on tokens ones that learn the labels with a block
    in the head, elsewhere ones that learn labels and gradients. Where the labels do not fit the activation's rows, the
    linear synthesizer sees them. Everything else gets synthesizers that see the activation alone, and a poorer signal.

    Args:
        output: of the model, on a sample.
        target: of the sample.
    """
    classes = _classes(output, target)
    tokens = isinstance(target, Tensor) and target.dim() == 2

    def build(shape: tuple[int, ...]) -> Synthesizer:
        if classes is not None and tokens == (len(shape) == 2):
            return (
                CriticSynthesizer(shape, classes=classes, learns=("labels",), head=block_head)
                if tokens
                else CriticSynthesizer(shape, classes=classes)
            )
        seen = None if tokens else classes
        return ConvSynthesizer(shape, classes=seen) if len(shape) == 3 else LinearSynthesizer(shape, classes=seen)

    return build


def _classes(output: object, target: object) -> int | None:
    """How many classes there are, if the target holds their indices, one for each row of the output."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or target.is_floating_point():
        return None
    return output.shape[-1] if output.shape[:-1] == target.shape and target.dim() in (1, 2) else None
