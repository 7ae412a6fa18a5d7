from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from synthgrad.experiments.recurrent.runner import RecurrentCell
from synthgrad.experiments.recurrent.spec import RecurrentComparison
from synthgrad.experiments.recurrent.streams import Stream, load, stream_of

TINY: dict[str, Any] = {"units": 6, "hidden": 7, "batch": 4, "steps": 60, "seeds": 1, "width": 2, "unroll": 3}
AHEAD = 7
CPU = torch.device("cpu")


def comparison_of(task: str, folder: Path, **settings: Any) -> RecurrentComparison:
    if task == "text":
        (folder / "some.txt").write_text("to be or not to be, " * 8, encoding="utf-8")
        settings["data_dir"] = folder
    return RecurrentComparison.suited_to(task, **TINY | {"ahead": AHEAD} | settings)


def stream(task: str, folder: Path) -> Stream:
    comparison = comparison_of(task, folder)
    return stream_of(comparison.method("bptt").training, 0, load(comparison), CPU)


def counted(target: Any) -> Tensor:
    """The targets of a window, -1 where they do not count, (B, T, ...)."""
    if isinstance(target, Tensor):
        return target
    digits, mask = target
    return digits.masked_fill(~mask.unsqueeze(-1), -1.0)


@pytest.mark.parametrize("task", ["copy", "repeat-copy", "text"])
def test_what_is_said_to_come_comes_and_nothing_behind_the_end(task: str, tmp_path: Path) -> None:
    made = stream(task, tmp_path)
    windows = [made.window() for _ in range(70)]
    seen = 0
    for place, window in enumerate(windows[:-3]):
        said = torch.stack([counted(windows[place + 1 + step // 3].target)[:, step % 3] for step in range(AHEAD)], 1)
        gone = window.ends.clone()
        for step in range(AHEAD):  # what a lane reads behind its sequence's end is another sequence
            if step and step % 3 == 0:
                gone |= windows[place + step // 3].ends
            said[gone, step] = -1
        assert torch.equal(window.coming, said)
        seen += int((said >= 0).sum())
    assert seen > 100


@pytest.mark.parametrize("task", ["copy", "repeat-copy", "text"])
def test_a_critics_loss_is_that_of_the_net_over_the_steps_to_come(task: str, tmp_path: Path) -> None:
    made = stream(task, tmp_path)
    for _ in range(9):
        window = made.window()
        scores = torch.randn(4, AHEAD, made.outputs)
        coming, expected = window.coming, 0.0
        for row in range(4):
            for step in range(AHEAD):
                wanted, scored = coming[row, step], scores[row, step]
                if bool((wanted < 0).any()):
                    continue
                one = functional.cross_entropy if task == "text" else functional.binary_cross_entropy_with_logits
                expected += float(one(scored, wanted))
        assert float(made.coming_loss(scores.flatten(1), coming)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("task", ["copy", "repeat-copy", "text"])
@pytest.mark.parametrize("method", ["logistic", "sobolev:replay=2", "local"])
def test_at_scale_zero_it_is_the_plain_loop_bit_for_bit(task: str, method: str, tmp_path: Path) -> None:
    nets = []
    for scale, name in ((0.0, method), (1.0, "bptt"), (1.0, method)):
        comparison = comparison_of(task, tmp_path, scale=scale, lr=1e-2)
        cell = RecurrentCell(comparison.method(name), 0, lambda event, labels: None, load(comparison), CPU)
        for _ in cell.turns():
            pass
        assert cell.failed is None and ("window" in cell.agreement) is (name not in ("bptt", "local"))
        nets.append(list(cell.model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(nets[0], nets[1], strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(nets[1], nets[2], strict=True))
