"""What there is of a stage to be saved, by names of the whole model: weights, optimizers, learning-rate schedules.

Who holds the stage, and which stages are held beside it, does not show in the names.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from synthgrad.core.errors import CheckpointError
from synthgrad.core.plan import Plan
from synthgrad.core.stage import Stage
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.engines.local import LocalEngine

__all__ = ["Net", "changes", "identity", "own_state", "stage_state"]

EXTRA_STATE = "_extra_state"


class Net(Protocol):
    """What has a checkpoint; a `Decoupled`."""

    stages: list[Stage]
    plan: Plan
    engine: LocalEngine | DistributedEngine
    lr_schedulers: list[torch.optim.lr_scheduler.LRScheduler]

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Any]:
        """As of every module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """As of every module."""
        ...

    def get_submodule(self, target: str) -> nn.Module:
        """As of every module."""
        ...


def identity(net: Net) -> dict[str, Any]:
    """What tells one model in stages from another, beside its tensors; as JSON gives it back."""
    plan, stages = net.plan, net.stages
    return {
        "cuts": [stage.name for stage in stages[:-1]],
        "schedule": plan.schedule.name,
        "actions": plan.schedule.text(len(stages), plan.schedule.lateness + 2),
        "synthesizers": [type(stage.synthesizer.module).__name__ if stage.synthesizer else None for stage in stages],
        "input synthesizers": [
            type(stage.input_synthesizer.module).__name__ if stage.input_synthesizer else None for stage in stages
        ],
    }


def stage_state(net: Net, stage: Stage) -> dict[str, Any]:
    """All that it takes to go on with the stage: plain values, and tensors among them."""
    return {
        "model": own_state(net, stage),
        "optimizers": _optimizers(net, stage),
        "lr_schedules": [scheduler and scheduler.state_dict() for scheduler in _schedulers(net, stage)],
    }


def own_state(net: Net, stage: Stage) -> dict[str, Any]:
    """The entries of the net's `state_dict` that are the stage's. What no stage has goes with the first one."""
    homes: dict[int, int] = {}  # a tensor's or a module's stage
    for other in reversed(net.stages):
        for learner in other.learners:
            module = learner.module
            homes.update((id(one), other.index) for one in (*module.modules(), *module.parameters(), *module.buffers()))

    def home(key: str, value: Any) -> int:
        if isinstance(value, Tensor):
            return homes.get(id(value), 0)
        parent = key.removesuffix(EXTRA_STATE).removesuffix(".")
        inside = parent if parent.startswith("synthgrad.") else f"plain.{parent}".removesuffix(".")
        return homes.get(id(net.get_submodule(inside)), 0)

    return {key: value for key, value in net.state_dict(keep_vars=True).items() if home(key, value) == stage.index}


def _names(net: Net) -> dict[int, str]:
    """For each parameter its (first) name in the whole model."""
    found: dict[int, str] = {}
    for key, value in net.state_dict(keep_vars=True).items():
        found.setdefault(id(value), key)
    return found


def _optimizers(net: Net, stage: Stage) -> dict[str, dict[str, Any]]:
    """By the name of a parameter, what its optimizer keeps of it, and the settings of its group."""
    names, found = _names(net), {}
    for learner in stage.learners:
        if learner.optimizer is None:
            continue
        state = learner.optimizer.state_dict()
        for group, saved in zip(learner.optimizer.param_groups, state["param_groups"], strict=True):
            settings = {key: value for key, value in saved.items() if key != "params"}
            for parameter, place in zip(group["params"], saved["params"], strict=True):
                found[names[id(parameter)]] = {"state": state["state"].get(place), "group": settings}
    return found


def _optimizer_state(net: Net, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What the optimizer's `load_state_dict` takes."""
    names, state, groups = _names(net), {}, []
    for group, here in zip(optimizer.param_groups, optimizer.state_dict()["param_groups"], strict=True):
        of = {place: names[id(one)] for one, place in zip(group["params"], here["params"], strict=True)}
        if missing := [name for name in of.values() if name not in saved]:
            raise CheckpointError(f"the checkpoint has no optimizer state of {missing[0]!r}; it was not trained there")
        state |= {place: saved[name]["state"] for place, name in of.items() if saved[name]["state"] is not None}
        first = saved[next(iter(of.values()))]["group"] if of else here
        if other := [name for name in of.values() if repr(saved[name]["group"]) != repr(first)]:
            raise CheckpointError(f"the optimizer has {other[0]!r} in another group of parameters than the checkpoint")
        groups.append({**first, "params": here["params"]})
    return {"state": state, "param_groups": groups}


def _schedulers(net: Net, stage: Stage) -> list[torch.optim.lr_scheduler.LRScheduler | None]:
    """The learning-rate schedule of each learner of the stage."""
    found = {id(one.optimizer): one for one in net.lr_schedulers}
    return [found.get(id(learner.optimizer)) for learner in stage.learners]


def changes(net: Net, stage: Stage, loaded: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """What is to be done once all ranks have read theirs."""
    yield lambda: net.load_state_dict(loaded["model"], strict=False)
    for learner in stage.learners:
        if learner.optimizer is not None:
            state = _optimizer_state(net, learner.optimizer, loaded["optimizers"])
            yield lambda optimizer=learner.optimizer, state=state: optimizer.load_state_dict(state)
    for scheduler, saved in zip(_schedulers(net, stage), loaded["lr_schedules"], strict=True):
        if (scheduler is None) != (saved is None):
            here = "no learning-rate schedule" if scheduler is None else "a learning-rate schedule"
            raise CheckpointError(f"stage {stage.index}: got {here} here, and the opposite in the checkpoint")
        if scheduler is not None:
            yield lambda scheduler=scheduler, saved=saved: scheduler.load_state_dict(saved)
