"""`check_synthesizer` finds what is wrong, and says which property, what was got, what was expected, and the remedy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.testing import PROPERTIES, check_synthesizer

SHAPE = (6,)


class Own(sg.Synthesizer):
    """Right in everything; the faults below each change one thing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(shape[-1], shape[-1])
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation)


class Short(Own):
    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation)[:, :3]


class SinglePrecision(Own):
    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation).float()


class Stubborn(Own):
    def answer(self, activation: Tensor, context: sg.Context) -> sg.Answer:
        with torch.enable_grad():
            return super().answer(activation, context)


class AtRandom(Own):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.linear.reset_parameters()


class Viewing(Own):
    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation.view(-1).view(-1, 6))


class PerRow(Own):
    def learn(self, activation: Tensor, answer: sg.Answer, context: sg.Context, feedback: sg.Feedback) -> Any:
        return None if feedback.target_grad is None else (answer.grad - feedback.target_grad).square().sum(1)


class Averaging(Own):
    def learn(self, activation: Tensor, answer: sg.Answer, context: sg.Context, feedback: sg.Feedback) -> Any:
        return None if feedback.target_grad is None else (answer.grad - feedback.target_grad).square().mean()


class Mixing(Own):
    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation - activation.mean(0))


class Secretive(Own):
    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation) * (1 if context.labels is None else 1 + context.labels.unsqueeze(1))


class Pretending(Own):
    needs = frozenset({"labels"})


class Careless(Own):
    needs = frozenset({"labels"})

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation) * (0 if context.labels is None else 1 + context.labels.unsqueeze(1))

    def check(self, context: sg.Context) -> None:
        return None


class Greedy(Own):
    feedback = frozenset({"gradient", "output"})


class Dead(Own):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.up = nn.Linear(shape[-1], shape[-1], bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.up(super().forward(activation, context))


class Idle(Own):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.unused = nn.Linear(2, 2)


class Forgetful(Own):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.scale = torch.rand(shape)

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation) * self.scale.to(activation.dtype)


class Overwriting(Own):
    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return self.linear(activation.mul_(1.0))


FAULTS: dict[str, tuple[Callable[..., sg.Synthesizer], str, str]] = {
    "short": (Short, "an answer is like the activation", r"got \(2, 3\), .* expected \(2, 6\).*as wide as"),
    "type": (SinglePrecision, "an answer is like the activation", "torch.float32.*expected .*float64.*take type"),
    "graph": (Stubborn, "an answer without a graph is the same", "got a graph where gradients are off; leave"),
    "random": (AtRandom, "the first answer is zero", "expected exactly zero.*starts_at_zero=False"),
    "view": (Viewing, "memory layout does not matter", "raised RuntimeError: view size"),
    "per row": (PerRow, "a lesson is a sum over rows", r"loss of shape \(8,\), expected a scalar"),
    "mean": (Averaging, "rows stand alone", "the lesson of the whole; sum over examples"),
    "mixing": (Mixing, "rows stand alone", "the answers of the whole; .*rows_apart=False"),
    "secret": (Secretive, "needs are honest", "expected no use of labels; add 'labels' to needs"),
    "pretence": (Pretending, "needs are honest", "same answer with other labels.*take 'labels' out of needs"),
    "careless": (Careless, "needs are honest", "got none and did not raise ContextError"),
    "greedy": (Greedy, "feedback is honest", "got none of the lesson from the output.*take it out of feedback"),
    "dead": (Dead, "it learns", "after 300 lessons.*expected less than 50% of it; look whether zero answers"),
    "idle": (Idle, "it learns", "no gradient for 'unused.weight'"),
    "forgetful": (Forgetful, "a state_dict carries everything", "register what it knows"),
    "overwriting": (Overwriting, "in a stage no gradient leaks", "raised RuntimeError.*modified by an inplace"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_found_and_told(fault: str) -> None:
    factory, property, message = FAULTS[fault]
    with pytest.raises(sg.ContractError, match=f"(?s)^{property}: .*{message}") as caught:
        check_synthesizer(factory, shape=SHAPE)
    assert caught.value.property == property


def test_every_property_can_fail() -> None:
    assert {property for _, property, _ in FAULTS.values()} == set(PROPERTIES)


WRAPPED: dict[str, tuple[Callable[..., sg.Synthesizer], dict[str, Any]]] = {
    "own": (Own, {}),
    "labels": (partial(sg.MLPSynthesizer, classes=4), {}),
    "clipped": (lambda shape: sg.Clipped(Own(shape), 100.0), {}),
    "replay": (lambda shape: sg.Replay(Own(shape)), {}),
    "critic": (partial(sg.CriticSynthesizer, classes=4), {"starts_at_zero": False}),
}


@pytest.mark.parametrize("name", list(WRAPPED))
def test_what_keeps_the_contract_passes_and_leaves_the_random_state(name: str) -> None:
    factory, known = WRAPPED[name]
    before = torch.get_rng_state()
    check_synthesizer(factory, shape=SHAPE, **known)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(5, 6), (2, 4, 4)])
def test_other_shapes(shape: tuple[int, ...]) -> None:
    check_synthesizer(partial(sg.LinearSynthesizer, classes=3), shape=shape, classes=3)


def test_no_synthesizer_at_all_is_told() -> None:
    with pytest.raises(sg.ContractError, match="the factory made a Linear, expected a synthesizer"):
        check_synthesizer(lambda shape: nn.Linear(6, 6), shape=SHAPE)  # pyrefly: ignore
    with pytest.raises(sg.ContractError, match="raised ShapeError: ConvSynthesizer"):
        check_synthesizer(sg.ConvSynthesizer, shape=SHAPE)
