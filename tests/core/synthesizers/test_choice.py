"""What is taken where no synthesizer is named."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.core.synthesizers import Synthesizer, choice

LABELS, TOKEN_LABELS = torch.zeros(5, dtype=torch.long), torch.zeros(5, 7, dtype=torch.long)


@pytest.mark.parametrize(
    ("output", "target", "shape", "kind", "classes", "feedback"),
    [
        (torch.rand(5, 3), LABELS, (6,), sg.CriticSynthesizer, 3, {"gradient"}),
        (torch.rand(5, 3), LABELS, (4, 8, 8), sg.CriticSynthesizer, 3, {"gradient"}),
        (torch.rand(5, 7, 3), TOKEN_LABELS, (7, 6), sg.CriticSynthesizer, 3, set()),
        # The labels do not fit the rows: one for each example, and activations of tokens; or the other way round.
        (torch.rand(5, 3), LABELS, (7, 6), sg.LinearSynthesizer, 3, {"gradient"}),
        (torch.rand(5, 7, 3), TOKEN_LABELS, (6,), sg.LinearSynthesizer, None, {"gradient"}),
        (torch.rand(5, 7, 3), TOKEN_LABELS, (4, 8, 8), sg.ConvSynthesizer, None, {"gradient"}),
        # No classes.
        (torch.rand(5, 3), torch.rand(5, 3), (6,), sg.LinearSynthesizer, None, {"gradient"}),
        (torch.rand(5, 1), torch.rand(5), (4, 8, 8), sg.ConvSynthesizer, None, {"gradient"}),
        ((torch.rand(5, 3),), LABELS, (6,), sg.LinearSynthesizer, None, {"gradient"}),
        (torch.rand(5, 3), {"y": LABELS}, (6,), sg.LinearSynthesizer, None, {"gradient"}),
    ],
)
def test_the_task_and_the_activation_decide(
    output: object,
    target: object,
    shape: tuple[int, ...],
    kind: type[Synthesizer],
    classes: int | None,
    feedback: set[str],
) -> None:
    synthesizer = choice(output, target)(shape)
    assert type(synthesizer) is kind
    assert synthesizer.classes == classes and synthesizer.feedback == feedback


def test_decouple_says_what_it_takes_and_learns_with_it(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(64, 6)
    y = x[:, :3].argmax(1)
    with caplog.at_level(logging.INFO, logger="synthgrad"):
        net = sg.decouple(
            model,
            at=["1"],
            sample=(x, y),
            loss=F.cross_entropy,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        )
    assert "cut '1': synthesizer= was not given, taking CriticSynthesizer" in caplog.text
    losses = [float(net.step(x, target=y).loss) for _ in range(100)]
    assert losses[-1] < 0.3 * losses[0]
    assert net.locks == {sg.Lock.FORWARD}


@pytest.mark.parametrize("schedule", [sg.backprop(), sg.gpipe(2), sg.one_f_one_b(2)])
def test_a_schedule_that_asks_nobody_gets_none(schedule: sg.Schedule) -> None:
    net = sg.decouple(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)),
        at=["1"],
        sample=(torch.randn(4, 6), torch.zeros(4, dtype=torch.long)),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD,
        schedule=schedule,
    )
    assert net.stages[0].synthesizer is None
