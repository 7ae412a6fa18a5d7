"""What waits for what, and for how long: a locked and an unlocked step, traced.

python examples/06_see_the_locks.py                                   one process: played, with the costs measured here
torchrun --nproc-per-node 2 examples/06_see_the_locks.py              two processes: measured

`synthgrad trace runs/locks/backprop` draws what is left there.
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.experiments.traces.prediction import predict

ROWS, WIDTH, CLASSES, STEPS = 256, 512, 10, 20


def main(folder: Path) -> None:
    if "WORLD_SIZE" in os.environ:  # torchrun has started us
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for schedule in (sg.backprop(), sg.update_unlocked(delay=1)):
        name = schedule.name.split("(")[0]
        torch.manual_seed(0)  # every process makes the same model, and the same batches
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(4)]
        x, y = torch.randn(ROWS, WIDTH), torch.randint(0, CLASSES, (ROWS,))
        net = sg.decouple(
            nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)),
            at=["1"],  # two stages
            sample=(x, y),
            loss=F.cross_entropy,
            synthesizer=partial(sg.LinearSynthesizer, classes=CLASSES),
            optimizer=partial(torch.optim.SGD, lr=0.01),
            schedule=schedule,
        )
        with sg.trace(net, folder / name):
            for _ in range(STEPS):
                net.step(x, target=y)
            net.flush()
        net.gather()  # all processes have come so far
        if not dist.is_initialized() or dist.get_rank() == 0:
            trace = sg.read_trace(folder / name)
            measured = dist.is_initialized()
            waiting = trace.waiting() if measured else predict(trace, trace.steps, ranks=(0, 1)).waiting
            times = ", ".join(f"{reason} {1e3 * time / STEPS:.1f}" for reason, time in waiting.items())
            print(f"{name:16} waits, in ms a step: {times}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/locks"))
