"""Slow links hold back what comes, in its order and for as long as they would; what is learned stays the same."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad import Action
from synthgrad.core.events import ActionDone
from synthgrad.core.plan import Line
from synthgrad.engines.edges import edges_of
from synthgrad.engines.latency import slow_links, slow_stages
from synthgrad.engines.transport import ProcessTransport

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from processes import run_processes  # noqa: E402

LATENCY, WINDOW = 0.1, 2
Told = dict[str, Any]


def forward(microbatch: int) -> Line:
    return Line(Action(0, sg.Kind.F, microbatch), (), (Action(1, sg.Kind.F, microbatch),))


def transport(rank: int, there: float, back: float) -> ProcessTransport:
    """Two ranks, between which the one direction may be slower than the other."""
    post = ProcessTransport(rank, (0, 1), edges_of({(0, 1): WINDOW, (1, 0): WINDOW}, 10.0))
    slow_links(post, lambda source, target: there if source == 0 else back)
    return post


def travel(rank: int, count: int, there: float, back: float, *, rows: int = 4, rest: float = 0.0) -> Told:
    """Rank 0 sends at once; rank 1 begins to take after a rest. When each was sent and taken, and what came."""
    post = transport(rank, there, back)
    lines = [forward(m) for m in range(count)]
    post.begin(0, 0, lines)
    dist.barrier()
    if rank == 1:
        time.sleep(3 * LATENCY + rest)  # the word of the first buffers is out
    times: list[float] = []
    values: list[float] = []
    for number, line in enumerate(lines):
        if rank == 0:
            time.sleep((3 * LATENCY if number == 0 else 0.0) + 0.01)
            times.append(time.monotonic())
            post.send(line.action, torch.full((rows,), float(number)), line.readers)
        else:
            values.append(float(post.receive(line.action, by=line.readers[0])[-1]))
            times.append(time.monotonic())
    post.settle()
    dist.barrier()
    return {"times": times, "values": values}


def trained(schedule: sg.Schedule, links: float) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    x, y = torch.randn(5, 16, 8), torch.randint(0, 4, (5, 16))
    net = sg.decouple(
        model,
        at=["2"],
        sample=(x[0], y[0]),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=4) if schedule.lateness else None,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        schedule=schedule,
    )
    if isinstance(net.engine, sg.DistributedEngine):
        slow_links(net.engine.transport, links)
    for batch in range(5):
        net.step(x[batch], target=y[batch])
    net.flush()
    net.gather()
    return torch.cat([value.double().flatten() for value in net.state_dict().values()]).tolist()


SCHEDULES: dict[str, Callable[[], sg.Schedule]] = {
    "unlocked": partial(sg.update_unlocked, 1),
    "gpipe": partial(sg.gpipe, 2),
}


def play_all(rank: int, folder: Path) -> None:
    told: Told = {
        "slow": travel(rank, 6, LATENCY, 0.0),
        "quick back": travel(rank, 2, 0.0, LATENCY),
        "off": travel(rank, 2, 0.0, 0.0),
        "full": travel(rank, 3, LATENCY, LATENCY, rest=3 * LATENCY),
        "in parts": travel(rank, 1, LATENCY, LATENCY, rows=5000),
    }
    told |= {name: trained(schedule(), 0.02) for name, schedule in SCHEDULES.items()}
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    folder = tmp_path_factory.mktemp("latency")
    assert run_processes(2, play_all, folder, deadline=60) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def under_way(played: list[Told], name: str) -> list[float]:
    return [taken - sent for sent, taken in zip(*(one[name]["times"] for one in played), strict=True)]


def test_messages_come_late_and_in_their_order(played: list[Told]) -> None:
    assert played[1]["slow"]["values"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert min(under_way(played, "slow")) >= LATENCY


def test_each_direction_has_its_own_latency_and_none_costs_nothing(played: list[Told]) -> None:
    assert max(under_way(played, "quick back")) < LATENCY and max(under_way(played, "off")) < LATENCY


def test_a_message_without_a_buffer_waits_for_the_word_of_it(played: list[Told]) -> None:
    """The third buffer is posted when the first message is taken, which is long after all three were sent."""
    first, _, third = played[1]["full"]["times"]
    assert max(played[0]["full"]["times"][:2]) < first
    assert third - first >= 2 * LATENCY - 0.02  # posted just before the first was handed over


def test_a_message_in_two_parts_takes_a_round_trip_more(played: list[Told]) -> None:
    assert played[1]["in parts"]["values"] == [0.0]
    assert under_way(played, "in parts")[0] >= 3 * LATENCY


@pytest.mark.parametrize("name", SCHEDULES)
def test_behind_slow_links_the_same_bits_are_learned(played: list[Told], name: str) -> None:
    alone = trained(SCHEDULES[name](), 0.0)
    assert played[0][name] == played[1][name] == alone


def test_a_negative_latency_is_refused() -> None:
    class Fake:
        rank, incoming = 0, {1: None}

    with pytest.raises(ValueError, match="ranks 1 and 0: got latencies -1.0, -1.0"):
        slow_links(Fake(), -1.0)  # type: ignore[arg-type]  # pyrefly: ignore


def test_a_slow_stage_takes_so_many_times_as_long() -> None:
    class Engine:
        observe: Any = None

    told: list[ActionDone] = []
    engine = Engine()
    engine.observe = told.append
    slow_stages(engine, {1: 5.0})  # type: ignore[arg-type]  # pyrefly: ignore
    for action in sg.parse_actions("0F0 1F0"):
        start = time.perf_counter()
        time.sleep(0.01)
        engine.observe(ActionDone(action, start, time.perf_counter()))
    quick, slow = (one.end - one.start for one in told)
    assert [str(one.action) for one in told] == ["0F0", "1F0"]
    assert 0.01 <= quick < 0.05 <= slow


def test_a_stage_cannot_be_made_faster() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        slow_stages(None, {0: 0.5})  # type: ignore[arg-type]  # pyrefly: ignore
