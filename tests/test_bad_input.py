"""Bad input: a typed error that says what, where, got, expected and the remedy, before any weight has changed."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad import LinearSynthesizer, MLPInputSynthesizer, Synthesizer, ZeroSynthesizer

CLASSES, WIDTH = 3, 6
NAN, INF = float("nan"), float("inf")


def model_of() -> nn.Sequential:
    layers = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3))
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, WIDTH), torch.randint(0, CLASSES, (rows,))


def net_of(model: nn.Module | None = None, **given: Any) -> sg.Decoupled:
    options: dict[str, Any] = {
        "at": ["0", "1", "2"],
        "sample": batch(),
        "loss": functional.cross_entropy,
        "synthesizer": partial(LinearSynthesizer, classes=CLASSES),
        "optimizer": partial(torch.optim.SGD, lr=0.1),
    }
    return sg.decouple(model_of() if model is None else model, **(options | given))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


@contextmanager
def refused(kind: type[sg.SynthgradError], *words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value!s} does not say {missing}"


# ---- when a model is decoupled ---------------------------------------------------------------------------------------


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """The model is left bitwise as it is."""
    before, hooks = weights(model), [len(module._forward_hooks) for module in model.modules()]
    yield
    assert not changed(model, before) and all(p.grad is None for p in model.parameters())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.lstm = nn.LSTM(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.c(self.b(h) + h + self.lstm(h)[0])


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (["aa"], ("'aa'", "no submodule", "'a'")),
        (["b"], ("'a'", "bypasses", "'b'", "cut where")),
        (["lstm"], ("'a'", "bypasses", "'lstm'", "one submodule")),
        (["a", "a"], ("'a'", "twice")),
    ],
    ids=["no such name", "bypass", "bypass of a tuple", "twice"],
)
def test_a_cut_that_cannot_be_is_refused(at: list[str], words: tuple[str, ...]) -> None:
    model = Around()
    with untouched(model), refused(sg.PartitionError, *words):
        net_of(model, at=at)


def test_a_weight_on_both_sides_of_a_cut_is_refused() -> None:
    model = model_of()
    model.get_submodule("1.0").register_parameter("weight", model.get_parameter("0.0.weight"))
    with untouched(model), refused(sg.PartitionError, "'0.0.weight'", "'1.0.weight'", "both sides", "untie"):
        net_of(model)


def test_a_name_in_place_of_a_list_of_names_is_understood_or_refused() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.layer(x)))

    try:
        net = net_of(Long(), at="layer")
    except sg.SynthgradError as error:
        assert "'layer'" in str(error) and "list" in str(error)  # not: no submodule 'l'
        return
    assert [stage.name for stage in net.stages] == ["layer", "output"]


def test_a_synthesizer_of_the_wrong_shape_is_refused() -> None:
    class Narrow(ZeroSynthesizer):
        def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
            return activation[:, :-1]

    model = model_of()
    words = ("synthesizer at '0'", "(8, 5)", "expected (8, 6)", "factory")
    with untouched(model), refused(sg.ShapeError, *words):
        net_of(model, synthesizer=Narrow)
    with untouched(model), refused(sg.ShapeError, "ConvSynthesizer", "(B, 6)", "(B, C, H, W)", "LinearSynthesizer"):
        net_of(model, synthesizer=sg.ConvSynthesizer)


def test_an_input_synthesizer_of_the_wrong_shape_is_refused() -> None:
    model = model_of()
    with untouched(model), refused(sg.ShapeError, "input synthesizer behind '0'", "(8, 4)", "expected (8, 6)"):
        net_of(
            model,
            input_synthesizer=lambda input_shape, shape: MLPInputSynthesizer(input_shape, (4,)),
            schedule=sg.forward_unlocked(),
        )


@pytest.mark.parametrize("form", ["rank", "features"])
def test_a_synthesizer_that_cannot_take_the_activation_is_refused_by_name(form: str) -> None:
    model = model_of()
    with untouched(model), refused(sg.ShapeError, "synthesizer at '0'", "(8, 6)"):
        net_of(model, synthesizer=lambda shape: LinearSynthesizer((5,) if form == "features" else (1, 7)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0F0 1F0 2F0 3F0 3B0 2B0 1B0 3U0 2U0 1U0 0U0", ("0U0", "no gradient", "0S")),
        ("0F0 0S0 0U0 2F0 1F0 1S0 1U0 2S0 2U0 3F0 3B0 3U0", ("2F0", "1F0", "needs")),
        ("0F0 1F0 2F0 3F0 3S0 3U0", ("3S0", "is the last", "expected 3B0")),
        ("0F0 1P0 1S0 2F0 3F0", ("1P0", "no input synthesizer", "input_synthesizer=")),
        ("0F0 1F0 2F0 3F0 3B0 3U0 3T0", ("3T0", "no synthesizer to teach")),
        ("0F0 1F0 2F0 3F0 3U0 3B0", ("3U0", "no gradient")),
        ("0F0 1F0 2F0 3F0 3B0 4F0", ("5 stages", "4")),
        ("0F0 0F0 1F0 2F0 3F0 3B0", ("0F0", "twice")),
    ],
)
def test_a_schedule_that_cannot_be_executed_is_refused_with_the_action(text: str, words: tuple[str, ...]) -> None:
    model = model_of()
    with untouched(model), refused(sg.ScheduleError, *words):
        net_of(model, schedule=sg.from_text(text))


@pytest.mark.parametrize("schedule", [sg.update_unlocked(), sg.sporadic(1.0), sg.backprop(teach=True)])
def test_a_schedule_that_asks_synthesizers_that_are_not_there_is_refused(schedule: sg.Schedule) -> None:
    model = model_of()
    with untouched(model), refused(sg.ScheduleError, "stage 0 has no synthesizer"):
        net_of(model, schedule=schedule, synthesizer=None)


def test_one_missing_synthesizer_is_refused_by_name() -> None:
    model = model_of()
    with untouched(model), refused(sg.PartitionError, "'0', '2'", "'1'"):
        net_of(model, synthesizer={"0": ZeroSynthesizer, "2": ZeroSynthesizer})


@pytest.mark.parametrize("schedule", [sg.update_unlocked(), sg.backprop(), sg.gpipe(2)])
def test_an_input_synthesizer_that_the_schedule_never_asks_is_refused(schedule: sg.Schedule) -> None:
    model = model_of()
    with untouched(model), refused(sg.ScheduleError, "input synthesizer", "forward_unlocked"):
        net_of(model, schedule=schedule, input_synthesizer=MLPInputSynthesizer)


def test_decoupling_twice_is_refused() -> None:
    net = net_of()
    with refused(sg.PartitionError, "decoupled already", "net.plain"):
        net_of(net)
    assert net_of(net.plain).plain is net.plain


@pytest.mark.parametrize("mixing", [-0.1, 1.5, NAN, INF])
def test_mixing_out_of_range_is_refused(mixing: float) -> None:
    model = model_of()
    with untouched(model), refused(sg.ScheduleError, f"mixing={mixing}", "between 0", "and 1"):
        net_of(model, mixing=mixing)


def test_mixing_without_synthesizers_is_refused() -> None:
    model = model_of()
    with untouched(model), refused(sg.SynthgradError, "mixing", "synthesizer"):
        net_of(model, synthesizer=None, schedule=sg.backprop(), mixing=0.5)


@pytest.mark.parametrize(
    ("sample", "got"), [((), "0 values"), ((torch.ones(8, WIDTH),), "1 values"), (torch.ones(8, WIDTH), "a Tensor")]
)
def test_a_sample_without_target_is_refused(sample: Any, got: str) -> None:
    model = model_of()
    with untouched(model), refused(sg.ShapeError, f"got {got}", "target", "(x, y)"):
        net_of(model, sample=sample)


@pytest.mark.parametrize("name", ["optimizer", "synthesizer_optimizer", "synthesizer", "input_synthesizer"])
def test_a_thing_in_place_of_what_makes_one_for_each_stage_is_refused(name: str) -> None:
    model = model_of()
    things: dict[str, Any] = {
        "synthesizer": LinearSynthesizer((WIDTH,)),
        "input_synthesizer": MLPInputSynthesizer((WIDTH,), (WIDTH,)),
    }
    thing = things.get(name) or torch.optim.SGD(model.parameters(), lr=0.1)
    with untouched(model), refused(sg.SynthgradError, f"{name}: got one {type(thing).__name__}", "makes one"):
        net_of(model, **{name: thing})


def test_a_class_in_place_of_a_loss_is_refused() -> None:
    model = model_of()
    with untouched(model), refused(sg.SynthgradError, "loss: got", "CrossEntropyLoss", "not a class"):
        net_of(model, loss=nn.CrossEntropyLoss)


def test_what_is_wrapped_in_data_parallel_is_refused_and_the_model_inside_is_not() -> None:
    wrapped = nn.DataParallel(model_of())
    with untouched(wrapped), refused(sg.PartitionError, "wrapped in DataParallel", "pass model.module"):
        net_of(wrapped, at=["module.0"])
    assert net_of(wrapped.module).plain is wrapped.module


def test_a_model_in_float16_is_refused_before_anything_has_changed() -> None:
    net, (x, y) = net_of(), batch()
    net.half()
    before = weights(net)
    with refused(sg.SynthgradError, "float16", "use bfloat16", "sg.Interface"):
        net.step(x.half(), target=y)
    assert not changed(net, before) and net.engine.steps == 0


def test_a_sample_whose_rows_disagree_is_refused() -> None:
    model = model_of()
    with untouched(model), refused(sg.ShapeError, "target", "(7,)", "8 rows"):
        net_of(model, sample=(batch(8)[0], batch(7)[1]), loss=lambda output, target: output.mean())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, 2, 3]), ("got 0 to 3", "0 to 2", "classes=None")),
        (torch.tensor([0, 1, 2, -1]), ("got -1 to 2", "0 to 2")),
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), ("class indices", "torch.float32", "integers from 0 to 2")),
    ],
    ids=["too high", "too low", "float"],
)
def test_labels_of_the_sample_that_are_no_classes_are_refused(labels: Tensor, words: tuple[str, ...]) -> None:
    model = model_of()
    with untouched(model), refused(sg.ContextError, "LinearSynthesizer", *words):
        net_of(model, sample=(batch(4)[0], labels), loss=lambda output, target: output.square().mean())


# ---- in a step -------------------------------------------------------------------------------------------------------


def any_loss(output: Tensor, target: Any) -> Tensor:
    return output.square().mean()


STATIC: dict[str, tuple[type[sg.SynthgradError], tuple[Any, ...], dict[str, Any], tuple[str, ...]]] = {
    "labels missing": (sg.ContextError, (batch()[0],), {"target": [1]}, ("labels", "none", "target=")),
    "labels too high": (
        sg.ContextError,
        (batch(2)[0],),
        {"target": torch.tensor([0, 3])},
        ("got 0 to 3", "expected labels from 0 to 2"),
    ),
    "labels too low": (sg.ContextError, (batch(2)[0],), {"target": torch.tensor([0, -5])}, ("got -5 to 0",)),
    "labels float": (sg.ContextError, (batch(2)[0],), {"target": torch.ones(2)}, ("torch.float32", "integers")),
    "labels apart": (
        sg.ContextError,
        (batch(2)[0],),
        {"target": torch.ones(2), "labels": torch.tensor([7, 0])},
        ("got 0 to 7",),
    ),
    "rows disagree": (sg.ShapeError, (batch(8)[0],), {"target": batch(7)[1]}, ("target", "(7,)", "8 rows")),
    "index disagrees": (
        sg.ShapeError,
        (batch(2)[0],),
        {"target": batch(2)[1], "index": torch.arange(3)},
        ("index", "(3,)", "2 rows"),
    ),
    "empty": (sg.ShapeError, (batch(0)[0],), {"target": batch(0)[1]}, ("no example", "at least one row")),
    "no tensor": (sg.ShapeError, (3.0,), {"target": batch(2)[1]}, ("no example", "tensor")),
    "scalar target": (sg.ShapeError, (batch(2)[0],), {"target": torch.tensor(1)}, ("target", "()", "2 rows")),
    "fewer rows than microbatches": (
        sg.ShapeError,
        (batch(1)[0],),
        {"target": batch(1)[1]},
        ("1 rows", "2 microbatches", "larger batches"),
    ),
}


@pytest.mark.parametrize("name", list(STATIC))
@pytest.mark.parametrize("delay", [0, 1])
def test_a_batch_that_does_not_fit_is_refused_before_anything_has_changed(name: str, delay: int) -> None:
    """Not even a pending lesson is lost: training goes on as if the batch had never come."""
    kind, inputs, given, words = STATIC[name]
    net = net_of(loss=any_loss, schedule=sg.update_unlocked(delay=delay, microbatches=2))
    for _ in range(3):
        x, y = batch()
        net.step(x, target=y)
    twin, before, random = copy.deepcopy(net), weights(net), torch.get_rng_state()
    with refused(kind, *words):
        net.step(*inputs, **given)
    assert not changed(net, before) and torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())
    for _ in range(3):
        x, y = batch()
        assert torch.equal(net.step(x, target=y).loss, twin.step(x, target=y).loss)
    net.flush()
    twin.flush()
    assert not changed(net, weights(twin))


@pytest.mark.parametrize("name", [name for name in STATIC if name != "fewer rows than microbatches"])
def test_the_probe_refuses_the_same_batches(name: str) -> None:
    kind, inputs, given, words = STATIC[name]
    net = net_of(loss=any_loss)
    before = weights(net)
    with refused(kind, *words):
        net.probe(*inputs, **given)
    assert not changed(net, before)


def test_another_number_of_loss_terms_than_the_sample_is_refused_before_anything_has_changed() -> None:
    """Two terms for each element of the target: how many, for another length, only the last stage would see."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def per_token(output: Tensor, target: Tensor) -> Tensor:
        return torch.stack([(output[..., 0] - target).square(), (output[..., 0] - target).abs()])

    net = net_of(
        model,
        at=["1"],
        sample=(torch.randn(4, 5, WIDTH), torch.randn(4, 5)),
        loss=per_token,
        synthesizer=LinearSynthesizer,
    )
    x, y = torch.randn(4, 5, WIDTH), torch.randn(4, 5)
    net.step(x, target=y)
    before = weights(net)
    with refused(sg.ShapeError, "target of shape (4, 3)", "rows of (5,)", "terms="):
        net.step(x[:, :3], target=y[:, :3])
    assert not changed(net, before)


# ---- numbers that are none -------------------------------------------------------------------------------------------


def spoiled(value: float) -> Tensor:
    x = batch()[0]
    x[2, 3] = value
    return x


class Spoiling(ZeroSynthesizer):
    """Answers with a bad number when told to, at the second cut."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.value = 0.0

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        return torch.full_like(activation, self.value)


def spoiler(net: sg.Decoupled) -> Spoiling:
    module = net.synthgrad.get_submodule("1/gradient")
    assert isinstance(module, Spoiling)
    return module


@pytest.fixture(params=["at once", "put off"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """When flags are read: on a CPU at once; on a GPU, where reading would stall it, at the end of the step."""
    if request.param == "put off":
        put_off(monkeypatch)
    return request.param


def put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgrad.core.stage._would_stall", lambda device: True)


def sensible(net: sg.Decoupled) -> None:
    """It goes on training: finite losses, and nothing of the bad step is left."""
    assert not net.engine.mailbox and not any(stage.passages or stage.suspects for stage in net.stages)
    assert all(p.grad is None for p in net.parameters())
    for _ in range(4):
        x, y = batch()
        assert net.step(x, target=y).loss.isfinite()
    assert all(value.isfinite().all() for value in net.state_dict().values())


SCHEDULES: dict[str, Callable[[], sg.Schedule]] = {
    "backprop": sg.backprop,
    "gpipe": partial(sg.gpipe, 2),
    "update_unlocked": sg.update_unlocked,
    "delay": partial(sg.update_unlocked, 1),
    "microbatches": partial(sg.update_unlocked, microbatches=2),
}


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_bad_row_is_refused_before_any_update_and_training_goes_on(name: str, value: float) -> None:
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
    )
    net = net_of(model, at=["0", "1", "2"], schedule=SCHEDULES[name]())
    for _ in range(2):
        x, y = batch()
        net.step(x, target=y)
    before = weights(net)
    with pytest.raises(sg.NumericalError, match="not finite.*look for.*no stage was updated") as caught:
        net.step(spoiled(value), target=batch()[1])
    assert caught.value.updated == () and not changed(net, before)
    assert caught.value.stage == (len(net.stages) - 1 if name in ("backprop", "gpipe") else 0)
    sensible(net)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_bad_synthetic_gradient_is_refused_before_its_stage_is_updated_naming_those_before(value: float) -> None:
    net = net_of(synthesizer=Spoiling)
    x, y = batch()
    net.step(x, target=y)
    before = weights(net)
    second = spoiler(net)
    second.value = value
    with pytest.raises(sg.NumericalError, match=r"stage 1 \(1\).*already updated in this step: stages \[0\]") as caught:
        net.step(x, target=y)
    assert caught.value.stage == 1 and caught.value.updated == (0,)
    assert {name.split(".")[0] for name in changed(net.plain, before)} <= {"0"}
    second.value = 0.0
    sensible(net)


def test_a_bad_loss_is_refused_naming_the_stages_updated_before() -> None:
    broken = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target) * (NAN if broken else 1.0)

    net = net_of(loss=loss, schedule=sg.update_unlocked(delay=1))
    for _ in range(2):
        x, y = batch()
        net.step(x, target=y)
    broken, before = True, weights(net)
    with pytest.raises(sg.NumericalError, match=r"stage 3 \(output\): loss is not finite") as caught:
        net.step(*batch()[:1], target=batch()[1])
    assert caught.value.stage == 3 and caught.value.updated == (0, 1, 2)
    assert not {name for name in changed(net.plain, before) if name.startswith("3.")}
    broken = False
    sensible(net)


def test_a_finite_loss_with_a_bad_gradient_reaches_no_weight_and_no_synthesizer() -> None:
    """The norm has no gradient at zero, times zero: NaN, though the loss is a plain number."""
    broken = False

    def loss(output: Tensor, target: Tensor) -> Tensor:
        bad = ((output * 0).square().sum()).sqrt() if broken else 0.0
        return functional.cross_entropy(output, target) + bad

    net = net_of(loss=loss)
    x, y = batch()
    net.step(x, target=y)
    broken = True
    with pytest.raises(sg.NumericalError) as caught:
        net.step(x, target=y)
    assert caught.value.stage == 3 and caught.value.updated == (0, 1, 2)
    broken = False
    assert all(value.isfinite().all() for value in net.state_dict().values())
    sensible(net)


def test_where_flags_are_put_off_a_fault_is_raised_at_the_end_naming_every_stage_updated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_off(monkeypatch)
    net = net_of(synthesizer=Spoiling)
    x, y = batch()
    net.step(x, target=y)
    spoiler(net).value = NAN
    with pytest.raises(sg.NumericalError, match=r"stage 1 \(1\).*already updated in this step") as caught:
        net.step(x, target=y)
    assert caught.value.stage == 1 and caught.value.updated == (0, 1, 2, 3)  # it is too late: they must be named


def test_a_fault_is_found_whenever_the_flags_are_read(reading: str) -> None:
    net = net_of()
    x, y = batch()
    net.step(x, target=y)
    with pytest.raises(sg.NumericalError) as caught:
        net.step(spoiled(NAN), target=y)
    assert caught.value.stage == 0
    assert not any(stage.suspects or stage.passages for stage in net.stages) and not net.engine.mailbox


def test_a_flush_with_nothing_bad_pending_raises_nothing(reading: str) -> None:
    net = net_of(schedule=sg.update_unlocked(delay=2))
    for _ in range(3):
        x, y = batch()
        net.step(x, target=y)
    net.flush()
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_every_error_is_ours_and_of_a_kind_python_knows() -> None:
    kinds = (sg.ContextError, sg.PartitionError, sg.ScheduleError, sg.ShapeError)
    assert all(issubclass(kind, ValueError) and issubclass(kind, sg.SynthgradError) for kind in kinds)
    assert issubclass(sg.NumericalError, ArithmeticError) and issubclass(sg.DeadlockError, sg.ScheduleError)


def test_a_synthesizer_without_forward_cannot_be_made() -> None:
    kind: Any = Synthesizer
    with pytest.raises(TypeError, match="forward"):
        kind()


# ---- loops that teach something else than is meant -------------------------------------------------------------------


class Named(nn.Module):
    """Takes arguments by name, one of which is called as one of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        h = torch.tanh(self.lower(x if mask is None else x * mask))
        return self.head(h) if labels is None else self.head(h) + labels.unsqueeze(1)


def named(schedule: sg.Schedule | None = None) -> sg.Decoupled:
    torch.manual_seed(3)
    return net_of(Named(), at=["lower"], schedule=schedule)


@pytest.mark.parametrize(
    "schedule", [sg.update_unlocked(), sg.update_unlocked(microbatches=2)], ids=lambda one: one.name
)
def test_keyword_arguments_are_those_of_keywords(schedule: sg.Schedule) -> None:
    x, y = batch()
    mask = torch.rand(8, WIDTH) > 0.3
    ours, theirs, without = named(schedule), named(schedule), named(schedule)
    for _ in range(3):
        by_name = ours.step(x, target=y, mask=mask).loss
        assert torch.equal(by_name, theirs.step(x, sg.Keywords(mask=mask), target=y).loss)
        assert not torch.equal(by_name, without.step(x, target=y).loss)
    assert not changed(ours, weights(theirs))
    one, other = ours.probe(x, target=y, mask=mask), theirs.probe(x, sg.Keywords(mask=mask), target=y)
    assert one["lower"].parameters == other["lower"].parameters
    assert ours.step(x, sg.Keywords(labels=y), target=y, labels=y).loss != ours.step(x, target=y).loss
    ours.step(x, sg.Keywords(labels=None), target=y, labels=y)


KEYWORDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown": ({"msak": torch.ones(8, 1)}, ("msak", "does not take", "mask")),
    "by place too": ({"x": torch.ones(8, 1)}, ("'x'", "does not take")),
    "ambiguous": ({"labels": torch.zeros(8, dtype=torch.int64)}, ("labels", "synthesizers", "Keywords(labels=...)")),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_that_collide_are_refused_before_anything_has_changed(name: str) -> None:
    given, words = KEYWORDS[name]
    net, (x, y) = named(), batch()
    before = weights(net)
    for act in (net.step, net.probe):
        with refused(sg.SynthgradError, *words):
            act(x, target=y, **given)
    with refused(sg.SynthgradError, "mask", "give it once"):
        net.step(x, sg.Keywords(mask=None), target=y, mask=torch.ones(8, 1))
    assert not changed(net, before)
    net.step(x, target=y)


def test_a_chain_takes_no_keywords() -> None:
    net, (x, y) = net_of(), batch()
    with refused(sg.SynthgradError, "mask", "Sequential"):
        net.step(x, target=y, mask=x)


def test_what_a_loop_does_besides_a_step_teaches_nothing() -> None:
    """A backward pass of its own and no zero_grad, an optimizer of all stages that steps once more."""
    ours, theirs = named(), named()
    whole = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        x, y = batch()
        loss = theirs.step(x, target=y).loss
        whole.step()  # there are no gradients for it
        assert torch.equal(ours.step(x, target=y).loss, loss)
        with pytest.raises(RuntimeError, match="does not require grad"):
            loss.backward()
        functional.cross_entropy(theirs(x), y).backward()
    assert not changed(ours, weights(theirs))


@pytest.mark.parametrize("training", [True, False])
def test_a_mode_that_changes_in_the_middle_of_a_step_is_told(training: bool) -> None:
    model = model_of()

    def evaluating(output: Tensor, target: Tensor) -> Tensor:
        model.train(not training)
        return functional.cross_entropy(output, target)

    net = net_of(model, loss=evaluating, schedule=sg.update_unlocked(microbatches=2))
    net.train(training)
    x, y = batch()
    with refused(sg.SynthgradError, "in the middle of the step", "train" if training else "eval", "between two steps"):
        net.step(x, target=y)
