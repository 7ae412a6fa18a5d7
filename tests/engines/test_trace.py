"""What a trace writes: every action, in order, as it happens, within its limit; and what it refuses."""

import itertools
import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import synthgrad as sg
from synthgrad.cli.main import main
from synthgrad.core.actions import Action
from synthgrad.core.events import ActionDone, Finished, Started, decode, encode
from synthgrad.engines import trace
from synthgrad.experiments.traces.table import spans


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 5), torch.arange(6) % 3


def net_of(schedule: sg.Schedule) -> sg.Decoupled:
    return sg.decouple(
        nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)),
        at=["1", "3"],
        sample=batch(),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=3),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        schedule=schedule,
    )


def traced(folder: Path, schedule: sg.Schedule, steps: int = 5, limit: int = 2**20) -> sg.Decoupled:
    net = net_of(schedule)
    with sg.trace(net, folder, limit=limit):
        for _ in range(steps):
            x, y = batch()
            net.step(x, target=y)
    return net


@pytest.mark.parametrize("schedule", [sg.backprop(), sg.update_unlocked(1), sg.gpipe(2), sg.sporadic(0.5, 1)])
def test_all_that_was_done_is_read_back_in_order(tmp_path: Path, schedule: sg.Schedule) -> None:
    net = net_of(schedule)
    told: list[ActionDone] = []
    net.engine.observe = told.append  # goes on being told
    with sg.trace(net, tmp_path):
        for _ in range(5):
            x, y = batch()
            net.step(x, target=y)
    assert net.engine.observe == told.append
    found = sg.read_trace(tmp_path)
    assert list(found.done.values()) == told and found.missing == () and found.steps == range(5)
    assert found.names == ("1", "3", "output") and found.locks == tuple(sorted(net.locks))
    assert found.plan.schedule.name == schedule.name and found.plan.stages == net.plan.stages
    if schedule.period:
        assert found.plan.actions(7) == net.plan.actions(7)
    assert all(one.bytes == 6 // schedule.microbatches * 4 * 4 for one in told if one.sources)
    (span,) = spans(found)
    assert sum(span.busy.values()) + sum(span.waits.values()) + span.rest == pytest.approx(span.wall)


def test_a_file_says_what_it_is_a_trace_of_and_how_it_ended(tmp_path: Path) -> None:
    traced(tmp_path, sg.backprop())
    events = [decode(line)[0] for line in (tmp_path / "rank-0.jsonl").read_text().splitlines()]
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished) and events[-1].steps == 5
    assert all(isinstance(event, ActionDone) for event in events[1:-1]) and len(events) == 2 + 5 * 9


def test_a_trace_is_bounded_and_says_what_it_dropped(tmp_path: Path) -> None:
    traced(tmp_path, sg.backprop(), steps=60, limit=8192)
    assert (tmp_path / "rank-0.jsonl").stat().st_size <= 8192 + 100  # the last event comes on top
    found = sg.read_trace(tmp_path)
    dropped = 60 * 9 - len(found.done)
    assert found.missing == (f"rank-0.jsonl: {dropped} events found no room in 8192 bytes",)
    assert 0 < len(found.steps) < 60 and len(found.done) // 9 == len(found.steps)


def lines(folder: Path) -> list[str]:
    return (folder / "rank-0.jsonl").read_text().splitlines()


def test_what_is_done_is_written_together_and_at_the_end_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthgrad.engines.trace.EVERY", math.inf)
    net = net_of(sg.backprop())
    with sg.trace(net, tmp_path):
        for _ in range(4):
            x, y = batch()
            net.step(x, target=y)
            assert len(lines(tmp_path)) == 1 + 1  # how it was started, and the first action
    assert len(lines(tmp_path)) == 1 + 9 * 4 + 1


def test_what_is_done_is_on_disk_before_the_step_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgrad.engines.trace.EVERY", 0.0)  # no action is shorter
    net = net_of(sg.backprop())
    with sg.trace(net, tmp_path):
        told = net.engine.observe
        assert told is not None

        def look(done: ActionDone) -> None:
            told(done)
            assert decode(lines(tmp_path)[-1])[0] == done

        net.engine.observe = look
        x, y = batch()
        net.step(x, target=y)


@given(
    st.integers(0, 2**40),
    st.builds(Action, st.integers(0, 2**40), st.sampled_from(sg.Kind), st.integers(0, 2**40)),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    st.lists(st.builds(Action, st.integers(0, 99), st.sampled_from(sg.Kind), st.integers(0, 99)), max_size=3),
    st.integers(0, 2**62),
)
def test_a_line_is_what_encode_writes(
    step: int, action: Action, times: list[float], sources: list[Action], size: int
) -> None:
    start, end, waited = times
    done = ActionDone(action, start, end, tuple(sources), waited, size)
    assert trace._line(step, done) == encode(done, step=step)


KILLED = """
import sys
import time
sys.path.insert(0, sys.argv[1])
import synthgrad as sg
from test_trace import batch, net_of

net = net_of(sg.update_unlocked())
with sg.trace(net, sys.argv[2]):
    while True:
        x, y = batch()
        net.step(x, target=y)
        print(net.engine.steps, time.perf_counter(), flush=True)
"""


def test_a_killed_process_leaves_all_but_its_last_quarter_of_a_second(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED, encoding="utf-8")
    run, told = tmp_path / "run", tmp_path / "told"
    with told.open("w") as out:
        command = [sys.executable, str(tmp_path / "killed.py"), str(Path(__file__).parent), str(run)]
        child = subprocess.Popen(command, stdout=out)
        try:
            deadline = time.monotonic() + 60
            while told.read_text().count("\n") < 40 or _told(told)[-1][1] - _told(told)[0][1] < 4 * trace.EVERY:
                assert child.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            child.kill()  # SIGKILL: nobody is asked
            child.wait()
    steps = _told(told)
    found = sg.read_trace(run)
    # An action is written no later than with the first one that ends a quarter of a second behind it.
    longest = max(later - earlier for (_, earlier), (_, later) in itertools.pairwise(steps))
    written = [step for step, end in steps if end < steps[-1][1] - trace.EVERY - longest]
    assert len(written) > 1 and found.steps.start == 0 and len(found.steps) >= written[-1]
    assert len(found.done) >= 11 * (len(found.steps) - 1)  # the last one may be cut short
    assert found.missing == ("rank-0.jsonl: its end is missing: the process was killed, or is still running",)
    assert main(["trace", str(run)]) == 0


def _told(file: Path) -> list[tuple[int, float]]:
    """The steps that were over, and when."""
    lines = file.read_text().split("\n")[:-1]  # behind the last newline stands nothing, or half a line
    return [(int(line.split()[0]), float(line.split()[1])) for line in lines]


def test_untraced_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = net_of(sg.update_unlocked())
    x, y = batch()
    with sg.trace(net, tmp_path):
        net.step(x, target=y)
    noted = (tmp_path / "rank-0.jsonl").read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("made though nobody asked for it")

    monkeypatch.setattr("synthgrad.core.run.ActionDone", refuse)
    net.step(x, target=y)
    assert (tmp_path / "rank-0.jsonl").read_bytes() == noted and net.engine.observe is None
    with sg.trace(net, tmp_path / "again"), pytest.raises(AssertionError):
        net.step(x, target=y)


def test_the_folder_of_a_run_will_do_where_its_trace_has_one_of_its_own(tmp_path: Path) -> None:
    traced(tmp_path / "run" / "trace", sg.backprop())
    assert len(sg.read_trace(tmp_path / "run").done) == 5 * 9
    assert main(["trace", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "trace.svg").exists()


def test_a_step_that_fails_is_told_and_the_second_try_counts(tmp_path: Path) -> None:
    net = net_of(sg.backprop())
    x, y = batch()
    bad = x.clone()
    bad[0] = float("nan")
    with sg.trace(net, tmp_path):
        net.step(x, target=y)
        with pytest.raises(sg.NumericalError):
            net.step(bad, target=y)
        net.step(x, target=y)
    found = sg.read_trace(tmp_path)
    assert found.steps == range(2) and len(found.done) == 18
    assert found.missing and "were done twice" in found.missing[0]
    with pytest.raises(sg.NumericalError), sg.trace(net, tmp_path / "again"):
        net.step(bad, target=y)
    assert "was given up in step 2 (NumericalError" in " ".join(sg.read_trace(tmp_path / "again").missing)
    assert net.engine.observe is None


def test_what_cannot_be_written_is_refused_before_anything_has_changed(tmp_path: Path) -> None:
    net = traced(tmp_path, sg.backprop())
    before = (tmp_path / "rank-0.jsonl").read_text()
    with pytest.raises(sg.TraceError, match="there is a trace already"), sg.trace(net, tmp_path):
        pass
    assert (tmp_path / "rank-0.jsonl").read_text() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(sg.TraceError, match="cannot be written"), sg.trace(net, tmp_path / "file" / "trace"):
        pass
    with pytest.raises(sg.TraceError, match="limit=10"), sg.trace(net, tmp_path / "small", limit=10):
        pass


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sg.TraceError, match="holds no trace"):
        sg.read_trace(tmp_path)
    (tmp_path / "rank-0.jsonl").write_text('{"event": "Star')
    with pytest.raises(sg.TraceError, match="no file there says of what plan"):
        sg.read_trace(tmp_path)
    other = traced(tmp_path / "one", sg.backprop())
    assert other is not None
    traced(tmp_path / "two", sg.gpipe(2))
    (tmp_path / "two" / "rank-0.jsonl").rename(tmp_path / "one" / "rank-1.jsonl")
    with pytest.raises(sg.TraceError, match="not of one run; they differ in schedule"):
        sg.read_trace(tmp_path / "one")


def test_the_command_prints_shares_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traced(tmp_path, sg.update_unlocked())
    exported = tmp_path / "perfetto.json"
    assert main(["trace", str(tmp_path), "--steps", "1:3", "--simulate", "--perfetto", str(exported)]) == 0
    said = capsys.readouterr().out
    assert "waits by lock" in said and "One process waits for nobody" in said and "Played with 3 processes" in said
    assert json.loads(exported.read_text())["traceEvents"]
    drawn = (tmp_path / "trace.svg").read_text()
    assert drawn.startswith("<svg") and "var(--" not in drawn and "0F2, batch 2" in drawn and "0F3" not in drawn
    assert "http" not in (tmp_path / "trace.html").read_text().replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("steps", ["3", "2:2", "0:9", "a:b", "-1:2"])
def test_steps_that_are_not_there_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str) -> None:
    traced(tmp_path, sg.backprop())
    assert main(["trace", str(tmp_path), f"--steps={steps}"]) == 2
    assert "expected FIRST:END, such as 0:3" in capsys.readouterr().err
    assert not (tmp_path / "trace.svg").exists()
