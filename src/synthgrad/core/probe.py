"""Alignment: synthetic against true gradients, measured by a full pass that leaves no trace."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from synthgrad.core.agreement import Alignment, agree
from synthgrad.core.batch import Batch, Context
from synthgrad.core.boundary import cut
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.stage import Stage

__all__ = ["probe"]


def probe(stages: list[Stage], batch: Batch) -> dict[str, Alignment]:
    """For each cut with a synthesizer, how well its answer aligns with the true gradient of the batch.

    The true gradient is back-propagated through the whole rest of the network on real inputs. Weights, their
    gradients, buffers and the random state are left as they were.

    Returns:
        By the name of the cut: per row at the cut, and of the parameter gradient of the stage below it.
    """
    with torch.enable_grad(), random_preserved([p for stage in stages for p in stage.piece.parameters]):
        passes, context = _forward(stages, batch)
        alignments: dict[str, Alignment] = {}
        true_grad: Tensor | None = None  # of the mean loss, with respect to the stage's output
        for stage, (leaf, output) in zip(reversed(stages), reversed(passes), strict=True):
            wanted = [*([leaf] if leaf is not None else []), *stage.piece.parameters]
            true_grads = _gradients(output, wanted, true_grad)
            if stage.synthesizer is not None and true_grad is not None:
                synthetic_grad = call_preserved(stage.synthesizer.module, output.detach(), context.on(output.device))
                synthetic_grad = synthetic_grad.detach() / batch.count
                ours = _gradients(output, stage.piece.parameters, synthetic_grad)
                theirs = true_grads[len(wanted) - len(stage.piece.parameters) :]
                rows, parameters = (
                    agree(synthetic_grad, true_grad),
                    agree(_vector(ours, output), _vector(theirs, output)),
                )
                alignments[stage.name] = Alignment(rows, parameters)
            true_grad = true_grads[0] if leaf is not None else None
    return {stage.name: alignments[stage.name] for stage in stages if stage.name in alignments}


def _forward(stages: list[Stage], batch: Batch) -> tuple[list[tuple[Tensor | None, Tensor]], Context]:
    """Each stage's input leaf and its output with graph, of the last stage the loss; and the context with the error."""
    passes: list[tuple[Tensor | None, Tensor]] = []
    context = batch.context
    for stage in stages:
        leaf = cut(passes[-1][1]) if passes else None
        output = call_preserved(stage.piece.module, batch.inputs, leaf)
        if stage.loss is not None:
            if any("error" in other.declaration.needs for other in stages):
                context = replace(context, error=stage.loss.error(output, batch))
            output = stage.loss(output, batch)
        passes.append((leaf, output))
    return passes, context


def _gradients(output: Tensor, wanted: Sequence[Tensor], gradient: Tensor | None) -> list[Tensor]:
    """D output / d wanted; zeros for what the output does not depend on. Keeps the graph, for a second gradient."""
    if not wanted or not output.requires_grad:
        return [torch.zeros_like(tensor) for tensor in wanted]
    found = torch.autograd.grad(output, wanted, gradient, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if grad is None else grad for t, grad in zip(wanted, found, strict=True)]


def _vector(gradients: list[Tensor], like: Tensor) -> Tensor:
    """All in one row, (1, D): a stage without parameters has one zero."""
    return torch.cat([gradient.flatten() for gradient in gradients] or [like.new_zeros(1)]).unsqueeze(0)
