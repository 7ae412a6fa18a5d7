"""The same on every device: what is tried here on the CPU is tried on a GPU, too, where there is one.

Tolerance between devices: kernels add in another order, and a few steps carry that on.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import synthgrad as sg

WIDTH, CLASSES, ROWS = 8, 4, 16
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
pairs = pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ("cpu", "cpu"),
        pytest.param("cuda:0", "cpu", marks=pytest.mark.gpu),
        pytest.param("cuda:0", "cuda:1", marks=pytest.mark.gpu(2)),
    ],
)
SYNTHESIZERS: dict[str, Any] = {
    "linear": partial(sg.LinearSynthesizer, classes=CLASSES),
    "critic": partial(sg.CriticSynthesizer, classes=CLASSES),
    "critic of the output": partial(sg.CriticSynthesizer, classes=CLASSES, learns=("output", "gradient")),
    "replay": lambda shape: sg.Replay(sg.Averaged(sg.Normalized(sg.LinearSynthesizer(shape, classes=CLASSES)))),
    "least squares": partial(sg.LeastSquaresSynthesizer, classes=CLASSES),
    "stale": partial(sg.StaleSynthesizer, examples=ROWS),
    "feedback alignment": partial(sg.FeedbackAlignmentSynthesizer, outputs=CLASSES),
}
every = pytest.mark.parametrize("name", list(SYNTHESIZERS))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, WIDTH, generator=draw), torch.randint(0, CLASSES, (ROWS,), generator=draw)


def layers(norm: type[nn.Module] = nn.BatchNorm1d, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = (nn.Sequential(nn.Linear(WIDTH, WIDTH), norm(WIDTH), nn.Tanh()) for _ in range(3))
    return nn.Sequential(*hidden, nn.Dropout(dropout), nn.Linear(WIDTH, CLASSES))


def net_of(model: nn.Module, at: list[str], device: str, synthesizer: Any = None, **given: Any) -> sg.Decoupled:
    x, y = batch()
    options: dict[str, Any] = {
        "loss": lambda output, target: F.cross_entropy(output, target.to(output.device)),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "synthesizer": synthesizer or SYNTHESIZERS["linear"],
    }
    if synthesizer is SYNTHESIZERS["feedback alignment"]:
        options["schedule"] = sg.error_broadcast()
    return sg.decouple(model, at=at, sample=(x.to(device), y.to(device)), **(options | given))


def train(net: sg.Decoupled, device: str, steps: int = 4) -> list[float]:
    losses: list[float] = []
    for seed in range(steps):
        x, y = (part.to(device) for part in batch(seed))
        losses.append(float(net.step(x, target=y, index=torch.arange(ROWS, device=device)).loss))
    net.flush()
    return losses


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, on the CPU; no extra state."""
    return {name: value.cpu() for name, value in net.state_dict().items() if isinstance(value, Tensor)}


def assert_near(net: nn.Module, other: nn.Module) -> None:
    expected = weights(other)
    for name, value in weights(net).items():
        torch.testing.assert_close(value, expected[name], **CLOSE, msg=lambda m: name + m)  # noqa: B023


# ---- one device ------------------------------------------------------------------------------------------------------


@devices
@every
def test_a_net_learns_where_it_is_what_it_learns_on_the_cpu(name: str, device: str) -> None:
    net = net_of(layers().to(device), ["0", "1"], device, SYNTHESIZERS[name])
    reference = copy.deepcopy(net).to("cpu")  # now, while its optimizers have no state: that would stay where it is
    assert train(net, device) == pytest.approx(train(reference, "cpu"), rel=1e-3)
    assert {value.device.type for value in [*net.parameters(), *net.buffers()]} == {device}
    assert_near(net, reference)
    x, y = batch()
    found = net.probe(x.to(device), target=y.to(device), index=torch.arange(ROWS, device=device))
    for cut, wanted in reference.probe(x, target=y, index=torch.arange(ROWS)).items():
        assert found[cut].as_dict() == pytest.approx(wanted.as_dict(), rel=1e-2, abs=1e-3)


@devices
def test_a_net_may_move_before_its_first_step(device: str) -> None:
    net = net_of(layers(), ["0", "1"], "cpu")
    reference = copy.deepcopy(net)
    assert train(net.to(device), device) == pytest.approx(train(reference, "cpu"), rel=1e-3)
    assert_near(net, reference)


@devices
def test_labels_and_index_may_stay_where_the_loader_made_them(device: str) -> None:
    net = net_of(layers().to(device), ["0", "1"], device, lambda shape: sg.Clipped(SYNTHESIZERS["linear"](shape), 9.0))
    twin = copy.deepcopy(net)
    x, y = batch()
    for _ in range(2):
        net.step(x.to(device), target=y)
        twin.step(x.to(device), target=y.to(device))
    assert_near(net, twin)


@devices
def test_dropout_draws_by_key_and_leaves_the_scripts_stream(device: str) -> None:
    nets = [net_of(layers(dropout=0.5).to(device), ["0", "3"], device, seed=7) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    losses = []
    for net in nets:
        torch.manual_seed(5)
        before = torch.rand(1, device=device)
        torch.manual_seed(5)
        losses.append(train(net, device))
        torch.rand(3 + len(losses), device=device)  # what the script draws besides changes no mask
        torch.manual_seed(5)
        net.step(*(part.to(device) for part in batch()[:1]), target=batch()[1])
        assert torch.equal(torch.rand(1, device=device), before)
    assert losses[0] == losses[1]


@devices
def test_killed_and_resumed_it_goes_on_where_it_is(device: str, tmp_path: Path) -> None:
    whole = net_of(layers().to(device), ["0", "1"], device, schedule=sg.update_unlocked(delay=1))
    train(whole, device)
    whole.save(tmp_path)
    again = net_of(layers().to(device), ["0", "1"], device, schedule=sg.update_unlocked(delay=1))
    again.load(tmp_path)
    assert train(whole, device) == pytest.approx(train(again, device), rel=1e-6)
    assert_near(whole, again)


# ---- faults: on a GPU the flags are read once a step, at its end -----------------------------------------------------


@devices
@pytest.mark.parametrize("schedule", [sg.backprop(), sg.update_unlocked(delay=1)], ids=lambda one: one.name)
def test_a_fault_is_found_at_the_end_of_the_step_and_names_all_that_were_updated(
    schedule: sg.Schedule, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        monkeypatch.setattr("synthgrad.core.stage._would_stall", lambda device: True)
    net = net_of(layers().to(device), ["0", "1"], device, schedule=schedule)
    train(net, device, 2)
    x, y = (part.to(device) for part in batch())
    x[3, 2] = torch.nan
    with pytest.raises(sg.NumericalError, match="not finite; .*end of the step|end of the step.*not finite") as caught:
        net.step(x, target=y)
    assert caught.value.updated == (0, 1, 2) and caught.value.stage == 0
    assert not any(stage.passages or stage.suspects for stage in net.stages) and not net.engine.mailbox


# ---- precision -------------------------------------------------------------------------------------------------------


@devices
def test_the_trainer_learns_in_bfloat16(device: str) -> None:
    net, kinds = net_of(layers().to(device), ["0", "1"], device), set()
    net.plain.get_submodule("4").register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    loader = DataLoader(TensorDataset(*batch()), 8)
    trainer = sg.Trainer(net, epochs=10, bf16=True)
    before = trainer.evaluate(loader).loss
    trainer.fit(loader)
    assert trainer.evaluate(loader).loss < 0.9 * before
    assert kinds == {torch.bfloat16} and {value.dtype for value in net.parameters()} == {torch.float32}


def with_interface(device: str, **given: Any) -> nn.Sequential:
    members: list[nn.Module] = list(layers(nn.LayerNorm))
    members.insert(2, sg.Interface(SYNTHESIZERS["linear"]((WIDTH,)), **given))
    model = nn.Sequential(*members).to(device)
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    return model


def gradients(
    model: nn.Module, device: str, call: Any = None, scaler: Any = None, kind: torch.dtype | None = None
) -> list[Tensor]:
    x, y = (part.to(device) for part in batch())
    with sg.context(model, labels=y):
        with torch.autocast(device, enabled=kind is not None, dtype=kind or torch.bfloat16):
            loss = F.cross_entropy((call or model)(x), y)
        (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None:
        scaler.unscale_(torch.optim.SGD(model.parameters(), lr=0.1))
    return [value.grad.cpu() for value in model.parameters() if value.grad is not None]


def assert_nearly(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= tolerance * max(float(theirs.norm()), 1e-3)


@devices
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.1)])
def test_an_interface_learns_in_half_precision_what_it_learns_in_full(
    kind: torch.dtype, tolerance: float, device: str
) -> None:
    """Tolerance: eleven and eight bits of mantissa."""
    expected = gradients(with_interface("cpu"), "cpu")
    scaler = torch.amp.GradScaler(device, init_scale=2.0**8) if kind is torch.float16 else None
    model = with_interface(device, scale=scaler and scaler.get_scale)
    assert_nearly(gradients(model, device, scaler=scaler, kind=kind), expected, tolerance)


@devices
def test_an_interface_goes_on_when_the_scaler_has_skipped_a_step(device: str) -> None:
    """The first scale is too large for float16: a step is skipped, the scale falls, and the layers below learn."""
    scaler = torch.amp.GradScaler(device, init_scale=2.0**30)
    model = with_interface(device, scale=scaler.get_scale)
    optimizer, before = torch.optim.Adam(model.parameters(), lr=0.01), copy.deepcopy(model.state_dict())
    x, y = (part.to(device) for part in batch())
    losses: list[float] = []
    for step in range(40):
        with sg.context(model, labels=y):
            with torch.autocast(device, dtype=torch.float16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step == 0:
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert losses[-1] < 0.8 * losses[0] and scaler.get_scale() < 2.0**30
    assert all(value.isfinite().all() for value in model.parameters())
    assert not torch.equal(model.state_dict()["0.0.weight"], before["0.0.weight"])


@devices
def test_a_model_in_float16_is_refused_and_one_in_bfloat16_learns(device: str) -> None:
    net = net_of(layers(nn.LayerNorm).to(device), ["0", "1"], device)
    x, y = (part.to(device) for part in batch())
    with pytest.raises(sg.SynthgradError, match="float16.*bfloat16"):
        net.half().step(x.half(), target=y)
    net.bfloat16()
    losses = [net.step(x.bfloat16(), target=y).loss.item() for _ in range(30)]
    assert losses[-1] < losses[0]


# ---- compiled --------------------------------------------------------------------------------------------------------


def backend(device: str) -> str:
    return "aot_eager" if device == "cpu" else "inductor"


@devices
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
def test_an_interface_is_compiled_as_one_graph(device: str) -> None:
    torch._dynamo.reset()
    model = with_interface(device)
    compiled = torch.compile(model, fullgraph=True, backend=backend(device))
    expected = gradients(with_interface("cpu"), "cpu")
    assert_nearly(gradients(model, device, call=compiled), expected, 1e-3)
    torch._dynamo.reset()


@devices
def test_blocks_that_are_compiled_learn_in_stages_what_they_learn_as_they_are(device: str) -> None:
    torch._dynamo.reset()
    net, plain = (net_of(layers().to(device), ["0", "1"], device) for _ in range(2))
    plain.load_state_dict(net.state_dict())
    for block in net.plain.children():
        block.compile(backend=backend(device))
    assert train(net, device) == pytest.approx(train(plain, device), rel=1e-3)
    assert_near(net, plain)
    torch._dynamo.reset()


# ---- several devices -------------------------------------------------------------------------------------------------


class Apart(nn.Module):
    """As people write it who spread a model over devices: the activation is moved on inline."""

    def __init__(self, lower: str, upper: str) -> None:
        super().__init__()
        whole = layers()
        self.first, self.second, self.third, self.head = whole[0].to(lower), whole[1].to(lower), whole[2], whole[4]
        self.upper = upper
        self.third.to(upper), self.head.to(upper)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x)).to(self.upper)))


@pairs
@every
def test_stages_on_several_devices_learn_what_they_learn_on_one(name: str, lower: str, upper: str) -> None:
    """The labels are where the output is; a synthesizer on another device finds them."""
    net = net_of(Apart(lower, upper), ["first", "second", "third"], lower, SYNTHESIZERS[name])
    one = net_of(Apart("cpu", "cpu"), ["first", "second", "third"], "cpu", SYNTHESIZERS[name])
    one.load_state_dict(weights(net), strict=False)
    for seed in range(3):
        x, y = batch(seed)
        ours = net.step(x.to(lower), target=y.to(upper), index=torch.arange(ROWS))
        theirs = one.step(x, target=y, index=torch.arange(ROWS))
        assert float(ours.loss) == pytest.approx(float(theirs.loss), rel=1e-3)
    assert_near(net, one)
    assert [str(stage.piece.parameters[0].device) for stage in net.stages] == [lower, lower, upper, upper]
    probed = net.probe(batch()[0].to(lower), target=batch()[1].to(upper), index=torch.arange(ROWS))
    assert probed.keys() == {"first", "second", "third"}
