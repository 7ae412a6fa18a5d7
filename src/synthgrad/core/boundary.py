"""The border between two stages: the only place where the autograd graph is cut, and where a gradient is put in.

stage k                 cut                  stage k+1
... -> output  --- detach ---|--> leaf -> ... -> output
^                   |     |
+-- back_propagate -|- leaf.grad, when it has come; or a synthetic gradient, at once
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from synthgrad.core.errors import SynthgradError

__all__ = ["back_propagate", "back_propagate_to", "cut", "expect_gradients", "gradient_at"]


def cut(activation: Tensor, *, differentiable: bool = True) -> Tensor:
    """The same values as a fresh leaf, of which autograd knows no past. Shape as `activation`."""
    return activation.detach().requires_grad_(differentiable)


def back_propagate(output: Tensor, gradient: Tensor | None = None) -> None:
    """Accumulate the gradients of everything below `output`; without `gradient`, `output` is a scalar loss."""
    if output.requires_grad:  # a stage may have nothing to train, and stand before everything that has
        torch.autograd.backward((output,), (gradient,))


def back_propagate_to(leaves: Sequence[Tensor], output: Tensor, gradient: Tensor | None, *, keep: bool) -> None:
    """As `back_propagate`, but only into the given leaves; `keep` the graph for the other half."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if output.requires_grad and wanted:
        torch.autograd.backward((output,), (gradient,), inputs=wanted, retain_graph=keep)


def gradient_at(leaf: Tensor, loss: Tensor, *, keep: bool, differentiable: bool) -> Tensor:
    """D loss / d leaf, accumulated nowhere; `keep` the graph of the loss, and make the gradient `differentiable`."""
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=differentiable, retain_graph=keep)
    return gradient


def expect_gradients(weight: Tensor) -> None:
    """Raise `SynthgradError` where gradients are switched off, or would be lost in float16: weight's or autocast's."""
    device = weight.device.type
    if not torch.is_grad_enabled():
        raise SynthgradError(
            "step: gradients are switched off here, by torch.no_grad or torch.inference_mode, so nothing could be "
            "learned; call it outside"
        )
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.float16
    if autocast or weight.dtype is torch.float16:
        raise SynthgradError(
            "step: runs in float16, in which small gradients are lost, and stages cannot share the scale that would "
            "save them; use bfloat16, or sg.Interface in a loop of your own, which takes scale="
        )
