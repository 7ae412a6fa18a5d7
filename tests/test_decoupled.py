"""The front door. Legend: B batch, T time, D features, V classes."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad import LinearSynthesizer, Loss, MLPSynthesizer, Synthesizer, ZeroSynthesizer

CLASSES, AT = 3, ["lower", "body.1"]
SGD = partial(torch.optim.SGD, lr=0.1)


class Model(nn.Module):
    """Keys with dots, buffers, a name that means something to us, and one cut in a nested child."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Linear(4, 6)
        self.body = nn.Sequential(nn.BatchNorm1d(6), nn.Sequential(nn.ReLU(), nn.Linear(6, 6)), nn.Tanh())
        self.plain = nn.Linear(6, CLASSES)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.drop(self.body(self.lower(x))))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(7, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T)
        return self.head(torch.tanh(self.block(torch.tanh(self.embed(tokens)))))


class Running(Synthesizer):
    """Counts how often it is asked."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.asked = LinearSynthesizer(shape), 0

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        self.asked += 1
        return self.inner(activation, context)


def asked(net: sg.Decoupled) -> list[int]:
    return [module.asked for module in net.synthgrad.modules() if isinstance(module, Running)]


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4), torch.randint(0, CLASSES, (rows,))


def net_of(model: nn.Module | None = None, **given: Any) -> sg.Decoupled:
    options: dict[str, Any] = {
        "at": AT,
        "sample": batch(),
        "loss": functional.cross_entropy,
        "synthesizer": partial(LinearSynthesizer, classes=CLASSES),
        "optimizer": SGD,
    }
    return sg.decouple(model or Model(), **(options | given))


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, CLASSES))


def assert_same(got: nn.Module, expected: nn.Module) -> None:
    ours, theirs = got.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def differs(got: nn.Module, expected: nn.Module) -> bool:
    theirs = expected.state_dict()
    return any(not torch.equal(value, theirs[key]) for key, value in got.state_dict().items())


def train(net: sg.Decoupled, steps: int = 4, rows: int = 8) -> list[float]:
    torch.manual_seed(3)
    losses = []
    for _ in range(steps):
        x, y = batch(rows)
        losses.append(float(net.step(x, target=y).loss))
    return losses


# ---- law 7: the same model -------------------------------------------------------------------------------------------


def test_the_plain_model_is_the_model_and_is_left_as_it_is() -> None:
    model = Model()
    before, sample = copy.deepcopy(model), batch()
    keys, modules = list(model.state_dict()), [id(module) for module in model.modules()]
    random = torch.get_rng_state()
    net = sg.decouple(  # with synthesizers that draw no initial weights
        model, at=AT, sample=sample, loss=functional.cross_entropy, synthesizer=ZeroSynthesizer, optimizer=SGD
    )
    assert net.plain is model and type(model) is Model
    assert list(model.state_dict()) == keys and [id(module) for module in model.modules()] == modules
    assert_same(model, before)
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_the_stages_train_the_models_very_parameters() -> None:
    net = net_of()
    trained = [p for stage in net.stages for group in _groups(stage.piece.optimizer) for p in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, net.plain.parameters()))


def _groups(optimizer: torch.optim.Optimizer | None) -> list[dict[str, Any]]:
    return [] if optimizer is None else optimizer.param_groups


def test_the_state_has_the_models_keys_in_order_and_besides_only_ours() -> None:
    model = Model()
    net = net_of(model)
    state, plain = net.state_dict(), model.state_dict()
    assert list(state)[: len(plain)] == list(plain)
    assert all(key.startswith("synthgrad.") for key in list(state)[len(plain) :]) and len(state) > len(plain)
    assert all(torch.equal(state[key], value) for key, value in plain.items())


def test_the_plain_models_file_loads_and_everything_loads_strictly() -> None:
    net, other, model = net_of(), net_of(), Model()
    train(net)
    found = net.load_state_dict(model.state_dict(), strict=False)
    assert_same(net.plain, model)
    assert found.unexpected_keys == [] and all(key.startswith("synthgrad.") for key in found.missing_keys)
    train(net)
    assert differs(net, other)
    other.load_state_dict(net.state_dict(), strict=True)
    assert_same(other, net)
    model.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("synthgrad.")}, strict=True)
    assert_same(model, net.plain)


def test_the_keys_are_right_inside_another_module() -> None:
    net, model = net_of(), Model()
    outer, other = nn.ModuleDict({"net": net}), nn.ModuleDict({"net": net_of()})
    keys = [key for key in outer.state_dict() if "synthgrad" not in key]
    assert keys == [f"net.{key}" for key in model.state_dict()]
    train(net)
    other.load_state_dict(outer.state_dict(), strict=True)
    assert_same(other, outer)


@pytest.mark.parametrize("training", [True, False])
def test_called_it_is_the_plain_model_without_synthesizers_and_gradients_pass_exactly(training: bool) -> None:
    net = net_of(synthesizer=Running).train(training)
    before = asked(net)
    twin = copy.deepcopy(net.plain)
    assert twin.training == training
    results = []
    for called in (net, twin):
        torch.manual_seed(4)
        x = batch()[0].requires_grad_()
        output = called(x)
        output.square().sum().backward()
        results.append((output, x.grad, *(p.grad for p in (net.plain if called is net else twin).parameters())))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    assert asked(net) == before


def test_the_mode_reaches_model_and_synthesizers() -> None:
    net = net_of(synthesizer=partial(MLPSynthesizer, batch_norm=True))
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in net.eval().modules())


@pytest.mark.parametrize("at", [["lower"], ["body"], ["body.0", "body.1.0", "drop"], []])
def test_any_submodule_may_be_a_cut(at: list[str]) -> None:
    net = net_of(at=at)
    assert [stage.name for stage in net.stages] == [*at, "output"]
    before = copy.deepcopy(net.plain)
    train(net)
    assert differs(net.plain, before)


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(4, 6))
        self.head = nn.Linear(6, CLASSES)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.get_submodule(self.name)(x)))


@pytest.mark.parametrize("name", ["values", "keys", "items", "pop", "update", "clear", "plain"])
def test_a_submodule_may_have_any_name(name: str) -> None:
    net = net_of(Named(name), at=[name])
    train(net)
    other = net_of(Named(name), at=[name])
    other.load_state_dict(net.state_dict(), strict=True)
    assert_same(other, net)


def test_the_name_under_which_synthesizers_are_saved_is_refused() -> None:
    with pytest.raises(sg.PartitionError, match="synthgrad.*rename"):
        net_of(Named("synthgrad"), at=["synthgrad"])


# ---- what one does with modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [sg.update_unlocked(), sg.update_unlocked(delay=1), sg.backprop(), sg.gpipe(2)])
@pytest.mark.parametrize("model", [Model, lambda: chain(nn.Tanh(), nn.Linear(6, 6))], ids=["excerpts", "slices"])
def test_a_copy_trains_independently_and_identically(schedule: sg.Schedule, model: Callable[[], nn.Module]) -> None:
    given = model()
    at = AT if isinstance(given, Model) else ["0", "1"]
    net = net_of(given, at=at, schedule=schedule, optimizer=partial(torch.optim.Adam, lr=0.01))
    train(net)  # so that there is optimizer state, and with a delay something pending
    twin = copy.deepcopy(net)
    start = copy.deepcopy(net.plain)
    losses = train(net)
    assert_same(twin.plain, start)
    assert differs(net.plain, start)
    assert train(twin) == losses
    assert_same(twin, net)


def test_a_copy_in_another_mode_trains_in_that_mode() -> None:
    net = net_of()
    twin = copy.deepcopy(net)
    losses = train(net.eval())
    assert train(twin.eval()) == losses
    assert_same(twin, net)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_copy_keeps_its_learning_rate_schedule(scheduled: bool) -> None:
    decay = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5) if scheduled else None
    net = net_of(lr_schedule=decay)
    train(net, 3)
    twin = copy.deepcopy(net)
    rates = [[group["lr"] for group in _groups(stage.piece.optimizer)] for stage in net.stages]
    train(twin, 3)
    assert [[group["lr"] for group in _groups(stage.piece.optimizer)] for stage in net.stages] == rates
    train(net, 3)
    assert_same(twin, net)


def test_to_another_type_everything_follows() -> None:
    net = net_of().to(torch.float64)
    x, y = batch()
    assert net.step(x.double(), target=y).loss.dtype == torch.float64
    assert all(value.dtype == torch.float64 for value in net.state_dict().values() if value.is_floating_point())
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(x.double()).dtype == torch.float64


def test_a_model_of_another_type_gets_synthesizers_of_that_type() -> None:
    x, y = batch()
    net = net_of(Model().double(), sample=(x.double(), y))
    assert net.step(x.double(), target=y).loss.dtype == torch.float64


def test_token_models_may_change_their_type() -> None:
    tokens, targets = torch.randint(0, 7, (4, 5)), torch.randint(0, CLASSES, (4, 5))
    net = net_of(
        Tokens(),
        at=["embed", "block"],
        sample=(tokens, targets),
        loss=lambda output, target: functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none"),
    )
    net.step(tokens, target=targets)
    assert net.double().step(tokens, target=targets).loss.dtype == torch.float64


@pytest.mark.parametrize("schedule", [sg.update_unlocked(), sg.update_unlocked(delay=1), sg.backprop(), sg.gpipe(2)])
def test_zero_grad_between_steps_destroys_nothing(schedule: sg.Schedule) -> None:
    net = net_of(schedule=schedule)
    twin = copy.deepcopy(net)
    for seed in range(5):
        torch.manual_seed(seed)
        x, y = batch()
        state = torch.get_rng_state()
        net.step(x, target=y)
        torch.set_rng_state(state)
        twin.zero_grad()
        twin.plain.zero_grad(set_to_none=False)
        twin.step(x, target=y)
    assert_same(twin, net)


def test_gradients_of_ones_own_do_not_enter_a_step() -> None:
    """A saliency map between two steps leaves gradients at the weights, which are not the stages'."""
    net = net_of()
    twin = copy.deepcopy(net)
    x, y = batch()
    net.plain.eval()
    net(x).sum().backward()
    net.plain.train()
    assert train(net) == train(twin)
    assert_same(net, twin)


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_the_batch_may_change_its_size_and_the_last_one_be_short() -> None:
    net = net_of()
    twin = copy.deepcopy(net)
    for rows in (8, 16, 3, 8, 2):
        torch.manual_seed(rows)
        x, y = batch(rows)
        for each in (net, twin):
            torch.manual_seed(7)
            each.step(x, target=y)
    assert_same(twin, net)


def test_the_loss_of_a_step_is_the_models_on_the_batch() -> None:
    model = chain(nn.Tanh(), nn.Linear(6, 6))
    net = net_of(model, at=["0", "1"], optimizer=partial(torch.optim.SGD, lr=0.0))
    for rows in (8, 5):
        x, y = batch(rows)
        assert torch.equal(net.step(x, target=y).loss, functional.cross_entropy(model(x), y))


@pytest.mark.parametrize("schedule", [sg.gpipe(2), sg.one_f_one_b(2), sg.gpipe(3)])
@pytest.mark.parametrize("rows", [8, 5])
def test_microbatches_accumulate_the_whole_batchs_gradient(schedule: sg.Schedule, rows: int) -> None:
    model = chain(nn.Tanh(), nn.Linear(6, 6))
    whole = copy.deepcopy(model)
    net = net_of(model, at=["0", "1"], schedule=schedule)
    x, y = batch(rows)
    loss = net.step(x, target=y).loss
    expected = functional.cross_entropy(whole(x), y)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-5, atol=1e-6)  # sums in parts


@pytest.mark.parametrize("rows", [8, 5])
def test_a_batch_in_parts_teaches_the_synthesizers_the_same(rows: int) -> None:
    nets = [
        net_of(chain(nn.Tanh(), nn.Linear(6, 6)), at=["0", "1"], schedule=sg.update_unlocked(microbatches=parts))
        for parts in (1, 2)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    for _ in range(3):
        x, y = batch(rows)
        for net in nets:
            net.step(x, target=y)
    for key, value in nets[0].state_dict().items():
        torch.testing.assert_close(nets[1].state_dict()[key], value, rtol=1e-5, atol=1e-6)  # sums in parts


def per_token(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none", ignore_index=-100)


def masked_mean(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=-100)


def terms(target: Tensor) -> int:
    return int((target != -100).sum())


@pytest.mark.parametrize("loss", [Loss(per_token, terms=terms), Loss(masked_mean, terms=terms)], ids=["terms", "mean"])
@pytest.mark.parametrize("schedule", [sg.backprop(), sg.gpipe(2)])
def test_masked_losses_count_their_terms(loss: Loss, schedule: sg.Schedule) -> None:
    tokens, targets = torch.randint(0, 7, (4, 5)), torch.randint(0, CLASSES, (4, 5))
    targets[0, 1:] = -100
    targets[2, 3:] = -100
    model = Tokens()
    whole = copy.deepcopy(model)
    net = net_of(model, at=["block"], sample=(tokens, targets), loss=loss, schedule=schedule, synthesizer=None)
    found = net.step(tokens, target=targets).loss
    expected = masked_mean(whole(tokens), targets)
    expected.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-5, atol=1e-6)


def test_synthesizers_of_a_masked_loss_learn_the_gradient_of_its_sum() -> None:
    """However many tokens are masked, the target is of the summed loss: no count enters."""
    tokens, targets = torch.randint(0, 7, (4, 5)), torch.randint(0, CLASSES, (4, 5))
    targets[1:, 2:] = -100
    seen: list[Tensor] = []

    class Watching(ZeroSynthesizer):
        feedback = frozenset({"gradient"})

        def learn(
            self, activation: Tensor, answer: sg.Answer, context: sg.Context, feedback: sg.Feedback
        ) -> Tensor | None:
            assert feedback.target_grad is not None
            seen.append(feedback.target_grad)
            return None

    model = Tokens()
    h = model.block(torch.tanh(model.embed(tokens))).detach().requires_grad_()
    summed = per_token(model.head(torch.tanh(h)), targets).sum()
    expected = torch.autograd.grad(summed, h)[0]
    net = net_of(
        model,
        at=["block"],
        sample=(tokens, targets),
        loss=Loss(masked_mean, terms=terms),
        schedule=sg.update_unlocked(),
        synthesizer=Watching,
    )
    net.step(tokens, target=targets)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-6)


def test_labels_may_differ_from_the_target() -> None:
    target, labels = torch.randn(8, CLASSES), torch.randint(0, 5, (8,))
    x = torch.randn(8, 4)
    with pytest.raises(sg.ContextError):  # the target is taken for labels, and is none
        net_of(sample=(x, target), loss=functional.mse_loss)
    net = net_of(sample=(x, target), loss=functional.mse_loss, synthesizer=LinearSynthesizer)
    assert net.step(x, target=target, labels=labels).loss.isfinite()


# ---- options ---------------------------------------------------------------------------------------------------------


def test_every_optimizer_is_the_factorys_and_the_synthesizers_may_have_another() -> None:
    net = net_of(optimizer=partial(torch.optim.SGD, lr=0.5), synthesizer_optimizer=partial(torch.optim.Adam, lr=0.25))
    for stage in net.stages:
        assert isinstance(stage.piece.optimizer, torch.optim.SGD)
        if stage.synthesizer is not None:
            assert isinstance(stage.synthesizer.optimizer, torch.optim.Adam)


def test_the_learning_rate_schedule_counts_steps() -> None:
    net = net_of(lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5))
    for step in range(5):
        rates = {group["lr"] for stage in net.stages for group in _groups(stage.piece.optimizer)}
        assert rates == {0.1 * 0.5 ** (step // 2)}
        x, y = batch()
        net.step(x, target=y)


def test_the_learning_rate_schedule_counts_steps_also_of_a_stage_that_was_skipped() -> None:
    decay = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    net = net_of(schedule=sg.sporadic(0.3, seed=1), lr_schedule=decay)
    train(net, 4)  # a warning would be an error
    assert {group["lr"] for stage in net.stages for group in _groups(stage.piece.optimizer)} == {0.1 * 0.5**4}


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_synthesizers_learning_rate_has_a_schedule_of_its_own(scheduled: bool) -> None:
    halved = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    thirds = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=1 / 3) if scheduled else None
    net = net_of(lr_schedule=halved, synthesizer_lr_schedule=thirds)
    learners = [stage.synthesizer for stage in net.stages if stage.synthesizer is not None]
    for step in range(4):
        assert {group["lr"] for stage in net.stages for group in _groups(stage.piece.optimizer)} == {
            0.1 * 0.5 ** (step // 2)
        }
        rates = [group["lr"] for learner in learners for group in _groups(learner.optimizer)]
        assert rates == pytest.approx([0.1 / 3**step if scheduled else 0.1] * len(learners))
        x, y = batch()
        net.step(x, target=y)


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_mixing_reaches_every_stage(mixing: float) -> None:
    model = chain(nn.Tanh(), nn.Linear(6, 6))
    whole = copy.deepcopy(model)
    net = net_of(model, at=["0", "1"], schedule=sg.backprop(), mixing=mixing, synthesizer=ZeroSynthesizer)
    x, y = batch()
    net.step(x, target=y)
    functional.cross_entropy(whole(x), y).backward()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        # With a synthetic gradient of zero, each cut above a weight takes a factor of λ.
        cuts = {"0": 2, "2": 0, "3": 0}[name.split(".")[0]]
        expected = parameter - 0.1 * mixing**cuts * parameter.grad
        torch.testing.assert_close(model.get_parameter(name), expected, rtol=1e-5, atol=1e-6)


def test_synthesizers_may_be_given_by_name() -> None:
    net = net_of(synthesizer={"lower": ZeroSynthesizer, "body.1": MLPSynthesizer})
    kinds = [type(stage.synthesizer.module) for stage in net.stages if stage.synthesizer is not None]
    assert kinds == [ZeroSynthesizer, MLPSynthesizer]
    assert all(key.startswith("synthgrad.body/1/gradient.") for key in net.state_dict() if "synthgrad" in key)
    train(net)


def test_stages_without_parameters_are_legal() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Identity(), nn.Linear(6, CLASSES))
    for schedule in (sg.update_unlocked(), sg.backprop(), sg.gpipe(2), sg.update_unlocked(delay=1)):
        net = net_of(copy.deepcopy(model), at=["0", "1", "2", "3"], schedule=schedule)
        before = copy.deepcopy(net.plain)
        train(net)
        assert differs(net.plain, before)
        assert [stage.piece.optimizer is None for stage in net.stages] == [True, False, True, True, False]


def test_a_frozen_stage_stays_as_it_is_and_passes_the_gradient_on() -> None:
    model = chain(nn.Linear(6, 6), nn.Tanh())
    model[1].requires_grad_(False)
    whole = copy.deepcopy(model)
    net = net_of(model, at=["0", "1"], schedule=sg.backprop(), synthesizer=None)
    x, y = batch()
    net.step(x, target=y)
    functional.cross_entropy(whole(x), y).backward()
    assert torch.equal(model.get_parameter("1.weight"), whole.get_parameter("1.weight"))
    weight = whole.get_parameter("0.weight")
    assert weight.grad is not None
    assert torch.equal(model.get_parameter("0.weight"), weight - 0.1 * weight.grad)


def test_without_synthesizers_it_is_back_propagation_bit_for_bit() -> None:
    model = Model()
    model.drop.p = 0.0  # stages draw by key, a plain loop from the one stream: dropout's masks differ
    whole = copy.deepcopy(model)
    net = net_of(model, synthesizer=None, optimizer=partial(torch.optim.Adam, lr=0.01))
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    train(net)
    torch.manual_seed(3)
    for _ in range(4):
        x, y = batch()
        optimizer.zero_grad()
        functional.cross_entropy(whole(x), y).backward()
        optimizer.step()
    assert_same(model, whole)


def test_halves_of_the_backward_pass_are_back_propagation_too() -> None:
    halves = sg.from_text("0F0 1F0 2F0 2I0 1I0 2W0 0I0 1W0 0W0 0U0 1U0 2U0")
    nets = [net_of(schedule=schedule, synthesizer=None) for schedule in (halves, sg.backprop())]
    nets[1].load_state_dict(nets[0].state_dict())
    assert train(nets[0]) == train(nets[1])
    assert_same(nets[0], nets[1])


def test_a_synthesizer_with_batch_norm_updates_its_statistics_once_a_step() -> None:
    net = net_of(synthesizer=partial(MLPSynthesizer, batch_norm=True))
    train(net, 5)
    counts = {int(v) for k, v in net.state_dict().items() if "synthgrad" in k and k.endswith("num_batches_tracked")}
    assert counts == {5}


def test_each_synthesizer_runs_once_a_step() -> None:
    net = net_of(synthesizer=Running)
    before = asked(net)
    train(net, 5)
    assert asked(net) == [count + 5 for count in before] and len(before) == 2


def test_a_synthesizer_that_needs_the_outputs_error_gets_that_of_the_summed_loss() -> None:
    seen: list[Tensor | None] = []

    def feedback_alignment(activation: Tensor, context: sg.Context) -> Tensor:
        seen.append(context.error)
        return torch.zeros_like(activation)

    model = chain(nn.Tanh(), nn.Linear(6, 6))
    net = net_of(
        model,
        at=["0", "1"],
        synthesizer=lambda shape: sg.OracleSynthesizer(feedback_alignment, needs=frozenset({"error"})),
        schedule=sg.from_text("0F0 1F0 2F0 2B0 0S0 1S0 0U0 1U0 2U0"),
    )
    x, y = batch()
    expected = model(x).softmax(1) - functional.one_hot(y, CLASSES)
    net.step(x, target=y)
    assert len(seen) == 2
    for error in seen:
        assert error is not None
        torch.testing.assert_close(error, expected, rtol=1e-5, atol=1e-6)


def test_it_learns() -> None:
    net = net_of(optimizer=partial(torch.optim.Adam, lr=0.02), synthesizer=partial(LinearSynthesizer, classes=CLASSES))
    x = torch.randn(64, 4)
    y = x[:, :CLASSES].argmax(1)
    with torch.no_grad():
        start = float(functional.cross_entropy(net.eval()(x), y))
    net.train()
    for _ in range(150):
        net.step(x, target=y)
    with torch.no_grad():
        assert float(functional.cross_entropy(net.eval()(x), y)) < 0.4 * start


# ---- after a failure -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [sg.backprop(), sg.gpipe(2)])
def test_an_exception_in_the_loss_leaves_weights_untouched_and_the_net_usable(schedule: sg.Schedule) -> None:
    broken = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if broken:
            raise KeyboardInterrupt
        return functional.cross_entropy(output, target)

    net = net_of(loss=loss, schedule=schedule)
    train(net)
    twin = copy.deepcopy(net)
    broken = True
    with pytest.raises(KeyboardInterrupt):
        train(net, 1)
    broken = False
    parameters = dict(twin.named_parameters())
    assert all(torch.equal(p, parameters[name]) and p.grad is None for name, p in net.named_parameters())
    assert not net.engine.mailbox and not any(stage.passages or stage.losses for stage in net.stages)
    net.load_state_dict(twin.state_dict())  # BatchNorm's statistics have seen the batch
    assert train(net) == train(twin)
    assert_same(net, twin)


def test_an_exception_in_the_loss_of_an_unlocked_schedule_leaves_the_net_usable() -> None:
    broken = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if broken:
            raise RuntimeError("mine")
        return functional.cross_entropy(output, target)

    net = net_of(loss=loss, schedule=sg.update_unlocked(delay=1))
    train(net)
    broken = True
    with pytest.raises(RuntimeError, match="mine"):
        train(net, 1)
    broken = False
    assert all(p.grad is None for p in net.parameters())
    assert not net.engine.mailbox and not any(stage.passages for stage in net.stages)
    assert all(loss == loss for loss in train(net, 6))
