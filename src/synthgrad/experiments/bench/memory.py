"""`memory`: the activations that are held at the peak of a step.

Counted are the bytes in distinct storages that autograd has saved or the engine holds, less those of parameters and
batch (optimizers hold none of these). The network: 15 times Linear, BatchNorm, ReLU, a cut after each, and the output
layer as the 16th stage. By how much a step raises the peak of a process's memory stands beside it.
"""

import os
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.schedules import update_unlocked
from synthgrad.core.stage import Passage
from synthgrad.core.synthesizers import LinearSynthesizer
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.engines.local import LocalEngine
from synthgrad.experiments.bench.training import decoupled_net, plain_step, random_batch
from synthgrad.models import fully_connected

__all__ = ["Meter", "held_by", "run"]

Engine = LocalEngine | DistributedEngine

ROWS, WIDTH, LAYERS, CLASSES = 8192, 256, 15, 10  # 15 hidden layers and the output: 16 stages
MIB = 2**20
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Meter:
    """Counts the bytes of distinct storages that are held at one time, and keeps the peak.

    Args:
        without: tensors that are not counted, such as parameters and the batch.
    """

    def __init__(self, without: Iterable[Tensor]) -> None:
        self.peak = 0
        self._without = {_storage(tensor)[0] for tensor in without}
        self._saved: Counter[tuple[int, int]] = Counter()  # how often each (storage, bytes) is saved
        self.held: Callable[[], Iterable[Tensor]] = lambda: ()

    def watching(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which what autograd saves is counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def look(self, *_: Any) -> None:
        """Count what is held now."""
        found = dict(self._saved.keys()) | dict(map(_storage, self.held()))
        self.peak = max(self.peak, sum(size for place, size in found.items() if place not in self._without))

    def _pack(self, tensor: Tensor) -> "_Kept":
        kept, place = _Kept(tensor.detach()), _storage(tensor)
        self._saved[place] += 1
        weakref.finalize(kept, self._release, place)
        self.look()
        return kept

    def _release(self, place: tuple[int, int]) -> None:
        self._saved[place] -= 1
        if not self._saved[place]:
            del self._saved[place]


class _Kept:
    """A saved tensor; it goes when the graph lets go of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _storage(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Ratios of the peaks, and the peaks in MiB; `rounds` steps are looked at, after one to warm up."""
    held = {name: _held(name, rounds) for name in SIDES}
    resident = {name: _in_own_process(name) for name in SIDES}
    figures = {f"{name}_held_mib": size / MIB for name, size in held.items()}
    figures |= {f"{name}_peak_rss_mib": size / MIB for name, size in resident.items()}
    ratios = {f"{name}_over_backprop": size / held["backprop"] for name, size in held.items() if name != "backprop"}
    return ratios, figures


def _held(name: str, rounds: int) -> int:
    step, parameters, batch, engine = SIDES[name]()
    meter = Meter([*parameters, *batch])
    if engine is not None:
        meter.held, engine.observe = lambda: held_by(engine), meter.look
    step()
    with meter.watching():
        for _ in range(rounds):
            step()
    return meter.peak


def held_by(engine: Engine) -> Iterable[Tensor]:
    """What stands in the mailbox and in the stages' passages, graphs excluded: those are autograd's."""
    passages: list[Passage] = [passage for stage in engine.stages for passage in stage.passages.values()]
    values = [
        getattr(passage, name) for passage in passages for name in Passage.__dataclass_fields__ if name != "batch"
    ]
    return (leaf for leaf in pytree.tree_leaves([engine.mailbox.products, values]) if isinstance(leaf, Tensor))


def _in_own_process(name: str) -> int:
    """By how much three steps raise the peak of a fresh process's memory, in bytes."""
    # Large blocks go back to the system when they are freed. By default the C library keeps them, in holes that the
    # next ones do not fit, and the peak would show its habits and not what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    code = f"from synthgrad.experiments.bench.memory import resident; print(resident({name!r}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return int(said.stdout)


def resident(name: str) -> int:
    """By how many bytes three steps raise the peak of this process's memory; -1 where the system does not tell."""
    step, *_ = SIDES[name]()
    if not CLEAR.exists():
        return -1
    CLEAR.write_text("5", encoding="ascii")  # the peak from now on: a child begins with its parent's
    before = _peak()
    for _ in range(3):
        step()
    return _peak() - before


def _peak() -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


Side = tuple[Callable[[], Any], list[Tensor], tuple[Tensor, ...], Engine | None]


def _plain() -> Side:
    model, batch = _network(), random_batch(ROWS, WIDTH, CLASSES)
    return plain_step(model, repeat(batch)), list(model.parameters()), batch, None


def _unlocked(*, recompute: bool = True) -> Side:
    x, y = random_batch(ROWS, WIDTH, CLASSES)
    synthesizer = partial(LinearSynthesizer, classes=CLASSES, rank=16)
    net = decoupled_net(_network(), (x, y), update_unlocked(), synthesizer, recompute=recompute)
    return lambda: net.step(x, target=y), list(net.parameters()), (x, y), net.engine


def _network() -> nn.Sequential:
    return fully_connected(WIDTH, CLASSES, hidden=WIDTH, layers=LAYERS)


SIDES: dict[str, Callable[[], Side]] = {
    "backprop": _plain,
    "update_unlocked": _unlocked,
    "update_unlocked_holding_answers": partial(_unlocked, recompute=False),
}
