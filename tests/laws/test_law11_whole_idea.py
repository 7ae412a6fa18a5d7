"""Law 11: `examples/whole_idea.py`, which imports nothing of ours, ends with the same weights as the local engine."""

import ast
import copy
import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from problems import equal
from torch import Tensor, nn

import synthgrad as sg

PATH = Path(__file__).parents[2] / "examples" / "whole_idea.py"
STEPS = 12


@pytest.fixture(scope="module")
def idea() -> ModuleType:
    spec = importlib.util.spec_from_file_location("whole_idea", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(idea: ModuleType) -> list[tuple[Tensor, Tensor]]:
    x, y, *_ = idea.load_digits()
    return idea.make_batches(x, y, epochs=1, seed=0)[:STEPS]


def ours(
    layers: list[nn.Module],
    data: list[tuple[Tensor, Tensor]],
    idea: ModuleType,
    schedule: sg.Schedule,
    **kinds: object,
) -> sg.Decoupled:
    model = nn.Sequential(*layers)
    net = sg.decouple(
        model,
        at=[str(k) for k in range(idea.LAYERS)],
        sample=data[0],
        loss=F.cross_entropy,
        optimizer=partial(torch.optim.Adam, lr=idea.RATE),
        schedule=schedule,
        **kinds,  # type: ignore
    )
    return net


def train(net: sg.Decoupled, data: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in data:
        net.step(x, target=y)
    net.flush()


def test_it_imports_nothing_of_ours() -> None:
    tree = ast.parse(PATH.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert modules and not any(module.startswith("synthgrad") for module in modules)


def test_back_propagation_ends_with_the_same_weights(idea: ModuleType, data: list[tuple[Tensor, Tensor]]) -> None:
    theirs = idea.make_layers()
    net = ours(copy.deepcopy(theirs), data, idea, sg.backprop())
    idea.train_backprop(theirs, data)
    train(net, data)
    assert equal(net.plain, nn.Sequential(*theirs))


@pytest.mark.parametrize("classes", [None, 10], ids=["dni", "cdni"])
def test_synthetic_gradients_end_with_the_same_weights(
    idea: ModuleType, data: list[tuple[Tensor, Tensor]], classes: int | None
) -> None:
    theirs = idea.make_layers()
    synthesizer = partial(sg.LinearSynthesizer, classes=classes)
    net = ours(copy.deepcopy(theirs), data, idea, sg.update_unlocked(), synthesizer=synthesizer)
    idea.train_decoupled(theirs, [idea.Synthesizer(bool(classes)) for _ in range(idea.LAYERS)], data)
    train(net, data)
    assert equal(net.plain, nn.Sequential(*theirs))


def test_the_zero_gradient_ends_with_the_same_weights(idea: ModuleType, data: list[tuple[Tensor, Tensor]]) -> None:
    theirs = idea.make_layers()
    net = ours(copy.deepcopy(theirs), data, idea, sg.update_unlocked(), synthesizer=sg.ZeroSynthesizer)
    idea.train_decoupled(theirs, None, data)
    train(net, data)
    assert equal(net.plain, nn.Sequential(*theirs))


def test_the_complete_unlock_ends_with_the_same_weights(idea: ModuleType, data: list[tuple[Tensor, Tensor]]) -> None:
    theirs = idea.make_layers()
    net = ours(
        copy.deepcopy(theirs),
        data,
        idea,
        sg.forward_unlocked(),
        synthesizer=partial(sg.LinearSynthesizer, classes=idea.C),
        input_synthesizer=partial(sg.MLPInputSynthesizer, hidden=idea.D),
    )
    predictors = [copy.deepcopy(stage.input_synthesizer.module.net) for stage in net.stages if stage.input_synthesizer]
    synthesizers = [idea.Synthesizer(True) for _ in range(idea.LAYERS)]
    idea.train_unlocked(theirs, synthesizers, predictors, data)
    train(net, data)
    assert equal(net.plain, nn.Sequential(*theirs))
