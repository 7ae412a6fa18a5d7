"""Real processes for tests: started together, and ended by force when they take too long."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(
    world: int, target: Callable[..., None], folder: Path, *arguments: Any, deadline: float = 60.0
) -> list[int | None]:
    """Run `target(rank, folder, *arguments)` in as many processes; their exit codes, -SIGKILL of those that hung."""
    context = mp.get_context("spawn")
    processes = [context.Process(target=_begin, args=(rank, world, target, folder, arguments)) for rank in range(world)]
    end = time.monotonic() + deadline
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, end - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _begin(rank: int, world: int, target: Callable[..., None], folder: Path, arguments: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=30))
    target(rank, folder, *arguments)
    dist.destroy_process_group()
