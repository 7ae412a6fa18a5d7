"""Traces of two real processes: the waits found are those that the locks say there are, and no others."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.core.plan import stage_locks
from synthgrad.engines.clock import offset_to_first
from synthgrad.experiments.report.waits import Reason
from synthgrad.experiments.traces import Trace, read_trace
from synthgrad.experiments.traces.page import picture
from synthgrad.experiments.traces.perfetto import perfetto
from synthgrad.experiments.traces.prediction import predict
from synthgrad.experiments.traces.table import spans

sys.path.append(str(Path(__file__).parents[2] / "laws"))

from processes import run_processes  # noqa: E402

STEPS, PAUSE = 12, 0.004


class _Slow(torch.autograd.Function):
    """Takes its time on both ways, and nobody's processor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:  # noqa: ARG004
        ctx.seconds = seconds
        time.sleep(seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        time.sleep(ctx.seconds)
        return grads[0], None


class Slow(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return _Slow.apply(self.layer(x), self.seconds)


SCHEDULES: dict[str, Callable[[], sg.Schedule]] = {
    "locked": sg.backprop,
    "parts": lambda: sg.one_f_one_b(2),
    "unlocked": lambda: sg.update_unlocked(delay=1),
    "sporadic": lambda: sg.sporadic(0.7, 3),
}


def net_of(schedule: sg.Schedule) -> sg.Decoupled:
    torch.manual_seed(0)
    return sg.decouple(
        nn.Sequential(Slow(PAUSE), Slow(PAUSE)),
        at=["0"],
        sample=batch(),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=6),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=schedule,
        timeout=20.0,
    )


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 6


def write_all(rank: int, folder: Path) -> None:
    for name, schedule in SCHEDULES.items():
        net = net_of(schedule())
        x, y = batch()
        net.step(x, target=y)  # the trace begins later than the run
        with sg.trace(net, folder / name):
            for _ in range(STEPS):
                net.step(x, target=y)
            net.flush()
    (folder / f"clock {rank}").write_text(json.dumps(offset_to_first(rank)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    assert run_processes(2, write_all, folder, deadline=60) == [0, 0]
    return folder


@pytest.fixture(scope="module")
def traces(folder: Path) -> dict[str, Trace]:
    return {name: read_trace(folder / name) for name in SCHEDULES}


def test_the_locked_wait_for_their_gradients_and_the_unlocked_do_not(traces: dict[str, Trace]) -> None:
    locked, unlocked = traces["locked"].waiting(), traces["unlocked"].waiting()
    assert locked[Reason.BACKWARD] > 0.5 * STEPS * PAUSE  # stage 0 waits out the backward pass of stage 1
    assert locked[Reason.UPDATE] > 0.5 * STEPS * PAUSE
    assert unlocked[Reason.BACKWARD] == unlocked[Reason.UPDATE] == 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_waits_are_for_locks_of_the_plan(traces: dict[str, Trace], name: str) -> None:
    trace = traces[name]
    known = stage_locks(trace.plan) if trace.plan.schedule.period else [set(sg.Lock)] * 2
    for wait in trace.waits:
        assert wait.reason is Reason.TARGET or wait.reason.value in {lock.value for lock in known[wait.action.stage]}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_there_and_starts_only_when_what_it_waits_for_is_done(
    traces: dict[str, Trace], name: str
) -> None:
    trace = traces[name]
    assert trace.steps == range(1, 1 + STEPS) and trace.missing == ()
    schedule = SCHEDULES[name]()
    for step in trace.steps:
        asked = {action for action in schedule.actions(2, step) if schedule.step_of(action) >= trace.steps.start}
        assert asked <= {action for action, number in trace.step.items() if number == step}
    for action, one in trace.done.items():
        for source in one.sources:
            assert source in sg.dependencies(action, trace.plan)
            if source in trace.done:
                assert trace.done[source].end <= one.start and one.bytes == 8 * 6 * 4 // schedule.microbatches


@pytest.mark.parametrize("name", SCHEDULES)
def test_work_waits_and_the_gaps_between_make_up_the_time(traces: dict[str, Trace], name: str) -> None:
    trace = traces[name]
    timeline = trace.within(trace.steps)
    measured = {span.rank: span for span in spans(trace)}
    for rank in (0, 1):
        program = [action for action in timeline.start if trace.plan.ranks[action.stage] == rank]
        zero = trace.zero(trace.steps)
        gaps = sum(trace.turned[after] - zero - timeline.end[before] for before, after in pairwise(program))
        # What holds up no update any more, at the trace's end, is counted as neither work nor waiting.
        held_up = {wait.action for wait in trace.waits}
        ends = sum(trace.done[action].start - trace.turned[action] for action in program[1:] if action not in held_up)
        assert measured[rank].rest == pytest.approx(gaps + ends, abs=1e-6)
        assert 0 <= measured[rank].rest < measured[rank].wall


def test_a_played_step_takes_about_as_long_as_a_measured_one(traces: dict[str, Trace]) -> None:
    slow = predict(traces["locked"], traces["locked"].steps)
    fast = predict(traces["unlocked"], traces["unlocked"].steps)
    for one in (slow, fast):
        assert 0.3 < one.predicted / one.measured < 1.2  # a busy machine only makes the measured one longer
    assert slow.waiting[Reason.BACKWARD] > 0 == fast.waiting[Reason.BACKWARD]


def test_perfetto_loads_it_and_its_slices_nest(traces: dict[str, Trace]) -> None:
    for trace in traces.values():
        events = json.loads(perfetto(trace))["traceEvents"]
        assert {event["ph"] for event in events} == {"M", "X", "s", "f"}
        slices = [event for event in events if event["ph"] == "X"]
        assert sum(event["cat"] == "action" for event in slices) == len(trace.done)
        for pid, tid in {(event["pid"], event["tid"]) for event in slices}:
            own = sorted((e["ts"], e["dur"]) for e in slices if (e["pid"], e["tid"]) == (pid, tid))
            assert own[0][0] >= -1e6 and all(duration >= 0 for _, duration in own)
            assert all(one[0] + one[1] <= two[0] + 1e-2 for one, two in pairwise(own))
        arrows = {kind: {e["id"]: e for e in events if e["ph"] == kind} for kind in "sf"}
        assert arrows["s"].keys() == arrows["f"].keys()
        for number, begin in arrows["s"].items():
            end = arrows["f"][number]
            assert begin["pid"] != end["pid"] and begin["ts"] <= end["ts"]


def test_the_clocks_of_one_machine_are_found_to_be_one(folder: Path) -> None:
    offset, error = json.loads((folder / "clock 1").read_text())
    assert abs(offset) <= error < 0.1
    assert json.loads((folder / "clock 0").read_text()) == [0.0, 0.0]


def test_files_of_another_machine_are_put_on_the_first_ones_clock(folder: Path, tmp_path: Path) -> None:
    trace = read_trace(copytree(folder / "locked", tmp_path, dirs_exist_ok=True))
    other = tmp_path / "rank-1.jsonl"
    head, *lines = other.read_text().splitlines()
    started = json.loads(head)
    started["settings"]["clock"] = {"machine": "another", "offset": 1000.0, "error": 0.0}
    moved = [json.loads(line) for line in lines]
    for event in moved:
        if event["event"] == "ActionDone":
            event["start"], event["end"] = event["start"] - 1000.0, event["end"] - 1000.0
    other.write_text("".join(f"{json.dumps(one)}\n" for one in (started, *moved)))
    again = read_trace(tmp_path)
    assert again.done.keys() == trace.done.keys()
    assert all(one.start == pytest.approx(trace.done[action].start, abs=1e-6) for action, one in again.done.items())
    assert again.waiting() == pytest.approx(trace.waiting(), abs=1e-4)


def test_a_file_cut_short_in_a_line_is_read_up_to_there(folder: Path, tmp_path: Path) -> None:
    copytree(folder / "locked", tmp_path, dirs_exist_ok=True)
    other = tmp_path / "rank-1.jsonl"
    text = other.read_text()
    place = text.index('"step": 6')
    other.write_text(text[: place + 20])
    cut = read_trace(tmp_path)
    assert cut.steps == range(1, 5)  # the steps of which all is known to be there
    assert any("last line is cut short" in one for one in cut.missing)
    assert any("its end is missing" in one for one in cut.missing)
    assert cut.waiting()[Reason.BACKWARD] > 0
    assert picture(cut, cut.steps[:2])


def test_the_file_of_a_rank_may_be_lost(folder: Path, tmp_path: Path) -> None:
    copytree(folder / "locked", tmp_path, dirs_exist_ok=True)
    (tmp_path / "rank-1.jsonl").unlink()
    alone = read_trace(tmp_path)
    assert alone.missing == ("the files of ranks [1] are missing; so are their stages",)
    assert alone.waiting()[Reason.BACKWARD] > STEPS * PAUSE  # known by what it waited for
    assert picture(alone, alone.steps[:2])
