"""The two borders of a step, for every engine: open its passages, and take what it gave."""

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.actions import Action, Kind
from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Batch
from synthgrad.core.plan import Plan, readers
from synthgrad.core.stage import Passage, Stage

__all__ = ["open_passages", "take_agreement", "take_loss"]


def open_passages(stages: Sequence[Stage], plan: Plan, step: int, batches: Sequence[Batch]) -> None:
    """Open the passages of a step; gradients that somebody else has left at the weights are not the step's.

    Args:
        stages: some or all of the plan's.
        plan: says what each stage will do with each microbatch.
        step: the step.
        batches: its microbatches.
    """
    for stage in stages:
        stage.piece.forget()
        if torch.cuda.is_initialized():
            stage.draws.watch(_devices(stage, batches[0]))
    for part, microbatch in enumerate(batches, start=step * len(batches)):
        asked = bool(readers(Action(plan.last, Kind.F, part), plan))
        for stage in stages:
            kinds = plan.kinds(stage.index, part)
            backward = plan.backward(stage.index, part)
            stage.passages[part] = Passage(
                microbatch,
                step,
                set(kinds),
                part,
                ends_step=microbatch is batches[-1],
                sends_gradient=backward is not None and bool(readers(backward, plan)),
                sends_error=asked and stage.index == plan.last,
            )


def _devices(stage: Stage, batch: Batch) -> set[torch.device]:
    tensors = [leaf for leaf in pytree.tree_leaves(batch.inputs) if isinstance(leaf, Tensor)]
    return {tensor.device for tensor in (*tensors, *(p for one in stage.learners for p in one.module.parameters()))}


def take_loss(stage: Stage) -> Tensor:
    """The mean loss since it was last taken, a scalar; NaN where the (last) stage did not run."""
    losses, stage.losses = stage.losses, []
    return torch.stack(losses).sum() if losses else torch.tensor(float("nan"))


def take_agreement(stages: Sequence[Stage]) -> dict[str, Agreement]:
    """By the name of the cut, the agreement since it was last taken."""
    taken = {stage.name: _joined(stage.agreements) for stage in stages if stage.agreements}
    for stage in stages:
        stage.agreements = []
    return taken


def _joined(parts: list[Agreement]) -> Agreement:
    """All rows of a step's microbatches."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(Agreement)]
    return Agreement(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
