"""The trainer: what a plain loop does, and law 8 through it."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import synthgrad as sg
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Started, StepDone, decode

ROWS, BATCH, EPOCHS = 40, 8, 3
STEPS = ROWS // BATCH * EPOCHS


def data(rows: int = ROWS) -> TensorDataset:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 6, generator=draw)
    return TensorDataset(x, (x[:, :3].argmax(1)))


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Draws from torch's own stream whenever an example is asked for, as augmentation does."""

    def __init__(self) -> None:
        self.inner = data()

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inner[index]
        return x + 0.1 * torch.randn(6), y


def made(seed: int = 0, wrap: Callable[[sg.Synthesizer], sg.Synthesizer] = lambda one: one) -> sg.Decoupled:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))
    return sg.decouple(
        model,
        at=["2"],
        sample=tuple(data().tensors),
        loss=F.cross_entropy,
        synthesizer=lambda shape: wrap(sg.LinearSynthesizer(shape, classes=3)),
        optimizer=partial(torch.optim.Adam, lr=0.01),
        lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=4, gamma=0.5),
        schedule=sg.update_unlocked(delay=1),
        timeout=20.0,
    )


def same(one: sg.Decoupled, other: sg.Decoupled) -> bool:
    pairs = list(zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    return len(pairs) > 8 and all(torch.equal(a, b) for a, b in pairs)


def shuffled() -> DataLoader[Any]:
    return DataLoader(data(), BATCH, shuffle=True)


def own_generator() -> DataLoader[Any]:
    return DataLoader(data(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))


def noisy() -> DataLoader[Any]:
    return DataLoader(Noisy(), BATCH, shuffle=True)


class Sampler(torch.utils.data.Sampler[int]):
    def __init__(self) -> None:
        self.epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        return iter([(7 * place + self.epoch) % ROWS for place in range(ROWS)])

    def __len__(self) -> int:
        return ROWS


def told_the_epoch() -> DataLoader[Any]:
    return DataLoader(data(), BATCH, sampler=Sampler())


LOADERS = {one.__name__: one for one in (shuffled, own_generator, noisy, told_the_epoch)}


class Ended(Exception):
    pass


@dataclass
class EndAt:
    """A callback that ends the training at a step, in its own way."""

    step: int
    end: Callable[[], None]

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone) and event.step == self.step:
            self.end()


def stop() -> None:
    raise Ended


def fitted(loader: Iterable[Any], folder: Path | None = None, valid: bool = True, **options: Any) -> sg.Decoupled:
    net = made()
    settings: dict[str, Any] = {"epochs": EPOCHS, "log_every": 1, "folder": folder, "save_every": 2 if folder else None}
    sg.Trainer(net, **(settings | options)).fit(loader, DataLoader(data(13), 5, shuffle=True) if valid else None)
    return net


# ---- what it does ----------------------------------------------------------------------------------------------------


def test_it_is_the_plain_loop() -> None:
    net = made()
    for _ in range(EPOCHS):
        for x, y in shuffled():
            net.step(x, target=y)
    net.flush()
    assert same(net, fitted(shuffled(), valid=False))


def test_callbacks_are_told_the_event_stream_and_change_nothing() -> None:
    events: list[Event] = []
    told, silent = fitted(shuffled(), callbacks=[events.append]), fitted(shuffled(), log_every=100)
    assert same(told, silent)
    assert isinstance(events[0], Started) and events[0].settings["steps"] == STEPS
    assert events[0].locks == tuple(sorted(told.locks))
    assert [one.step for one in events if isinstance(one, StepDone)] == list(range(1, STEPS + 1))
    tried = [one for one in events if isinstance(one, Evaluated)]
    assert [one.step for one in tried] == [5, 10, 15] and {one.split for one in tried} == {"valid"}
    assert isinstance(events[-1], Finished) and events[-1].steps == STEPS
    assert set(events[2].agreement) == {"2"}  # pyrefly: ignore


def test_evaluation_is_that_of_the_plain_model_whatever_the_batches() -> None:
    net = made()
    x, y = data(13).tensors
    buffers = [buffer.clone() for buffer in net.buffers()]
    found = sg.Trainer(net, epochs=1).evaluate(DataLoader(data(13), 5))
    assert net.training and all(torch.equal(a, b) for a, b in zip(buffers, net.buffers(), strict=True))
    output = net.eval()(x).detach()
    assert found.loss == pytest.approx(float(F.cross_entropy(output, y)), rel=1e-6)
    assert found.error == pytest.approx(float((output.argmax(1) != y).float().mean()))
    assert (found.step, found.split) == (0, "test")


def test_a_metric_is_weighed_by_examples() -> None:
    trainer = sg.Trainer(made(), epochs=1, metric=lambda output, target: (target == 0).float())
    y = data(13).tensors[1]
    assert trainer.evaluate(DataLoader(data(13), 5)).error == pytest.approx(float((y == 0).float().mean()))
    assert trainer.evaluate(DataLoader(data(13), 5), lambda *_: torch.tensor(0.25)).error == 0.25


def test_where_there_are_no_classes_there_is_no_error_rate() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    x, y = torch.randn(8, 6), torch.randn(8, 2)
    optimizer = partial(torch.optim.SGD, lr=0.01)
    net = sg.decouple(model, at=["0"], sample=(x, y), loss=F.mse_loss, optimizer=optimizer)
    found = sg.Trainer(net, epochs=1).evaluate([(x, y)])
    assert math.isnan(found.error) and found.loss == pytest.approx(F.mse_loss(model(x), y).item())


def test_it_stops_early_and_stays_stopped(tmp_path: Path) -> None:
    events: list[Event] = []
    wrong = [(x, (y + 1) % 3) for x, y in DataLoader(data(13), 5)]  # the better it learns, the worse it fits these
    net = made()
    options: dict[str, Any] = {"epochs": 50, "patience": 2, "folder": tmp_path, "callbacks": [events.append]}
    sg.Trainer(net, **options).fit(shuffled(), wrong)
    losses = [one.loss for one in events if isinstance(one, Evaluated)]
    assert 3 <= len(losses) < 50 and losses[-3] <= min(losses[-2:]) and losses[-3] == min(losses)
    again = made(seed=1)
    sg.Trainer(again, **options).fit(shuffled(), wrong)
    assert same(again, net)


def test_bf16_learns_and_leaves_weights_in_float32() -> None:
    net, kinds = made(), set()
    net.plain.get_submodule("4").register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    trainer, plain = sg.Trainer(net, epochs=EPOCHS, bf16=True), fitted(shuffled(), valid=False)
    before = trainer.evaluate(shuffled()).loss
    trainer.fit(shuffled())
    after, wanted = trainer.evaluate(shuffled()).loss, sg.Trainer(plain, epochs=1).evaluate(shuffled()).loss
    assert after < 0.95 * before and after == pytest.approx(wanted, rel=0.02)
    assert kinds == {torch.bfloat16} and {value.dtype for value in net.parameters()} == {torch.float32}
    assert not same(net, plain)


def test_within_a_step_bf16_uses_no_weights_from_before_an_update() -> None:
    net = made(wrap=partial(sg.Replay, memory=3))  # which goes on learning when it has been updated
    module, seen = net.stages[0].synthesizer.module.inner, []  # pyrefly: ignore
    weight = next(module.parameters())
    whole = F.linear

    def look(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        out = whole(x, w, bias)
        if w is weight:
            fresh = whole(x, w.detach().clone(), bias)
            seen.append(torch.equal(out, fresh))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "linear", look)
        sg.Trainer(net, epochs=2, bf16=True).fit(shuffled())
    assert len(seen) > STEPS // 2 and all(seen)


# ---- law 8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step"),
    [("shuffled", 1), ("shuffled", 7), ("own_generator", 9), ("noisy", 10), ("noisy", 13), ("told_the_epoch", 8)],
)
def test_ended_anywhere_and_resumed_it_ends_with_the_same_bits(name: str, step: int, tmp_path: Path) -> None:
    def draw(event: Event) -> None:
        torch.rand(1)  # as somebody may who shares torch's stream with the loader

    whole = fitted(LOADERS[name](), tmp_path / "whole", callbacks=[draw])
    with pytest.raises(Ended):
        fitted(LOADERS[name](), tmp_path / "run", callbacks=[draw, EndAt(step, stop)])
    torch.rand(3)  # the random state is another one then
    assert same(whole, fitted(loader := LOADERS[name](), tmp_path / "run", callbacks=[draw]))
    assert getattr(loader.sampler, "epoch", EPOCHS - 1) == EPOCHS - 1


def killed(folder: Path) -> None:
    torch.set_num_threads(1)
    fitted(noisy(), folder, callbacks=[EndAt(9, lambda: os.kill(os.getpid(), signal.SIGKILL))])


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    process = get_context("forkserver").Process(target=killed, args=(tmp_path / "run",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    log = tmp_path / "events.jsonl"
    assert same(fitted(noisy(), tmp_path / "whole"), fitted(noisy(), tmp_path / "run", loggers=[sg.JSONLLogger(log)]))
    steps = [json.loads(line).get("step") for line in log.read_text(encoding="utf-8").splitlines()]
    assert steps[0] == 9  # gone on from the checkpoint of step 8


@pytest.mark.parametrize("kind", [sg.JSONLLogger, sg.CSVLogger])
def test_a_log_goes_on_where_the_checkpoint_was(kind: Callable[[Path], sg.Logger], tmp_path: Path) -> None:
    fitted(shuffled(), tmp_path / "whole", loggers=[kind(tmp_path / "whole.log")])
    with pytest.raises(Ended):
        fitted(shuffled(), tmp_path / "run", loggers=[kind(tmp_path / "run.log")], callbacks=[EndAt(10, stop)])
    with (tmp_path / "run.log").open("a", encoding="utf-8") as file:
        file.write('{"event": "Step')  # torn by the kill
    fitted(shuffled(), tmp_path / "run", loggers=[kind(tmp_path / "run.log")])

    def lines(name: str) -> list[str]:
        found = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        return found[:-1] if kind is sg.JSONLLogger else found  # the last line says how long it took

    assert lines("run.log") == lines("whole.log") and len(lines("whole.log")) > STEPS


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_bad_settings_are_refused() -> None:
    net = made()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1, "patience": 0}, "patience=0"),
        ({"epochs": 1, "log_every": 0}, "log_every=0"),
        ({"epochs": 1, "save_every": 3}, "folder="),
    ]
    for options, words in cases:
        with pytest.raises(sg.SynthgradError, match=words):
            sg.Trainer(net, **options)
    with pytest.raises(sg.SynthgradError, match="got Linear"):
        sg.Trainer(nn.Linear(2, 2), epochs=1)  # pyrefly: ignore


def test_a_callback_that_leaves_the_model_in_eval_mode_is_told_before_the_next_step() -> None:
    net = made()

    def callback(event: Any) -> None:
        net.eval()

    trainer = sg.Trainer(net, epochs=1, log_every=1, callbacks=[callback])
    with pytest.raises(sg.SynthgradError, match="put into eval mode .* callbacks read only"):
        trainer.fit(shuffled())
    assert net.engine.steps == 1  # told of the start, it does no harm: an epoch begins in train mode


def test_bad_loaders_are_refused() -> None:
    trainer = sg.Trainer(made(), epochs=2, patience=1)
    with pytest.raises(sg.SynthgradError, match="valid_loader"):
        trainer.fit(shuffled())
    trainer = sg.Trainer(made(), epochs=2)
    with pytest.raises(sg.SynthgradError, match="iterated once"):
        trainer.fit(iter(shuffled()))
    with pytest.raises(sg.SynthgradError, match="no batch"):
        trainer.fit([])
    with pytest.raises(sg.SynthgradError, match="no batch"):
        trainer.evaluate([])
    with pytest.raises(sg.ShapeError, match="got Tensor"):
        trainer.fit([torch.randn(4, 6)])


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    made().save(tmp_path / "other", extra={"epoch": 1})
    with pytest.raises(sg.CheckpointError, match="no Trainer"):
        sg.Trainer(made(), epochs=1, folder=tmp_path / "other").fit(shuffled())
    with pytest.raises(Ended):
        fitted(shuffled(), tmp_path / "run", callbacks=[EndAt(5, stop)])
    with pytest.raises(sg.CheckpointError, match="has only 1"):
        fitted(list(shuffled())[:1], tmp_path / "run")


def test_a_fault_is_told_and_the_logs_are_closed(tmp_path: Path) -> None:
    batches = [*shuffled(), (torch.full((8, 6), math.nan), torch.zeros(8, dtype=torch.int64))]
    log = tmp_path / "deep" / "events.jsonl"
    with pytest.raises(sg.NumericalError):
        sg.Trainer(made(), epochs=1, loggers=[sg.JSONLLogger(log)]).fit(batches)
    event, _ = decode(log.read_text(encoding="utf-8").splitlines()[-1])
    assert isinstance(event, Failed) and event.step == 5
