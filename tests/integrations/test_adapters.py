"""The adapters train as `net.step` does, and go on from checkpoints of the packages' own; with the real packages.

They are imported inside the tests, since importing them takes longer than all that is tested here.
"""

import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import synthgrad as sg

QUIET: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "accelerator": "cpu",
}
EPOCHS = 3


@pytest.fixture(autouse=True)
def their_warnings() -> Iterator[None]:
    """Those that the packages raise about themselves, and torch, are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def data() -> TensorDataset:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    return TensorDataset(x, x[:, :3].argmax(1))


def loader() -> DataLoader[Any]:
    return DataLoader(data(), 8)


class Network(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))


def made(seed: int = 0) -> sg.Decoupled:
    torch.manual_seed(seed)
    return sg.decouple(
        Network(),
        at=["1"],
        sample=tuple(data()[:8]),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=3),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.5),
        schedule=sg.update_unlocked(delay=1),
        seed=seed,
    )


def trained(epochs: int = EPOCHS, flush_after: int = EPOCHS, bf16: bool = False) -> sg.Decoupled:
    """By a plain loop, which flushes where a checkpoint is written."""
    net = made()
    for epoch in range(epochs):
        for x, y in loader():
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
                net.step(x, target=y)
        if epoch + 1 in (flush_after, epochs):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
                net.flush()
    return net


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = list(zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    return bool(pairs) and all(torch.equal(a, b) for a, b in pairs)


# ---- Lightning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_trains_and_resumes_as_the_plain_loop(precision: str, tmp_path: Path) -> None:
    from lightning.pytorch import Trainer

    from synthgrad.integrations.lightning import DecoupledModule

    def fit(net: sg.Decoupled, epochs: int, **resumed: Any) -> Any:
        settings: dict[str, Any] = QUIET | {"precision": precision}
        trainer = Trainer(max_epochs=epochs, enable_checkpointing=False, **settings)
        trainer.fit(DecoupledModule(net), loader(), loader(), **resumed)
        return trainer

    bf16 = precision == "bf16-mixed"
    whole = made()
    trainer = fit(whole, EPOCHS)
    assert same(whole, trained(bf16=bf16)) and whole.training
    assert trainer.global_step == 5 * EPOCHS  # batches, not optimizer steps
    assert {"train_loss", "agreement/1", "valid_loss", "valid_error"} <= trainer.callback_metrics.keys()

    first = made()
    fit(first, 1).save_checkpoint(tmp_path / "one.ckpt")
    second = made(seed=1)
    trainer = fit(second, EPOCHS, ckpt_path=tmp_path / "one.ckpt")
    assert trainer.global_step == 5 * EPOCHS and second.engine.steps == 5 * EPOCHS
    assert same(second, trained(flush_after=1, bf16=bf16)) and not same(second, first)


def test_lightning_evaluates_and_refuses_what_cannot_work() -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from synthgrad.integrations.lightning import DecoupledModule

    net = made()
    trainer = Trainer(max_steps=7, max_epochs=9, enable_checkpointing=False, **QUIET)
    trainer.fit(DecoupledModule(net), loader())
    assert trainer.global_step == net.engine.steps == 7
    found = trainer.test(DecoupledModule(net), DataLoader(data(), 7), verbose=False)[0]
    wanted = sg.Trainer(net, epochs=1).evaluate(loader())
    assert found["test_loss"] == pytest.approx(wanted.loss, rel=1e-5)
    assert found["test_error"] == pytest.approx(wanted.error, rel=1e-5)
    with pytest.raises(MisconfigurationException, match="manual optimization"):
        Trainer(gradient_clip_val=1.0, **QUIET).fit(DecoupledModule(net), loader())

    with pytest.raises(sg.SynthgradError, match="DecoupledModule: got Linear, .*decouple it first"):
        DecoupledModule(torch.nn.Linear(2, 2))  # pyrefly: ignore
    with pytest.raises(sg.ShapeError, match="batch: got dict, expected a tuple"):
        DecoupledModule(net).training_step({"x": 1}, 0)

    class Fake:
        world_size, precision = 1, "16-mixed"

    module = DecoupledModule(net)
    module._trainer = Fake()
    with pytest.raises(sg.SynthgradError, match="bf16-mixed"):
        module.setup("fit")
    Fake.world_size = 2
    with pytest.raises(sg.SynthgradError, match="torchrun"):
        module.setup("fit")


# ---- Accelerate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_trains_and_resumes_as_the_plain_loop(precision: str, tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from synthgrad.integrations.accelerate import AcceleratedNet

    def begun(seed: int) -> tuple[Any, AcceleratedNet]:
        AcceleratorState._reset_state(True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        return accelerator, AcceleratedNet(accelerator, made(seed))

    def fit(accelerator: Any, net: AcceleratedNet, epochs: int) -> None:
        batches = accelerator.prepare(loader())
        for _ in range(epochs):
            for x, y in batches:
                net.step(x, target=y)

    accelerator, net = begun(0)
    fit(accelerator, net, 1)
    accelerator.save_state(str(tmp_path))
    accelerator, again = begun(1)
    accelerator.load_state(str(tmp_path))
    for one in (net, again):
        fit(accelerator, one, EPOCHS - 1)
        one.flush()
        assert same(one.net, trained(flush_after=1, bf16=precision == "bf16"))
    assert net(data().tensors[0]).dtype is torch.float32 or precision == "bf16"

    other = sg.decouple(Network(), at=["0"], sample=tuple(data()[:8]), loss=F.cross_entropy, optimizer=torch.optim.SGD)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(sg.CheckpointError, match="cuts"):
        AcceleratedNet(accelerator, other).load_state_dict(net.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_accelerate_refuses_what_cannot_work() -> None:
    from synthgrad.integrations.accelerate import AcceleratedNet

    class Fake:
        num_processes, mixed_precision, gradient_accumulation_steps = 1, "fp16", 1

    with pytest.raises(sg.SynthgradError, match="AcceleratedNet: got Linear, .*decouple it first"):
        AcceleratedNet(Fake(), torch.nn.Linear(2, 2))  # pyrefly: ignore

    with pytest.raises(sg.SynthgradError, match="bf16"):
        AcceleratedNet(Fake(), made())  # pyrefly: ignore
    Fake.mixed_precision, Fake.gradient_accumulation_steps = "no", 2
    with pytest.raises(sg.SynthgradError, match="microbatches"):
        AcceleratedNet(Fake(), made())  # pyrefly: ignore
    Fake.num_processes = 2
    with pytest.raises(sg.SynthgradError, match="torchrun"):
        AcceleratedNet(Fake(), made())  # pyrefly: ignore


# ---- skorch ----------------------------------------------------------------------------------------------------------


def classifier(**options: Any) -> Any:
    from synthgrad.integrations.skorch import DecoupledClassifier

    settings: dict[str, Any] = {
        "at": ["1"],
        "synthesizer": partial(sg.LinearSynthesizer, classes=3),
        "schedule": sg.update_unlocked(delay=1),
        "lr_schedule": partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.5),
        "optimizer": torch.optim.Adam,
        "lr": 0.01,
        "batch_size": 8,
        "max_epochs": EPOCHS,
        "train_split": None,
        "verbose": 0,
    }
    return DecoupledClassifier(Network, **(settings | options))


def test_skorch_trains_as_the_plain_loop() -> None:
    x, y = (part.numpy() for part in data().tensors)
    torch.manual_seed(0)
    fitted = classifier().fit(x, y)
    net = trained()
    assert same(fitted.module_, net.plain) and same(fitted.decoupled_, net)
    with torch.no_grad():
        probabilities = net.eval()(data().tensors[0]).softmax(1)
    assert torch.allclose(torch.from_numpy(fitted.predict_proba(x)), probabilities)
    fitted.set_params(lr=0.5)
    groups = [group["lr"] for stage in fitted.decoupled_.stages for group in stage.piece.optimizer.param_groups]
    assert groups == [0.5, 0.5]


def test_skorch_takes_the_settings_of_optimizers_and_is_pickled() -> None:
    x, y = (part.numpy() for part in data().tensors)
    options: dict[str, Any] = {
        "schedule": None,
        "lr_schedule": None,
        "optimizer": torch.optim.SGD,
        "optimizer__momentum": 0.5,
    }
    fitted = classifier(**options).fit(x, y)
    groups = [
        group for stage in fitted.decoupled_.stages for one in stage.learners for group in one.optimizer.param_groups
    ]
    assert len(groups) == 3 and {(group["lr"], group["momentum"]) for group in groups} == {(0.01, 0.5)}
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(x) == fitted.predict_proba(x)).all()
    assert same(again.partial_fit(x, y).module_, again.decoupled_.plain)


def test_a_grid_search_finds_the_synthesizer() -> None:
    from sklearn.model_selection import GridSearchCV

    x, y = (part.numpy() for part in data().tensors)
    linear = partial(sg.LinearSynthesizer, classes=3)
    choices: dict[str, Any] = {"synthesizer": [sg.ZeroSynthesizer, linear], "lr": [0.0, 0.03]}
    options: dict[str, Any] = {"schedule": None, "lr_schedule": None, "max_epochs": 15}
    search = GridSearchCV(classifier(**options), choices, cv=2, error_score="raise").fit(x, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores.tolist())) > 2 and search.best_params_["lr"] == 0.03
    held = search.best_estimator_.decoupled_.stages[0].synthesizer.module
    assert isinstance(held, sg.ZeroSynthesizer) == (search.best_params_["synthesizer"] is sg.ZeroSynthesizer)


def test_skorch_refuses_what_cannot_work() -> None:
    from skorch.callbacks import GradientNormClipping, LRScheduler

    x, y = (part.numpy() for part in data().tensors)
    for callback in (GradientNormClipping(1.0), LRScheduler()):
        with pytest.raises(sg.SynthgradError, match="each stage has its own"):
            classifier(callbacks=[callback]).fit(x, y)
    with pytest.raises(sg.SynthgradError, match="param_groups"):
        classifier(optimizer__param_groups=[("0.*", {"lr": 0.1})]).fit(x, y)
    with pytest.raises(sg.SynthgradError, match="one array"):
        classifier().fit({"x": x}, y)
