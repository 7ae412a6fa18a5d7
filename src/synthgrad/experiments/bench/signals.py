"""`signals`: what each learning signal costs in arithmetic, parameters and bytes; counted, not timed.

The network is the paper's for MNIST: 784 inputs, 4 hidden layers of 256 (Linear, BatchNorm, ReLU), a cut after each;
batches of 256. Arithmetic is that of matrix products and convolutions. Bytes are those that stages would have to send
back to others for a batch: gradients, outputs and errors, if each stage were a process of its own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.utils import _pytree as pytree

from synthgrad.core.actions import Action
from synthgrad.core.cost import arithmetic_of
from synthgrad.decoupled import Decoupled, decouple
from synthgrad.experiments.bench.training import plain_step, random_batch
from synthgrad.experiments.methods import METHODS, Method, factory
from synthgrad.models import fully_connected, layer_names

__all__ = ["run"]

ROWS, INPUTS, CLASSES = 256, 784, 10


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Arithmetic of a step over that of plain back-propagation, and the other figures; `rounds` changes nothing."""
    batch = random_batch(ROWS, INPUTS, CLASSES)
    plain = _flops(plain_step(fully_connected(INPUTS, CLASSES), iter([batch, batch])))
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    for name, method in METHODS.items():
        net = None if method.plain else _net(method, batch)
        ratios[f"{name}_flops_over_backprop"] = 1.0 if net is None else _flops(_step(net, batch)) / plain
        figures[f"{name}_extra_parameters"] = 0 if net is None else sum(p.numel() for p in net.synthgrad.parameters())
        sent = _net(METHODS["staged"], batch) if net is None else net
        figures[f"{name}_kib_back"] = _bytes_back(sent, batch) / 1024
    return ratios, figures


def _net(method: Method, batch: tuple[torch.Tensor, torch.Tensor]) -> Decoupled:
    model = fully_connected(INPUTS, CLASSES)
    settings = {"classes": CLASSES, "outputs": CLASSES, "rank": None, "examples": ROWS}
    return decouple(
        model,
        at=layer_names(model),
        sample=batch,
        loss=functional.cross_entropy,
        optimizer=torch.optim.Adam,
        synthesizer=factory(method.synthesizer, **settings),
        input_synthesizer=factory(method.input_synthesizer, **settings),
        schedule=method.schedule(),
    )


def _step(net: Decoupled, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], Any]:
    x, y = batch
    return lambda: net.step(x, target=y, index=torch.arange(len(x)))


def _flops(step: Callable[[], Any]) -> float:
    """Of the second step: what is made once at the start is left out."""
    step()
    return float(arithmetic_of(step))


def _bytes_back(net: Decoupled, batch: tuple[torch.Tensor, torch.Tensor]) -> int:
    """Of all messages from a later stage to an earlier one."""
    mailbox, counted = net.engine.mailbox, 0
    send = mailbox.send

    def counting(action: Action, product: Any, to: tuple[Action, ...]) -> None:
        nonlocal counted
        behind = {reader.stage for reader in to if reader.stage < action.stage}
        size = sum(leaf.nbytes for leaf in pytree.tree_leaves(product) if isinstance(leaf, torch.Tensor))
        counted += size * len(behind)
        send(action, product, to)

    mailbox.send = counting  # type: ignore[method-assign]
    try:
        _step(net, batch)()
    finally:
        mailbox.send = send  # type: ignore[method-assign]
    return counted
