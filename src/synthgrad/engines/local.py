"""The local engine: all stages in this process, products handed over in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from synthgrad.core.actions import Action, Kind
from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Batch
from synthgrad.core.events import ActionDone
from synthgrad.core.plan import Line, Plan, line_of, readers
from synthgrad.core.run import run
from synthgrad.core.stage import Passage, Stage

__all__ = ["LocalEngine", "Mailbox", "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a step gave.

    Attributes:
        loss: the mean loss of the whole batch, a scalar without graph; NaN where the last stage did not run.
        agreement: by the name of the cut, of the targets that were learned from in this step.
    """

    loss: Tensor
    agreement: dict[str, Agreement]


class Mailbox:
    """A transport within one process: keeps what an action made until all who wait for it have had it."""

    def __init__(self) -> None:
        self.products: dict[Action, Any] = {}
        self._waiting: dict[Action, set[Action]] = {}

    def send(self, action: Action, product: Any, to: tuple[Action, ...]) -> None:
        """Keep the product for `to`; with nobody waiting it is dropped."""
        if to:
            self.products[action], self._waiting[action] = product, set(to)

    def receive(self, action: Action, *, by: Action) -> Any:
        """The product, and drop it if `by` was the last to wait for it."""
        self._waiting[action].remove(by)
        if self._waiting[action]:
            return self.products[action]
        del self._waiting[action]
        return self.products.pop(action)

    def clear(self) -> None:
        """Drop everything."""
        self.products.clear()
        self._waiting.clear()

    def __len__(self) -> int:
        return len(self.products)


class LocalEngine:
    """Runs a plan step by step.

    Args:
        stages: in order.
        plan: of these stages, validated.
        observe: told of every action that has ended.
    """

    def __init__(
        self, stages: Sequence[Stage], plan: Plan, *, observe: Callable[[ActionDone], None] | None = None
    ) -> None:
        self.stages = list(stages)
        self.plan = plan
        self.observe = observe
        self.mailbox = Mailbox()
        self.steps = 0  # steps done
        self.since = 0  # the step of the last flush: nothing older is pending

    def step(self, batch: Batch) -> Outcome:
        """Run one step.

        Raises:
            NumericalError: a value is not finite; the step is given up and may be tried again with another batch.
        """
        self._open(list(batch.split(self.plan.schedule.microbatches)))
        self._run(self.plan.lines(self.steps, since=self.since))
        self.steps += 1
        losses, self.stages[-1].losses = self.stages[-1].losses, []
        return Outcome(torch.stack(losses).sum() if losses else torch.tensor(float("nan")), self._take_agreement())

    def flush(self) -> dict[str, Agreement]:
        """Run the late actions that are still pending: before a checkpoint, and at the end; returns their agreement."""
        late = self.plan.flush(self.steps, since=self.since)
        self._run([line_of(action, self.plan) for action in late])
        self.since = self.steps
        return self._take_agreement()

    def abandon(self) -> None:
        """Give up what is under way, pending lessons included."""
        self.mailbox.clear()
        for stage in self.stages:
            stage.abandon()
        self.since = self.steps

    def _run(self, lines: Sequence[Line]) -> None:
        try:
            run(lines, self.stages, self.mailbox, self.observe)
        except BaseException:
            self.abandon()
            raise

    def _open(self, batches: list[Batch]) -> None:
        """Open the passages of a step; gradients that somebody else has left at the weights are not the step's."""
        for stage in self.stages:
            stage.piece.forget()
        last = self.stages[-1].index
        for part, microbatch in enumerate(batches, start=self.steps * len(batches)):
            asked = bool(readers(Action(last, Kind.F, part), self.plan))
            for stage in self.stages:
                kinds = self.plan.kinds(stage.index, part)
                backward = self.plan.backward(stage.index, part)
                stage.passages[part] = Passage(
                    microbatch,
                    self.steps,
                    set(kinds),
                    ends_step=microbatch is batches[-1],
                    sends_gradient=backward is not None and bool(readers(backward, self.plan)),
                    sends_error=asked and stage.index == last,
                )

    def _take_agreement(self) -> dict[str, Agreement]:
        taken = {stage.name: _joined(stage.agreements) for stage in self.stages if stage.agreements}
        for stage in self.stages:
            stage.agreements = []
        return taken


def _joined(parts: list[Agreement]) -> Agreement:
    """All rows of a step's microbatches."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in fields(Agreement)]
    return Agreement(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
