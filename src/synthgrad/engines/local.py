"""The local engine: all stages in this process, products handed over in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from synthgrad.core.actions import Action
from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Batch
from synthgrad.core.draws import common_stream
from synthgrad.core.events import ActionDone
from synthgrad.core.plan import Line, Plan, line_of
from synthgrad.core.run import run
from synthgrad.core.stage import Stage
from synthgrad.engines.message import News
from synthgrad.engines.passages import open_passages, take_agreement, take_loss

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

    first = True  # of all ranks
    replica = 0
    group = None

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
        microbatches = list(batch.split(self.plan.schedule.microbatches))
        open_passages(self.stages, self.plan, self.steps, microbatches)
        self._run(self.plan.lines(self.steps, since=self.since))
        self.steps += 1
        return Outcome(take_loss(self.stages[-1]), take_agreement(self.stages))

    def flush(self) -> dict[str, Agreement]:
        """Run the late actions that are still pending: before a checkpoint, and at the end; returns their agreement."""
        late = self.plan.flush(self.steps, since=self.since)
        self._run([line_of(action, self.plan) for action in late])
        self.since = self.steps
        return take_agreement(self.stages)

    def gather(self) -> None:
        """Bring all stages' weights here, where they are already."""

    def resume(self, steps: int, news: News) -> None:
        """Go on as after so many steps and a flush; nothing may be under way."""
        self.steps = self.since = steps

    def tell_all(self, text: str) -> list[str]:
        """What each rank has to tell: here is one alone."""
        return [text]

    @property
    def news(self) -> News:
        """None: the loss is here at once."""
        return News()

    def abandon(self) -> None:
        """Give up what is under way, pending lessons included."""
        self.mailbox.clear()
        for stage in self.stages:
            stage.abandon()
        self.since = self.steps

    def _run(self, lines: Sequence[Line]) -> None:
        try:
            with common_stream(stage.draws for stage in self.stages):
                run(lines, self.stages, self.mailbox, self.observe)
        except BaseException:
            self.abandon()
            raise
