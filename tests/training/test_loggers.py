"""Loggers: each is told the same events, and writes them down in its own way."""

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import synthgrad as sg
from synthgrad.core.events import ActionDone, Evaluated, Event, Finished, Probed, Started, StepDone, decode
from synthgrad.training.loggers import figures

STEP = StepDone(4, 0.5, {"layer,1": {"cosine": 0.25, "norm_ratio": math.nan}})
EVENTS: list[Event] = [
    Started({"steps": 8}),
    STEP,
    Probed(4, {"layer,1": {"rows": 0.75}}),
    Evaluated(4, "valid", 0.375, math.nan),
    ActionDone(sg.Action(0, sg.Kind.F, 0), 0.0, 1.0),
    Finished(8, 1.0),
]
FIGURES = {"train/loss": 0.5, "agreement/layer,1/cosine": 0.25, "alignment/layer,1/rows": 0.75, "valid/loss": 0.375}


def log(logger: sg.Logger, events: list[Event] = EVENTS, step: int = 0) -> None:
    logger.start({"steps": 8, "cuts": ["layer,1"]}, step)
    for event in events:
        logger.log(event)
    logger.close()


def test_the_figures_of_an_event_are_its_finite_numbers() -> None:
    assert {name: value for event in EVENTS for name, value in figures(event).items()} == FIGURES


def test_a_line_of_json_is_the_event(tmp_path: Path) -> None:
    told = [event for event in EVENTS if "nan" not in repr(event)]
    log(sg.JSONLLogger(tmp_path / "events.jsonl"), told)
    lines = (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert [decode(line)[0] for line in lines] == told and len(told) == 4


def test_a_row_of_the_table_is_a_figure(tmp_path: Path) -> None:
    log(sg.CSVLogger(tmp_path / "figures.csv"))
    with (tmp_path / "figures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"]: float(row["value"]) for row in rows} == FIGURES and {row["step"] for row in rows} == {"4"}


@pytest.mark.parametrize("kind", [sg.JSONLLogger, sg.CSVLogger])
def test_a_file_goes_on_behind_the_step_and_a_new_training_begins_it_anew(
    kind: Callable[[Path], sg.Logger], tmp_path: Path
) -> None:
    path, later = tmp_path / "deep" / "log", StepDone(6, 0.25, {})
    log(kind(path), [*EVENTS[:4], later])
    before = path.read_text(encoding="utf-8")
    log(kind(path), [], step=6)
    assert path.read_text(encoding="utf-8") == before
    log(kind(path), [], step=5)
    assert path.read_text(encoding="utf-8") == "".join(before.splitlines(keepends=True)[:-1])
    log(kind(path), [later])
    assert "train/loss" in (said := path.read_text(encoding="utf-8")) or '"StepDone"' in said
    assert len(said.splitlines()) == (1 if kind is sg.JSONLLogger else 2)


def test_a_line_that_a_kill_has_torn_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    log(sg.CSVLogger(path))
    before = path.read_text(encoding="utf-8")
    path.write_text(before + "4,valid/er", encoding="utf-8")
    log(sg.CSVLogger(path), [], step=4)
    assert path.read_text(encoding="utf-8") == before


def test_each_line_is_there_as_soon_as_it_is_told(tmp_path: Path) -> None:
    logger = sg.CSVLogger(tmp_path / "figures.csv")
    logger.start({}, 0)
    logger.log(STEP)
    assert "train/loss" in (tmp_path / "figures.csv").read_text(encoding="utf-8")
    logger.close()
    logger.close()  # a training that fails at its start closes what was never opened


def test_the_progress_bar_says_how_far_it_is_and_the_newest_figures(capsys: pytest.CaptureFixture[str]) -> None:
    bar = sg.ProgressBar()
    bar.close()
    log(bar, EVENTS[:4])
    said = capsys.readouterr().out
    assert "4/8" in said and "train/loss 0.5" in said and "valid/loss 0.375" in said
    assert "agreement" not in said and "alignment" not in said  # one line does not hold them
    bar.start({"steps": None}, 5)  # of unknown length; gone on with
    bar.log(StepDone(7, 0.125, {}))
    bar.close()
    said = capsys.readouterr().out
    assert "7/?" in said and "train/loss 0.125" in said and "valid" not in said


# ---- trackers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "module", "words"),
    [
        (lambda folder: sg.TensorBoardLogger(folder), "torch.utils.tensorboard", r"synthgrad\[tensorboard\]"),
        (lambda folder: sg.WandbLogger(project="p"), "wandb", r"synthgrad\[wandb\]"),
    ],
    ids=["tensorboard", "wandb"],
)
def test_a_missing_package_is_told_when_a_training_begins_before_anything_is_learned(
    make: Callable[[Path], sg.Logger], module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(sg.SynthgradError, match=f"Logger: the package .* is not installed; install {words}"):
        log(make(tmp_path))


class Recorded(ModuleType):
    """Stands for a tracker's package: notes what is called, and with what."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> "Recorded":
            self.calls.append((name, *given, *([named] if named else [])))
            return self

        return call


def test_tensorboard_gets_the_figures_and_forgets_what_comes_behind_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Recorded("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    log(sg.TensorBoardLogger(tmp_path))
    log(sg.TensorBoardLogger(tmp_path), [], step=4)
    assert package.calls[0] == ("SummaryWriter", str(tmp_path), {"purge_step": None})
    assert [call for call in package.calls if call[0] == "add_scalar"] == [
        ("add_scalar", name, value, 4) for name, value in FIGURES.items()
    ]
    assert ("SummaryWriter", str(tmp_path), {"purge_step": 5}) in package.calls and package.calls[-1] == ("close",)


def test_wandb_gets_the_settings_and_the_figures_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Recorded("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    log(sg.WandbLogger(project="p", mode="offline"), [EVENTS[0], STEP])
    settings = {"config": {"steps": 8, "cuts": ["layer,1"]}, "project": "p", "mode": "offline"}
    assert package.calls == [("init", settings), ("log", figures(STEP), {"step": 4}), ("finish",)]


@pytest.mark.filterwarnings("ignore")  # its own
def test_the_real_tensorboard_reads_the_figures_back(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log(sg.TensorBoardLogger(tmp_path))
    found = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]} == FIGURES
    assert {found.Scalars(name)[0].step for name in FIGURES} == {4}


@pytest.mark.filterwarnings("ignore")  # its own
def test_the_real_wandb_takes_them_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log(sg.WandbLogger(project="p", mode="offline", dir=str(tmp_path)))
    assert list(tmp_path.rglob("*.wandb"))
