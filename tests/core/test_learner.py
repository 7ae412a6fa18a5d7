"""A module with its optimizer; and gradients that are clipped, stage by stage."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.core.learner import Learner, clipped

SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
BOUND = 0.6


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 3)))


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (3 * torch.randn(12, 6, generator=generator), torch.randint(0, 3, (12,), generator=generator))
        for _ in range(count)
    ]


@pytest.mark.parametrize("microbatches", [1, 2])
def test_each_stage_is_clipped_as_torch_clips_it(microbatches: int) -> None:
    """Back-propagation, so that the gradients are known. Some lie above the bound, some below."""
    ours, plain, norms = model(), model(), []
    net = sg.decouple(
        ours,
        at=["0"],
        sample=batches(1)[0],
        loss=F.cross_entropy,
        synthesizer=None,
        optimizer=SGD,
        schedule=sg.gpipe(microbatches),
        clip=BOUND,
    )
    optimizers = [SGD(list(stage.parameters())) for stage in plain]
    for x, y in batches(6):
        net.step(x, target=y)
        for part, target in zip(x.chunk(microbatches), y.chunk(microbatches), strict=True):
            (F.cross_entropy(plain(part), target) / microbatches).backward()
        for stage, optimizer in zip(plain, optimizers, strict=True):
            norms.append(float(nn.utils.clip_grad_norm_(stage.parameters(), BOUND)))
            optimizer.step()
            optimizer.zero_grad()
    assert min(norms) < BOUND < max(norms)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_synthesizers_are_not_clipped() -> None:
    """With a bound of almost nothing the stages stand still, and what stands at the cut still learns."""
    sgd = partial(torch.optim.SGD, lr=0.5)
    net = sg.decouple(model(), at=["0"], sample=batches(1)[0], loss=F.cross_entropy, optimizer=sgd, clip=1e-12)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for x, y in batches(3):
        net.step(x, target=y)
    moved = {key: float((value - before[key]).abs().max()) for key, value in net.state_dict().items()}
    assert max(by for key, by in moved.items() if not key.startswith("synthgrad.")) < 1e-9
    assert max(by for key, by in moved.items() if key.startswith("synthgrad.")) > 1e-4


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_an_error(norm: float) -> None:
    with pytest.raises(sg.SynthgradError, match="clip=.*expected a norm above 0"):
        clipped(SGD, norm)


def test_a_learner_without_parameters_has_nothing_to_update() -> None:
    learner = Learner.of(nn.Tanh(), clipped(SGD, 1.0))
    assert learner.optimizer is None
    learner.update()
