"""Gradients remembered by example. Legend: B batch, D features."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from synthgrad import (
    Context,
    ContextError,
    Feedback,
    LocalEngine,
    Loss,
    Plan,
    StaleSynthesizer,
    SynthgradError,
    decouple,
)
from synthgrad.core.batch import Batch
from synthgrad.core.combined import eager
from synthgrad.core.learner import Learner
from synthgrad.core.schedules import update_unlocked
from synthgrad.core.stage import Stage

EXAMPLES, WIDTH, CLASSES = 10, 6, 4


def context_of(*index: int) -> Context:
    return Context(index=torch.tensor(index))


def taught(synthesizer: StaleSynthesizer, index: tuple[int, ...], target: Tensor) -> None:
    activation, context = torch.randn_like(target), context_of(*index)
    answer = synthesizer.answer(activation, context)
    assert synthesizer.learn(activation, answer, context, Feedback(target)) is None


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 4)], ids=str)
def test_an_example_never_seen_gets_zero_and_at_its_second_visit_the_first_target(
    decay: float, shape: tuple[int, ...]
) -> None:
    synthesizer, activation = StaleSynthesizer(shape, examples=EXAMPLES, decay=decay), torch.randn(3, *shape)
    assert torch.equal(synthesizer(activation, context_of(7, 0, 3)), torch.zeros(3, *shape))
    target = torch.randn(3, *shape)
    taught(synthesizer, (7, 0, 3), target)
    assert torch.equal(synthesizer(activation, context_of(3, 7, 0)), target[[2, 0, 1]])
    others = [index for index in range(EXAMPLES) if index not in (7, 0, 3)]
    assert not synthesizer(torch.randn(7, *shape), context_of(*others)).any()


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.9])
def test_a_later_visit_replaces_what_was_remembered_or_is_averaged_with_it(decay: float) -> None:
    synthesizer = StaleSynthesizer((WIDTH,), examples=EXAMPLES, decay=decay)
    taught(synthesizer, (3,), torch.ones(1, WIDTH))  # of another example
    targets = [torch.randn(1, WIDTH) for _ in range(4)]
    expected = targets[0]
    for visit, target in enumerate(targets):
        expected = target if visit == 0 else decay * expected + (1 - decay) * target
        taught(synthesizer, (4,), target)
        torch.testing.assert_close(synthesizer(target, context_of(4)), expected, rtol=1e-6, atol=1e-6)


def test_the_answer_is_a_copy_which_the_lesson_leaves_alone() -> None:
    synthesizer = StaleSynthesizer((WIDTH,), examples=EXAMPLES)
    answer = synthesizer(torch.randn(1, WIDTH), context_of(2))
    taught(synthesizer, (2,), torch.ones(1, WIDTH))
    assert not answer.any()


@pytest.mark.parametrize("shape", [(6,), (5, 6), (3, 4, 4)], ids=str)
def test_it_takes_the_memory_it_says(shape: tuple[int, ...]) -> None:
    synthesizer = StaleSynthesizer(shape, examples=EXAMPLES)
    expected = EXAMPLES * torch.Size(shape).numel() * 4 + EXAMPLES
    assert sum(tensor.nbytes for tensor in synthesizer.state_dict().values()) == expected
    assert not list(synthesizer.parameters())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"decay": 1.0}, "decay=1.0: expected 0"),
        ({"decay": -0.1}, "decay=-0.1: expected 0"),
        ({"examples": 0}, "examples=0: expected the size of the data set"),
    ],
)
def test_settings_without_a_meaning_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SynthgradError, match=words):
        StaleSynthesizer((WIDTH,), **({"examples": EXAMPLES} | given))


BAD: dict[str, tuple[Tensor | None, str]] = {
    "missing": (None, "needs index, got none; pass index="),
    "type": (torch.zeros(2), r"torch.float32 and shape \(2,\), expected int64 and \(B,\); pass index="),
    "short type": (torch.zeros(2, dtype=torch.int32), "torch.int32"),
    "shape": (torch.zeros(2, 1, dtype=torch.long), r"shape \(2, 1\), expected int64 and \(B,\)"),
    "too high": (torch.tensor([0, EXAMPLES]), "from 0 to 10, expected 0 to 9; give examples="),
    "negative": (torch.tensor([-1, 3]), "from -1 to 3, expected 0 to 9"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_index_is_refused_with_a_remedy(name: str) -> None:
    index, words = BAD[name]
    synthesizer = StaleSynthesizer((WIDTH,), examples=EXAMPLES)
    before = synthesizer.table.clone()
    with pytest.raises(ContextError, match=f"StaleSynthesizer.*{words}"):
        synthesizer.check(Context(index=index))
    assert torch.equal(synthesizer.table, before) and not synthesizer.seen.any()
    synthesizer.check(context_of(0, EXAMPLES - 1))


# ---- in a network ----------------------------------------------------------------------------------------------------


class Lower(nn.Linear):
    def forward(self, inputs: tuple[Any, ...], received: Tensor | None) -> Tensor:  # type: ignore
        return torch.tanh(super().forward(inputs[0]))


class Upper(nn.Linear):
    def forward(self, inputs: tuple[Any, ...], received: Tensor) -> Tensor:  # type: ignore
        return super().forward(received)


def network(synthesizer: StaleSynthesizer, parts: int) -> tuple[LocalEngine, list[nn.Module]]:
    """Two stages whose weights stay as they are, so that the gradient of one pass is that of the next."""
    pieces: list[nn.Module] = [Lower(WIDTH, WIDTH), Upper(WIDTH, CLASSES)]

    def learner(module: nn.Module) -> Learner:
        return Learner(module, list(module.parameters()))

    stages = [Stage(0, "cut", learner(pieces[0]), synthesizer=learner(synthesizer))]
    stages.append(Stage(1, "output", learner(pieces[1]), loss=Loss(functional.cross_entropy)))
    plan = Plan(eager(update_unlocked(microbatches=parts)), tuple(stage.declaration for stage in stages))
    return LocalEngine(stages, plan), pieces


@pytest.mark.parametrize("parts", [1, 2])
def test_in_the_second_pass_through_the_data_a_stage_learns_from_the_gradients_of_the_first(parts: int) -> None:
    synthesizer = StaleSynthesizer((WIDTH,), examples=EXAMPLES)
    engine, (lower, upper) = network(synthesizer, parts)
    data, labels = torch.randn(EXAMPLES, WIDTH), torch.randint(0, CLASSES, (EXAMPLES,))
    for epoch in range(2):
        for index in torch.randperm(EXAMPLES).split(5):
            x, y = data[index], labels[index]
            engine.step(Batch.of((x,), y, Context(y, index), Loss(functional.cross_entropy)))
            expected = torch.autograd.grad(
                functional.cross_entropy(upper((x,), lower((x,), None)), y), list(lower.parameters())
            )
            for parameter, wanted in zip(lower.parameters(), expected, strict=True):
                assert parameter.grad is not None
                wanted = wanted if epoch else torch.zeros_like(wanted)
                torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("index", [None, torch.arange(1, EXAMPLES + 1), torch.arange(EXAMPLES).float()], ids=str)
def test_a_step_with_a_bad_index_is_refused_before_anything_has_changed(index: Tensor | None) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), nn.Linear(WIDTH, CLASSES))
    x, y = torch.randn(EXAMPLES, WIDTH), torch.randint(0, CLASSES, (EXAMPLES,))
    net = decouple(
        model,
        at=["0"],
        sample=(x, y),
        loss=functional.cross_entropy,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        synthesizer=partial(StaleSynthesizer, examples=EXAMPLES),
    )
    net.step(x, target=y, index=torch.arange(EXAMPLES))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ContextError, match="StaleSynthesizer.*; (pass index=|give examples=)"):
        net.step(x, target=y, index=index)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert before["synthgrad.0/gradient.table"].any() and before["synthgrad.0/gradient.seen"].all()
