"""All that a decoupled net has learned, as one `state_dict`: for loops that write checkpoints of their own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from synthgrad.core.errors import CheckpointError, SynthgradError
from synthgrad.decoupled import Decoupled
from synthgrad.engines.message import News
from synthgrad.engines.state import changes, identity, stage_state

__all__ = ["Idle", "NetState", "expect_one_process"]


class NetState:
    """Weights, optimizers, learning-rate schedules, synthesizers and the count of steps of a net in one process.

    Args:
        net: made by `decouple`.
    """

    def __init__(self, net: Decoupled) -> None:
        self.net = net

    def state_dict(self) -> dict[str, Any]:
        """Pending lessons are learned first, as by `Decoupled.save`."""
        self.net.flush()
        stages = [stage_state(self.net, stage) for stage in self.net.stages]
        return {
            "of": identity(self.net),
            "steps": self.net.engine.steps,
            "seed": self.net.stages[0].draws.seed,
            "stages": pytree.tree_map(lambda one: one.detach() if isinstance(one, Tensor) else one, stages),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            CheckpointError: it is of another model; nothing has changed.
        """
        here = identity(self.net)
        if other := [what for what in here if state["of"].get(what) != here[what]]:
            raise CheckpointError(
                f"the checkpoint is of another model: its {other[0]}: {state['of'].get(other[0])}, here: "
                f"{here[other[0]]}; load it into what it was saved from"
            )
        todo = [
            change
            for stage, saved in zip(self.net.stages, state["stages"], strict=True)
            for change in changes(self.net, stage, saved)
        ]
        self.net.flush()
        for change in todo:
            change()
        self.net.engine.resume(state["steps"], News())
        for stage in self.net.stages:
            stage.draws.seed = state["seed"]


class Idle(torch.optim.Optimizer):
    """For loops that want one optimizer for the whole: it steps over nothing, since each stage has its own."""

    def __init__(self) -> None:
        super().__init__([torch.zeros(())], {})

    def step(self, closure: Any = None) -> Any:
        """Nothing, but what the loop hangs on it."""
        return None if closure is None else closure()


def expect_one_process(processes: int, who: str) -> None:
    """Raise `SynthgradError` where a launcher would have every process train the whole net on data of its own."""
    if processes > 1:
        raise SynthgradError(
            f"{who}: got {processes} processes, expected 1: each would train the whole net on a part of the data, and "
            f"nobody would bring the weights together; start one process for each stage with torchrun instead, and use "
            f"net.step or sg.Trainer"
        )
