"""Processes of a benchmark: started together on this machine, each a rank; what they found comes back."""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from synthgrad.core.errors import SynthgradError

__all__ = ["on_ranks"]

TIMEOUT = 1800.0  # seconds that a rank waits for another one: longer than any turn


def on_ranks(target: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Any]:
    """Run `target(rank, *arguments)` in so many new processes, on one thread each.

    Args:
        target: a function of a module; what it returns must be JSON.
        arguments: for it; they are sent to the processes.
        world: how many processes.

    Returns:
        What it returned, by rank.

    Raises:
        SynthgradError: a process has failed; its error stands on standard error. The others are ended.
    """
    context = mp.get_context("spawn")
    with TemporaryDirectory(prefix="synthgrad-bench-") as name:
        folder = Path(name)
        ranks = [context.Process(target=_begin, args=(rank, world, folder, target, arguments)) for rank in range(world)]
        try:
            for process in ranks:
                process.start()
            _join(ranks)
        finally:
            for process in ranks:
                if process.is_alive():
                    process.kill()
                process.join()
        return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]


def _join(ranks: Sequence[BaseProcess]) -> None:
    while any(process.is_alive() for process in ranks):
        if failed := {rank: process.exitcode for rank, process in enumerate(ranks) if process.exitcode}:
            time.sleep(1.0)  # the others' own errors say more than that they were ended
            raise SynthgradError(f"benchmark: ranks ended with exit codes {failed}; see their errors above")
        ranks[0].join(0.1)
        time.sleep(0.1 * (not ranks[0].is_alive()))
    if failed := {rank: process.exitcode for rank, process in enumerate(ranks) if process.exitcode}:
        raise SynthgradError(f"benchmark: ranks ended with exit codes {failed}; see their errors above")


def _begin(rank: int, world: int, folder: Path, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if "lo" in {name for _, name in socket.if_nameindex()} and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo looks the host's own name up
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    limit = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=limit)
    found = target(rank, *arguments)
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
