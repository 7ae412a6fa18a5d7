"""A plan as a script that runs as it stands: every process makes the model, and trains the stages of its rank."""

from pathlib import Path
from typing import Any

from synthgrad.planning.advice import Advice

__all__ = ["script"]

_MEAN = "torch.nn.functional.cross_entropy"
_OF_TOKENS = f"lambda output, target: {_MEAN}(output.flatten(0, -2), target.flatten())"


def script(advice: Advice, build: str, target: Any, *, loss: bool) -> str:
    """`train.py`: ten steps on the sample batch, by the option that the advice takes.

    Args:
        advice: for several devices.
        build: where the model comes from, `FILE.py:FUNCTION` or `PACKAGE.MODULE:FUNCTION`.
        target: of the sample; decides the loss, as in `profile`.
        loss: whether the function returns one, too.
    """
    place, _, name = build.rpartition(":")
    beside = f", beside {Path(place).name}" if place.endswith(".py") else ""
    made = "model, sample, loss" if loss else "model, sample"
    return f"""\
# train.py{beside}
import torch
import torch.distributed as dist

import synthgrad as sg
{_import(place, name)}

dist.init_process_group("gloo")
torch.manual_seed(0)  # every process makes the same model and the same batches
{made} = {name}()
{advice.call("loss" if loss else _loss(target))}
*inputs, target = sample
for _ in range(10):  # put your batches here
    loss = net.step(*inputs, target=target).loss
net.gather()  # now every process has the whole model
if dist.get_rank() == dist.get_world_size() - 1:  # the last stage's, which has the loss first
    print(f"loss {{loss:.4f}}")
dist.destroy_process_group()
"""


def _import(place: str, name: str) -> str:
    """A file is found beside the script."""
    module = Path(place).stem if place.endswith(".py") else place
    if all(part.isidentifier() for part in module.split(".")):
        return f"from {module} import {name}"
    return f"from importlib import import_module\n\n{name} = import_module({module!r}).{name}"


def _loss(target: Any) -> str:
    """What `profile` takes where no loss is given: for class indices or for values."""
    if target.is_floating_point():
        return "torch.nn.functional.mse_loss"
    return _MEAN if target.dim() == 1 else _OF_TOKENS
