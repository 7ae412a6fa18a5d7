"""The letters of a schedule, one by one. Legend: B batch, D features."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthgrad import (
    Action,
    Context,
    Gradient,
    Kind,
    LinearSynthesizer,
    Loss,
    NumericalError,
    OracleSynthesizer,
    ZeroSynthesizer,
)
from synthgrad.core.batch import Batch
from synthgrad.core.learner import Learner
from synthgrad.core.plan import Declaration
from synthgrad.core.stage import Passage, Stage
from synthgrad.core.synthesizers import Synthesizer

ROWS, COUNT = 4, 8  # a microbatch of 4 rows of a step of 8


class Piece(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    def forward(self, inputs: tuple[Any, ...], received: Tensor | None) -> Tensor:
        return self.body(inputs[0] if received is None else received)


class Counted(Synthesizer):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.asked = LinearSynthesizer((3,)), 0

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        self.asked += 1
        return self.inner(activation, context)


def batch_of(rows: int = ROWS) -> Batch:
    whole = Batch.of((torch.randn(COUNT, 3),), torch.zeros(COUNT, 3), Context(), Loss(nn.functional.mse_loss))
    return replace(next(whole.split(2)), rows=rows)


def learner(module: nn.Module, lr: float = 0.5) -> Learner:
    parameters = list(module.parameters())
    return Learner(module, parameters, torch.optim.SGD(parameters, lr=lr) if parameters else None)


def stage_of(synthesizer: nn.Module | None = None, *, index: int = 0, loss: Loss | None = None) -> Stage:
    given = None if synthesizer is None else learner(synthesizer)
    return Stage(index, "cut", learner(Piece()), synthesizer=given, loss=loss)


def opened(stage: Stage, kinds: str, microbatch: int = 0, *, step: int = 0) -> Passage:
    passage = Passage(batch_of(), step, {Kind(letter) for letter in kinds})
    stage.passages[microbatch] = passage
    return passage


def do(stage: Stage, text: str, *received: Any) -> Any:
    return stage.do(Action.parse(text), *received)


def grads(stage: Stage) -> list[Tensor]:
    return [p.grad.clone() for p in stage.piece.parameters if p.grad is not None]


def expected_grads(stage: Stage, x: Tensor, gradient: Tensor) -> list[Tensor]:
    """By plain autograd, on the piece alone."""
    return list(torch.autograd.grad(stage.piece.module.body(x), stage.piece.parameters, gradient))


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.fixture
def doubled() -> OracleSynthesizer:
    return OracleSynthesizer(lambda activation, _: 2 * activation, needs=frozenset())


# ---- forward and backward --------------------------------------------------------------------------------------------


def test_f_hands_on_values_and_keeps_the_graph_to_itself() -> None:
    stage = stage_of()
    passage = opened(stage, "FBU")
    sent = do(stage, "0F0")
    assert sent.grad_fn is None and not sent.requires_grad
    assert torch.equal(sent, stage.piece.module.body(passage.batch.inputs[0]))
    assert passage.output is not None and passage.output.grad_fn is not None


def test_f_of_a_skipped_stage_keeps_nothing() -> None:
    stage = stage_of()
    passage = opened(stage, "F")
    do(stage, "0F0")
    assert passage.output is None and not stage.passages


def test_s_injects_the_answer_as_gradient_of_the_mean_loss_and_sends_the_inputs(doubled: OracleSynthesizer) -> None:
    stage = stage_of(doubled, index=1)
    opened(stage, "FSU")
    h = torch.randn(ROWS, 3)
    sent = do(stage, "1F0", h)
    gradient = do(stage, "1S0")
    x = h.clone().requires_grad_()
    answer = 2 * sent / COUNT  # of the summed loss; the step has 8 terms
    below = torch.autograd.grad(stage.piece.module.body(x), x, answer)[0]
    assert gradient.count == COUNT and torch.equal(gradient.values, below)
    assert_equal(grads(stage), expected_grads(stage, h, answer))


def test_b_of_the_last_stage_back_propagates_the_microbatchs_share_of_the_mean_loss() -> None:
    stage = stage_of(index=1, loss=Loss(nn.functional.mse_loss))
    opened(stage, "FBU")
    h = torch.randn(ROWS, 3)
    assert do(stage, "1F0", h) is None
    do(stage, "1B0")
    share = stage.piece.module.body(h).square().mean() * ROWS / COUNT
    assert torch.equal(torch.stack(stage.losses).sum(), share)
    assert_equal(grads(stage), list(torch.autograd.grad(share, stage.piece.parameters)))


@pytest.mark.parametrize("mixing", [0.0, 0.25, 1.0])
def test_b_mixes_synthetic_and_received_gradient(mixing: float, doubled: OracleSynthesizer) -> None:
    stage = stage_of(doubled)
    stage.mixing = mixing
    passage = opened(stage, "FBU")
    x = passage.batch.inputs[0]
    synthetic_grad, received = 2 * do(stage, "0F0") / COUNT, torch.randn(ROWS, 3)
    do(stage, "0B0", Gradient(received, COUNT))
    mixed = {0.0: synthetic_grad, 1.0: received}.get(mixing, torch.lerp(synthetic_grad, received, mixing))
    assert_equal(grads(stage), expected_grads(stage, x, mixed))


@pytest.mark.parametrize("index", [0, 1])
def test_i_and_w_are_the_two_halves_of_b(index: int) -> None:
    h, received = torch.randn(ROWS, 3), Gradient(torch.randn(ROWS, 3), COUNT)
    halves = stage_of(index=index)
    passage = opened(halves, "FIWU")
    given = () if index == 0 else (h,)
    do(halves, f"{index}F0", *given)
    first = do(halves, f"{index}I0", received)
    assert not grads(halves)  # the weights' gradients are W's
    assert do(halves, f"{index}W0") is None
    x = h if index else passage.batch.inputs[0]
    assert_equal(grads(halves), expected_grads(halves, x, received.values))
    if index == 0:
        assert first is None
    else:
        leaf = h.clone().requires_grad_()
        below = torch.autograd.grad(halves.piece.module.body(leaf), leaf, received.values)[0]
        assert torch.equal(first.values, below) and first.count == COUNT
    assert passage.output is None and passage.received is None


def test_a_stage_without_anything_to_train_passes_the_gradient_on() -> None:
    class Doubles(nn.Module):
        def forward(self, inputs: tuple[Any, ...], received: Tensor | None) -> Tensor:
            return 2 * (inputs[0] if received is None else received)

    stage = Stage(1, "cut", learner(Doubles()))
    opened(stage, "FBU")
    do(stage, "1F0", torch.randn(ROWS, 3))
    received = torch.randn(ROWS, 3)
    assert torch.equal(do(stage, "1B0", Gradient(received, COUNT)).values, 2 * received)
    do(stage, "1U0")
    assert not stage.passages


# ---- lessons ---------------------------------------------------------------------------------------------------------


def test_t_regresses_to_the_gradient_of_the_summed_loss_by_the_mean_over_the_steps_rows() -> None:
    stage = stage_of(LinearSynthesizer((3,)))
    assert stage.synthesizer is not None
    synthesizer = stage.synthesizer.module
    nn.init.normal_(synthesizer.up.weight)
    passage = opened(stage, "FST")
    passage.ends_step = False
    activation = do(stage, "0F0")
    do(stage, "0S0")
    received = torch.randn(ROWS, 3)
    do(stage, "0T0", Gradient(received, COUNT))
    distance = (synthesizer(activation, Context()) - received * COUNT).square().sum(1)  # (B,)
    expected = torch.autograd.grad(distance.sum() / COUNT, list(synthesizer.parameters()))
    assert_equal([p.grad for p in synthesizer.parameters() if p.grad is not None], list(expected))
    assert len(stage.agreements) == 1


def test_lessons_do_not_reach_the_stage_nor_answers_the_synthesizer() -> None:
    stage = stage_of(LinearSynthesizer((3,)))
    assert stage.synthesizer is not None
    nn.init.normal_(stage.synthesizer.module.up.weight)
    passage = opened(stage, "FST")
    passage.ends_step = False
    do(stage, "0F0")
    do(stage, "0S0")
    assert all(p.grad is None for p in stage.synthesizer.parameters)
    before = grads(stage)
    do(stage, "0T0", Gradient(torch.randn(ROWS, 3), COUNT))
    assert_equal(grads(stage), before)
    assert all(p.grad is not None for p in stage.synthesizer.parameters)


def test_only_the_last_lesson_of_a_step_updates_the_synthesizer() -> None:
    stage = stage_of(LinearSynthesizer((3,)))
    assert stage.synthesizer is not None
    weight, received = stage.synthesizer.module.up.weight, Gradient(torch.ones(ROWS, 3), COUNT)
    for microbatch, ends in enumerate((False, True)):
        opened(stage, "FST", microbatch).ends_step = ends
    for microbatch in (0, 1):
        do(stage, f"0F{microbatch}")
        do(stage, f"0S{microbatch}")
    do(stage, "0T0", received)
    assert torch.equal(weight, torch.zeros(3, 3)) and weight.grad is not None
    do(stage, "0T1", received)
    assert not torch.equal(weight, torch.zeros(3, 3)) and weight.grad is None


def test_the_synthesizer_runs_once_for_answer_and_lesson() -> None:
    synthesizer = Counted()
    stage = stage_of(synthesizer)
    opened(stage, "FSTU")
    do(stage, "0F0")
    do(stage, "0S0")
    do(stage, "0U0")
    do(stage, "0T0", Gradient(torch.ones(ROWS, 3), COUNT))
    assert synthesizer.asked == 1 and not stage.passages


def test_a_lesson_behind_another_one_finds_the_synthesizer_as_it_is_now() -> None:
    synthesizer = Counted()
    stage = stage_of(synthesizer)
    opened(stage, "FST", 0, step=0)
    second = opened(stage, "FST", 1, step=1)
    for microbatch in (0, 1):
        do(stage, f"0F{microbatch}")
        do(stage, f"0S{microbatch}")
    received = Gradient(torch.ones(ROWS, 3), COUNT)
    do(stage, "0T0", received)
    weights = [p.detach().clone() for p in synthesizer.parameters()]
    activation, second.ends_step = second.activation, False
    assert activation is not None
    do(stage, "0T1", received)
    assert synthesizer.asked == 3
    distance = (synthesizer(activation, Context()) - COUNT).square().sum() / COUNT
    expected = torch.autograd.grad(distance, list(synthesizer.parameters()))
    assert_equal([p.grad for p in synthesizer.parameters() if p.grad is not None], list(expected))
    assert_equal([p.detach() for p in synthesizer.parameters()], weights)


def test_a_synthesizer_that_learns_from_nothing_has_empty_lessons() -> None:
    stage = stage_of(ZeroSynthesizer())
    opened(stage, "FST")
    do(stage, "0F0")
    do(stage, "0S0")
    do(stage, "0T0")
    assert not stage.agreements and not stage.passages


# ---- updates, and what is held ---------------------------------------------------------------------------------------


def test_u_uses_all_gradients_since_the_last_one_and_forgets_them() -> None:
    stage = stage_of(ZeroSynthesizer())
    received = torch.randn(ROWS, 3)
    for microbatch in (0, 1):
        opened(stage, "FBU" if microbatch else "FB", microbatch)
        do(stage, f"0F{microbatch}")
        do(stage, f"0B{microbatch}", Gradient(received, COUNT))
    before, gradients = [p.detach().clone() for p in stage.piece.parameters], grads(stage)
    do(stage, "0U1")
    assert_equal(
        [p.detach() for p in stage.piece.parameters], [w - 0.5 * g for w, g in zip(before, gradients, strict=True)]
    )
    assert not grads(stage)


def test_what_no_later_action_needs_is_let_go_at_once() -> None:
    stage = stage_of(ZeroSynthesizer(), index=1)
    without_lesson, with_lesson = opened(stage, "FSU", 0), opened(stage, "FSTU", 1)
    for microbatch in (0, 1):
        do(stage, f"1F{microbatch}", torch.randn(ROWS, 3))
        do(stage, f"1S{microbatch}")
    assert without_lesson.output is None and without_lesson.inputs is None and without_lesson.activation is None
    assert with_lesson.output is None and with_lesson.inputs is None and with_lesson.activation is not None
    do(stage, "1U0")
    do(stage, "1U1")
    assert list(stage.passages) == [1]
    do(stage, "1T1")
    assert not stage.passages


def test_giving_up_drops_everything_but_the_weights() -> None:
    stage = stage_of(LinearSynthesizer((3,)))
    opened(stage, "FSTU")
    do(stage, "0F0")
    do(stage, "0S0")
    before = [p.detach().clone() for p in stage.piece.parameters]
    stage.suspects.append(torch.tensor(float("nan")))
    stage.abandon()
    assert not stage.passages and not stage.suspects and not stage.losses and not grads(stage)
    assert_equal([p.detach() for p in stage.piece.parameters], before)


def test_a_stage_declares_what_its_synthesizer_declares() -> None:
    labels = frozenset({"labels"})
    assert stage_of().declaration == Declaration(False, feedback=frozenset())
    assert stage_of(ZeroSynthesizer()).declaration == Declaration(True, feedback=frozenset())
    assert stage_of(LinearSynthesizer((3,), classes=2)).declaration == Declaration(True, needs=labels)
    assert len(stage_of().learners) == 1 and len(stage_of(ZeroSynthesizer()).learners) == 2


# ---- faults ----------------------------------------------------------------------------------------------------------

BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_activation_is_refused_before_it_is_learned_from(bad: float) -> None:
    stage = stage_of(ZeroSynthesizer(), index=1)
    opened(stage, "FSU")
    h = torch.randn(ROWS, 3)
    with torch.no_grad():
        stage.piece.module.body[0].bias[1] = bad
    stage.piece.module.body[1] = nn.Identity()
    do(stage, "1F0", h)
    with pytest.raises(NumericalError, match=r"stage 1 \(cut\).*not finite") as caught:
        do(stage, "1S0")
    assert caught.value.stage == 1


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ["B", "I"])
def test_a_bad_gradient_is_refused_before_it_is_learned_from(bad: float, kind: str) -> None:
    stage = stage_of()
    opened(stage, "FBU" if kind == "B" else "FIWU")
    do(stage, "0F0")
    received = torch.zeros(ROWS, 3)
    received[1, 1] = bad
    with pytest.raises(NumericalError, match=r"stage 0 \(cut\).*not finite"):
        do(stage, f"0{kind}0", Gradient(received, COUNT))
        do(stage, "0W0")  # I has nothing to make where no stage stands before


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_target_is_refused_before_the_synthesizer_learns_it(bad: float) -> None:
    stage = stage_of(LinearSynthesizer((3,)))
    assert stage.synthesizer is not None
    opened(stage, "FST")
    do(stage, "0F0")
    do(stage, "0S0")
    received = torch.zeros(ROWS, 3)
    received[1, 1] = bad
    with pytest.raises(NumericalError, match=r"stage 0 \(cut\).*not finite"):
        do(stage, "0T0", Gradient(received, COUNT))
    assert all(parameter.isfinite().all() for parameter in stage.synthesizer.parameters)


@pytest.mark.parametrize("bad", BAD)
def test_a_finite_loss_with_a_bad_gradient_is_refused_before_the_update(bad: float) -> None:
    """As sqrt has at zero: the loss shows nothing."""

    class Spoils(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * bad

    stage = stage_of(index=1, loss=Loss(lambda output, _: Spoils.apply(output).square().mean()))
    opened(stage, "FBU")
    before = [p.detach().clone() for p in stage.piece.parameters]
    do(stage, "1F0", torch.randn(ROWS, 3))
    with pytest.raises(NumericalError, match="stage 1"):
        do(stage, "1B0")
        do(stage, "1U0")
    assert_equal([p.detach() for p in stage.piece.parameters], before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_values_in_half_precision_raise_no_false_alarm(dtype: torch.dtype) -> None:
    class Large(nn.Module):
        def forward(self, inputs: tuple[Any, ...], received: Tensor | None) -> Tensor:
            return torch.full((ROWS, 3), 6e4, dtype=dtype)

    stage = Stage(0, "cut", learner(Large()))
    opened(stage, "FBU")
    do(stage, "0F0")
    do(stage, "0B0", Gradient(torch.full((ROWS, 3), 2.0, dtype=dtype), COUNT))  # the products overflow in float16
    do(stage, "0U0")
    assert not stage.passages


def test_on_a_device_that_must_not_wait_a_flag_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgrad.core.stage._would_stall", lambda device: True)
    stage = stage_of()
    opened(stage, "FBU")
    do(stage, "0F0")
    do(stage, "0B0", Gradient(torch.full((ROWS, 3), float("nan")), COUNT))
    assert len(stage.suspects) == 1 and not stage.suspects[0].isfinite()
