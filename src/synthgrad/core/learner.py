"""A learner: a module with the optimizer that trains it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from synthgrad.core.boundary import back_propagate
from synthgrad.core.errors import SynthgradError

__all__ = ["Learner", "OptimizerFactory", "Replicas", "clipped"]

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Replicas(Protocol):
    """The processes that train the same module, each on rows of its own."""

    def add_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make each parameter's gradient the sum over all of them."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all of them."""
        ...

    def total(self, number: int) -> int:
        """The sum of a number over all of them."""
        ...


@dataclass
class Learner:
    """A module with the optimizer that trains it, if there is anything to train.

    Attributes:
        module: a piece of the model, a synthesizer or an input synthesizer; a recurrent core.
        parameters: those that the optimizer updates; a piece may share its other ones with nobody.
        optimizer: None where there are no parameters.
        replicas: None where this process trains the module alone.
    """

    module: Any
    parameters: list[nn.Parameter] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None
    replicas: Replicas | None = None

    @classmethod
    def of(
        cls, module: nn.Module, optimizer: OptimizerFactory, parameters: list[nn.Parameter] | None = None
    ) -> "Learner":
        """The module with an optimizer for the given parameters; for all that can be trained, if none are given.

        Raises:
            SynthgradError: the optimizer holds others besides, or not all of them.
        """
        if parameters is None:
            parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        made = optimizer(parameters) if parameters else None
        if made is not None:
            _expect_own(made, parameters)
        return cls(module, parameters, made)

    def follow(self) -> None:
        """Take what the optimizer remembers to where the parameters have gone, and to their type."""
        if self.optimizer is not None and self.optimizer.state:
            self.optimizer.load_state_dict(self.optimizer.state_dict())

    def update(self) -> None:
        """One optimizer step from all gradients accumulated since the last one."""
        if self.optimizer is not None:
            if self.replicas is not None:
                self.replicas.add_up(self.parameters)
            self.optimizer.step()
            torch.clear_autocast_cache()  # it has casts of the weights as they were
            self.forget()

    def forget(self) -> None:
        """Drop the accumulated gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def rehearse(self, look: Callable[[Tensor], None]) -> None:
        """Take the further optimizer steps that a synthesizer asks for.

        Args:
            look: is shown each loss first, and raises where it is not finite.
        """
        if self.replicas is not None:
            for sums in self.module.sums():
                sums.copy_(self.replicas.sum(sums))
        for loss, rows in self.module.rehearse():
            look(loss.detach())
            back_propagate(loss / (rows if self.replicas is None else self.replicas.total(rows)))
            self.update()


def clipped(optimizer: OptimizerFactory, norm: float) -> OptimizerFactory:
    """The optimizer, with gradients scaled down before each step to an L2 norm of at most `norm`, all in one vector.

    Raises:
        SynthgradError: the norm is not above 0.
    """
    if not norm > 0:
        raise SynthgradError(f"clip={norm}: expected a norm above 0, or None for no bound")

    def made(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        def clip(*_: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, norm)

        clipping = optimizer(parameters)
        clipping.register_step_pre_hook(clip)
        return clipping

    return made


def _expect_own(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    expected = {id(parameter) for parameter in parameters}
    if set(held) != expected:
        others, missing = len(set(held) - expected), len(expected - set(held))
        raise SynthgradError(
            f"optimizer: got one with {others} parameters of others and without {missing} of the {len(expected)} that "
            f"it was called with, expected these alone: each stage steps when it is ready; make a new optimizer in "
            f"each call, from all that is given (in groups, if need be)"
        )
