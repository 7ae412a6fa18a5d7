"""What a user expects of two processes that one process does: half precision, compiled stages, clipping, evaluation.

Each is held against the local engine, bit for bit.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.engines.distributed import DistributedEngine

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from problems import ADAM, CLASSES, batches, cuts, perceptron  # noqa: E402
from processes import run_processes  # noqa: E402

STEPS = 5
Ended = dict[str, Any]


def made(compile: Callable[[nn.Module], object] = lambda module: None, **given: Any) -> sg.Decoupled:
    torch.manual_seed(0)
    model = perceptron(2, batch_norm=True, dropout=True)
    for member in model:
        compile(member)
    settings: dict[str, Any] = {
        "synthesizer": partial(sg.LinearSynthesizer, classes=CLASSES),
        "schedule": sg.update_unlocked(delay=1),
    } | given
    sample = next(batches(1, 16))
    settings |= {"sample": sample, "loss": F.cross_entropy, "optimizer": ADAM, "timeout": 20.0}
    return sg.decouple(model, at=cuts(model), **settings)


def ended(net: sg.Decoupled, **more: Any) -> Ended:
    net.flush()
    net.gather()
    if isinstance(net.engine, DistributedEngine):
        net.engine.close()
    state = {key: value for key, value in net.state_dict().items() if isinstance(value, Tensor)}
    return {"state": state, **more}


def half_precision(*, whole_run: bool, recompute: bool) -> Ended:
    """Autocast around each step, or around the whole run: what was cast before an update must not be used again."""
    net = made(recompute=recompute)
    activations: list[torch.dtype] = []
    net.stages[0].piece.module.register_forward_hook(lambda _module, _args, output: activations.append(output.dtype))
    half = partial(torch.autocast, "cpu", torch.bfloat16)
    with half() if whole_run else nullcontext():
        for x, y in batches(STEPS, 16):
            with nullcontext() if whole_run else half():
                net.step(x, target=y)
            net.eval()
            with half(), torch.no_grad():
                net(x)  # what is cast here has no graph
            net.train()
    with half():
        return ended(net, activations=activations)


def compiled(backend: str | None) -> Ended:
    net = made(lambda module: module.compile(backend=backend) if backend else None)
    for rows in (16, 16, 9):
        x, y = next(batches(1, rows))
        net.step(x, target=y)
    return ended(net)


def in_the_middle() -> Ended:
    """Clipped, with falling learning rates, and evaluated between the steps."""
    net = made(clip=0.1, lr_schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5))
    x, y = next(batches(1, 16, seed=9))
    outputs = []
    for step, (inputs, target) in enumerate(batches(STEPS, 16)):
        net.step(inputs, target=target)
        if step % 2:
            net.gather()
            net.eval()
            with torch.no_grad():
                outputs.append(net(x))
            net.train()
    rates = [group["lr"] for one in net.engine.stages for group in one.piece.optimizer.param_groups]  # type: ignore
    return ended(net, outputs=outputs, rates=sorted(set(rates)))


SCENARIOS: dict[str, Callable[[], Ended]] = {
    "half precision around each step": partial(half_precision, whole_run=False, recompute=False),
    "half precision around the run": partial(half_precision, whole_run=True, recompute=False),
    "half precision around each step, recomputed": partial(half_precision, whole_run=False, recompute=True),
    "half precision around the run, recomputed": partial(half_precision, whole_run=True, recompute=True),
    "not compiled": partial(compiled, None),
    "compiled": partial(compiled, "aot_eager"),
    "evaluated in the middle": in_the_middle,
}


def play_all(rank: int, folder: Path) -> None:
    torch.save({name: scenario() for name, scenario in SCENARIOS.items()}, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Ended]]:
    folder = tmp_path_factory.mktemp("two")
    assert run_processes(2, play_all, folder, deadline=90) == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def expect_the_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_end_with_the_bits_of_one(played: list[dict[str, Ended]], name: str) -> None:
    one = SCENARIOS[name]()
    for found in played:
        expect_the_same(found[name]["state"], one["state"])


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("half")])
def test_in_half_precision_what_crosses_the_cut_is_half_as_large(played: list[dict[str, Ended]], name: str) -> None:
    assert set(played[0][name]["activations"]) == {torch.bfloat16}


def test_autocast_around_the_run_is_autocast_around_each_step(played: list[dict[str, Ended]]) -> None:
    for way in ("", ", recomputed"):
        step, run = (played[1][f"half precision around {what}{way}"]["state"] for what in ("each step", "the run"))
        expect_the_same(run, step)


def test_compiled_stages_learn_what_others_learn(played: list[dict[str, Ended]]) -> None:
    for key, value in played[0]["not compiled"]["state"].items():
        torch.testing.assert_close(played[0]["compiled"]["state"][key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_evaluation_between_steps_sees_all_weights_and_disturbs_nothing(played: list[dict[str, Ended]]) -> None:
    one = in_the_middle()
    for found in played:
        seen = found["evaluated in the middle"]
        assert len(seen["outputs"]) == 2 and all(map(torch.equal, seen["outputs"], one["outputs"]))
        assert seen["rates"] == one["rates"] == [ADAM.keywords["lr"] * 0.5**STEPS]  # type: ignore


def test_a_model_that_is_compiled_as_a_whole_is_refused() -> None:
    whole: Any = torch.compile(perceptron(2), backend="eager")
    with pytest.raises(sg.PartitionError, match="compiled as a whole.*compile its layers in place"):
        sg.decouple(whole, at=["s0"], sample=next(batches(1, 16)), loss=F.cross_entropy, optimizer=ADAM)


class Residual(nn.Module):
    """No chain: its stages run the model's own forward pass, which is recorded anew for batches of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.3)) for _ in range(3))
        self.join = nn.ModuleList(nn.Identity() for _ in range(3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block, join in zip(self.blocks, self.join, strict=True):
            x = join(x + block(x))
        return self.head(x)


@pytest.mark.parametrize("compile", ["its blocks", "all of it"])
def test_a_model_whose_modules_are_compiled_in_place_is_cut_and_learns_as_it_is(compile: str) -> None:
    ends = []
    for backend in ("eager", None):
        torch.manual_seed(0)
        model = Residual()
        for module in [] if backend is None else [model] if compile == "all of it" else model.blocks:
            module.compile(backend=backend)
        sample = next(batches(1, 16))
        if compile == "its blocks":
            model(sample[0])  # compiled before anybody looks at it
        torch.manual_seed(1)
        net = sg.decouple(model, at=["join.0", "join.1"], sample=sample, loss=F.cross_entropy, optimizer=ADAM)
        for rows in (16, 16, 9):
            x, y = next(batches(1, rows))
            net.step(x, target=y)
        ends.append(net.state_dict())
    expect_the_same(*({key: value for key, value in end.items() if isinstance(value, Tensor)} for end in ends))
