"""Between real processes: what goes wrong there is a typed error that names the edge, within its deadline."""

import json
import os
import random
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
from torch import Tensor, nn

import synthgrad as sg
from synthgrad import Action, Gradient
from synthgrad.core.errors import NumericalError, TransportError
from synthgrad.core.plan import Line
from synthgrad.engines import distributed
from synthgrad.engines.distributed import DistributedEngine, windows
from synthgrad.engines.edges import Edge, edges_of
from synthgrad.engines.message import HEADER_BYTES, News, pack
from synthgrad.engines.transport import ProcessTransport

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from processes import run_processes  # noqa: E402

WINDOW = 2
Told = dict[str, Any]  # what a rank has to tell of a scenario


def transport(rank: int, timeout: float = 10.0, window: int = WINDOW, *, share: bool = True) -> ProcessTransport:
    """Stage 0 on rank 0, stage 1 on rank 1."""
    return ProcessTransport(rank, (0, 1), edges_of({(0, 1): window, (1, 0): window}, timeout, share=share))


def forward(microbatch: int) -> Line:
    return Line(Action(0, sg.Kind.F, microbatch), (), (Action(1, sg.Kind.F, microbatch),))


def backward(microbatch: int) -> Line:
    return Line(
        Action(1, sg.Kind.B, microbatch), (), (Action(0, sg.Kind.B, microbatch), Action(0, sg.Kind.T, microbatch))
    )


def failing(act: Callable[[], object]) -> Told:
    """The error that it ends with, and after how many seconds."""
    begun = time.monotonic()
    try:
        act()
    except sg.SynthgradError as error:
        edge = error.edge if isinstance(error, TransportError) else None
        return {
            "error": type(error).__name__,
            "message": str(error),
            "edge": edge,
            "seconds": time.monotonic() - begun,
        }
    return {"error": None, "message": "", "edge": None, "seconds": time.monotonic() - begun}


# ---- scenarios: each is run by both ranks, and tells what it found ---------------------------------------------------


def changing_shapes(rank: int, *, share: bool = True) -> Told:
    """Larger and smaller than any buffer posted; what is asked for late is kept, and two readers get the same."""
    post, draw, wrong, shared = transport(rank, share=share), random.Random(0), 0, 0
    for step in range(40):
        rows, width = draw.choice([0, 1, 3, 300]), draw.choice([1, 7, 500])
        generator = torch.Generator().manual_seed(step)
        activation = torch.randn(rows, width, generator=generator)
        gradient = Gradient(torch.randn(width, rows, generator=generator).t(), rows, activation if step % 3 else None)
        lines = [forward(2 * step), forward(2 * step + 1), backward(2 * step)]
        post.begin(step, 99, lines)
        if rank == 0:
            for line, sent in zip(lines, (activation, activation + 1), strict=False):
                post.send(line.action, sent, line.readers)
            back = [post.receive(lines[2].action, by=reader) for reader in lines[2].readers]
            wrong += not (torch.equal(back[0].values, gradient.values) and back[0].count == rows)
            wrong += (back[0].output is None) != (gradient.output is None)
            shared += back[0] is back[1]
        else:
            later = post.receive(lines[1].action, by=lines[1].readers[0])  # out of order
            first = post.receive(lines[0].action, by=lines[0].readers[0])
            wrong += not (torch.equal(first, activation) and torch.equal(later, activation + 1))
            post.send(lines[2].action, gradient, lines[2].readers)
    post.settle()
    return {"wrong": wrong, "shared": shared, "held": len(post.mailbox)}


def changing_shapes_by_socket(rank: int) -> Told:
    return changing_shapes(rank, share=False)


def bytes_by_socket(rank: int) -> Told:
    """Of the last messages, when both sides know their size: with shared memory, and where rank 1 has none."""
    told: Told = {}
    known, send = os.memfd_create, Edge.send
    for name in ("shared", "without"):
        if rank == 1 and name == "without":
            del os.memfd_create
        post, sent = transport(rank), list[int]()
        os.memfd_create = known

        def counting(self: Edge, tensor: Tensor, tag: int, sent: list[int] = sent) -> dist.Work:
            sent.append(tensor.numel())
            return send(self, tensor, tag)

        Edge.send = counting
        for step in range(4 * WINDOW):
            line = forward(step)
            post.begin(step, 0, [line])
            if rank == 0:
                post.send(line.action, torch.full((100, 100), float(step)), line.readers)
            elif not bool((post.receive(line.action, by=line.readers[0]) == step).all()):
                sent.append(-step)
            dist.barrier()
        Edge.send = send
        post.settle()
        told[name] = sent[-WINDOW:]
    return told


def fresh_tensors(rank: int) -> Told:
    """What a graph has saved stays as it was when the next message comes."""
    post = transport(rank)
    post.begin(0, 0, [forward(m) for m in range(6)])
    received: list[Tensor] = []
    for m in range(6):
        if rank == 0:
            sent = torch.full((3,), float(m))
            post.send(forward(m).action, sent, forward(m).readers)
            sent.fill_(-1.0)  # it has been copied
        else:
            received.append(post.receive(forward(m).action, by=forward(m).readers[0]))
    post.settle()
    return {"values": [float(tensor[0]) for tensor in received]}


def deadline(rank: int) -> Told:
    """Rank 1 waits for what rank 0 never sends."""
    post = transport(rank, timeout=1.0)
    lines = [forward(0), forward(1)]
    post.begin(0, 0, lines)
    if rank == 0:
        post.send(lines[0].action, torch.zeros(2, 3), lines[0].readers)
        dist.barrier()
        return {}
    post.receive(lines[0].action, by=lines[0].readers[0])
    told = failing(lambda: post.receive(lines[1].action, by=lines[1].readers[0]))
    dist.barrier()
    return told


def nobody_takes(rank: int) -> Told:
    """Rank 0 sends what rank 1 never takes."""
    post = transport(rank, timeout=1.0)
    lines = [forward(m) for m in range(9)]
    post.begin(0, 0, lines)
    told: Told = {}
    if rank == 0:
        sent: list[int] = []

        def send_all() -> None:
            for line in lines:
                post.send(line.action, torch.zeros(2), line.readers)
                sent.append(line.action.microbatch)

        told = failing(send_all) | {"sent": len(sent)}
    dist.barrier()
    return told


def forged(rank: int, place: int, value: int) -> Told:
    """Rank 0 sends a header with another number in it."""
    post = transport(rank, timeout=5.0)
    line = forward(0)
    post.begin(0, 0, [line])
    told: Told = {}
    if rank == 0:
        frame = pack(line.action, torch.zeros(4, 4), step=0, digest=0, news=News())
        frame[: 8 * (place + 1)].view(torch.int64)[place] = value
        post.outgoing[1].post(frame)
        post.settle()
    else:
        told = failing(lambda: post.receive(line.action, by=line.readers[0]))
    dist.barrier()
    return told


def farewells(rank: int) -> Told:
    """Rank 0 gives up while rank 1 waits."""
    post = transport(rank)
    line = forward(0)
    post.begin(0, 0, [line])
    told: Told = {}
    if rank == 0:
        post.say_farewell("out of ideas")
    else:
        told = failing(lambda: post.receive(line.action, by=line.readers[0]))
    dist.barrier()
    return told


def perceptron(seed: int = 0, cuts: tuple[str, ...] = ("1",), timeout: float = 10.0) -> sg.Decoupled:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    return sg.decouple(
        model,
        at=cuts,
        sample=(torch.randn(16, 8), torch.randint(0, 4, (16,))),
        loss=F.cross_entropy,
        synthesizer=partial(sg.LinearSynthesizer, classes=4) if cuts else None,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        timeout=timeout,
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 8, generator=generator), torch.randint(0, 4, (16,), generator=generator)


def steps(net: sg.Decoupled, count: int, change: Callable[[int, Tensor], Tensor] = lambda step, x: x) -> None:
    for step in range(count):
        x, y = batch(step)
        net.step(change(step, x), target=y)
    net.flush()


def other_batches(rank: int) -> Told:
    """From step 2 on the ranks iterate different data."""
    net = perceptron()
    told = failing(lambda: steps(net, 4, lambda step, x: x + 1 if rank == 1 and step == 2 else x))
    again = failing(lambda: net.step(batch(9)[0], target=batch(9)[1]))
    gathered = failing(net.gather)
    dist.barrier()
    return told | {"again": again, "gathered": gathered["message"]}


def other_orders(rank: int) -> Told:
    """The same rows in another order: shapes and sums are the same."""
    net = perceptron()
    told = failing(lambda: steps(net, 2, lambda step, x: x.flip(0) if rank == 1 else x))
    dist.barrier()
    return told


def not_a_number(rank: int) -> Told:
    """A fault on rank 1 alone: rank 0 is told why."""
    net = perceptron()
    if rank == 1:
        net.engine.stages[0].piece.module.register_forward_hook(lambda *_: torch.full((16, 4), torch.nan))
    told = failing(lambda: steps(net, 3))
    dist.barrier()
    return told | {"passages": len(net.engine.stages[0].passages), "held": len(net.engine.mailbox)}


def other_weights(rank: int) -> Told:
    return failing(lambda: perceptron(seed=rank))


def other_versions(rank: int) -> Told:
    whole = distributed.version
    distributed.version = lambda distribution_name: f"0.{rank}"
    try:
        return failing(perceptron)
    finally:
        distributed.version = whole


def other_schedules(rank: int) -> Told:
    made = perceptron()
    plan = sg.Plan(sg.update_unlocked(delay=rank), made.plan.stages)
    return failing(lambda: DistributedEngine(made.stages, plan, timeout=5.0))


def stale_until_gathered(rank: int) -> Told:
    net = perceptron()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    steps(net, 3)
    moved = sorted(key for key, value in net.state_dict().items() if not torch.equal(value, before[key]))
    net.gather()
    all_moved = sorted(key for key, value in net.state_dict().items() if not torch.equal(value, before[key]))
    return {"moved": moved, "all": all_moved, "stages": [stage.index for stage in net.engine.stages]}


def draws(rank: int) -> Told:
    """Dropout in every stage; and what the script itself draws."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 4))
    x, y = batch(0)
    zero = sg.ZeroSynthesizer
    net = sg.decouple(model, at=["1"], sample=(x, y), loss=F.cross_entropy, synthesizer=zero, optimizer=torch.optim.SGD)
    masks: list[list[bool]] = []
    for module in net.engine.stages[0].piece.module.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _module, _args, output: masks.append((output == 0).flatten().tolist()))
    drawn = []
    for _ in range(3):
        net.step(x, target=y)
        drawn.append(int(torch.randint(1 << 30, ())))
    net.flush()
    return {"masks": masks, "drawn": drawn}


def gathers_alone(rank: int) -> Told:
    net = perceptron(timeout=1.0)
    told = failing(net.gather) if rank == 0 else {}
    dist.barrier()
    return told


def comes_alone(rank: int) -> Told:
    """The last of all: torch counts the groups that each rank has made."""
    told = failing(lambda: perceptron(timeout=1.0)) if rank == 0 else {}
    dist.barrier()
    return told


SCENARIOS = [
    changing_shapes,
    changing_shapes_by_socket,
    bytes_by_socket,
    fresh_tensors,
    deadline,
    nobody_takes,
    farewells,
    other_batches,
    other_orders,
    not_a_number,
    other_weights,
    other_versions,
    other_schedules,
    stale_until_gathered,
    draws,
    gathers_alone,
]
FORGERIES = {
    "wrong_action": (3, 5),
    "wrong_kind": (1, 2),
    "wrong_step": (4, 1),
    "wrong_dtype": (12, 1),
    "unknown_dtype": (12, 99),
    "wrong_bytes": (9, 1 << 40),
    "wrong_version": (0, 1),
}


def play_all(rank: int, folder: Path) -> None:
    told: dict[str, Told] = {}
    for name, (place, value) in FORGERIES.items():
        told[name] = forged(rank, place, value)
    for scenario in [*SCENARIOS, comes_alone]:
        told[scenario.__name__] = scenario(rank)
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Told]]:
    folder = tmp_path_factory.mktemp("transport")
    assert run_processes(2, play_all, folder, deadline=60) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


Played = list[dict[str, Told]]


def told_of(played: Played, name: str, rank: int, *words: str) -> Told:
    """The error of a rank: it names the edge, and all these words."""
    told = played[rank][name]
    assert told["error"] == "TransportError", told
    assert "rank 0 -> rank 1" in told["message"] or "rank 1 -> rank 0" in told["message"]
    for word in words:
        assert word in told["message"], told["message"]
    return told


# ---- what they found -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["changing_shapes", "changing_shapes_by_socket"])
def test_shapes_may_change_from_message_to_message(played: Played, name: str) -> None:
    assert played[0][name] == {"wrong": 0, "shared": 40, "held": 0}
    assert played[1][name] == {"wrong": 0, "shared": 0, "held": 0}


def test_on_one_machine_the_socket_carries_headers_alone_where_there_is_shared_memory(played: Played) -> None:
    whole = HEADER_BYTES + 100 * 100 * 4
    assert played[0]["bytes_by_socket"] == {"shared": [HEADER_BYTES] * WINDOW, "without": [whole] * WINDOW}
    assert played[1]["bytes_by_socket"] == {"shared": [], "without": []}


def test_every_message_has_tensors_of_its_own(played: Played) -> None:
    assert played[1]["fresh_tensors"]["values"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_wait_ends_at_its_deadline_and_says_where_it_stood(played: Played) -> None:
    told = told_of(
        played,
        "deadline",
        1,
        "rank 0 -> rank 1, step 0, waiting for 0F1, which 1F1 needs: nothing came or went for 1",
        "the last header there: 0F0 of step 0, float32 (2, 3), 64 bytes; ",
        "messages expected: 1, buffers posted: 2, held: 0; see whether rank 0 runs the same script",
    )
    assert told["edge"] == [0, 1] and 0.9 < told["seconds"] < 5


def test_a_sender_waits_when_too_much_is_under_way_but_not_for_ever(played: Played) -> None:
    told = told_of(
        played, "nobody_takes", 0, "rank 0 -> rank 1", "sending 0F", f"not known to have gone: {WINDOW} of {WINDOW}; "
    )
    assert 2 * WINDOW <= told["sent"] <= 2 * WINDOW + 1 and 0.9 < told["seconds"] < 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrong_action", ("got 0F5 of step 0, expected 0F0 of step 0", "call step and flush equally often")),
        ("wrong_kind", ("got 0S0 of step 0, expected 0F0 of step 0",)),
        ("wrong_step", ("got 0F0 of step 1, expected 0F0 of step 0",)),
        ("wrong_dtype", ("size: the header announces 64 bytes", "make 128")),
        ("unknown_dtype", ("dtype: got number 99",)),
        ("wrong_bytes", ("announces 1099511627776 bytes",)),
        ("wrong_version", ("version: got 0x1", "install one synthgrad on all ranks")),
    ],
)
def test_a_header_that_is_not_the_expected_one_is_an_error(played: Played, name: str, words: tuple[str, ...]) -> None:
    told = told_of(played, name, 1, "rank 0 -> rank 1, step 0, waiting for 0F0, which 1F0 needs", *words)
    assert told["edge"] == [0, 1] and told["seconds"] < 4


def test_who_gives_up_tells_the_others_why(played: Played) -> None:
    told = told_of(played, "farewells", 1, "rank 0 has given up: out of ideas", "start all ranks anew")
    assert told["seconds"] < 4


@pytest.mark.parametrize(("name", "step"), [("other_batches", 2), ("other_orders", 0)])
def test_ranks_that_iterate_different_data_are_told_so(played: Played, name: str, step: int) -> None:
    told = told_of(
        played, name, 1, f"the ranks hold different batches in step {step}", "expected", "shuffle with a generator"
    )
    assert told["edge"] == [0, 1]
    other = told_of(played, name, 0, "rank 1 has given up: TransportError", "different batches")
    assert other["edge"] == [1, 0] and max(told["seconds"], other["seconds"]) < 5


def test_after_an_error_the_engine_says_that_it_is_of_no_more_use(played: Played) -> None:
    for rank in range(2):
        again = played[rank]["other_batches"]["again"]
        assert again["error"] == "TransportError" and f"rank {rank} gave up in step" in again["message"]
        assert "from the last checkpoint" in played[rank]["other_batches"]["gathered"]


def test_a_numerical_fault_of_one_rank_is_heard_by_the_other(played: Played) -> None:
    assert played[1]["not_a_number"]["error"] == "NumericalError"
    told_of(played, "not_a_number", 0, "rank 1 has given up: NumericalError: 1B0: stage 1 (output): loss")
    assert all(one["not_a_number"][what] == 0 for one in played for what in ("passages", "held"))


def test_ranks_must_begin_with_the_same_weights_and_the_same_schedule(played: Played) -> None:
    for rank in range(2):
        weights, schedules = played[rank]["other_weights"], played[rank]["other_schedules"]
        assert weights["error"] == schedules["error"] == "TransportError"
        assert "ranks [1] differ from rank 0 in the initial weights of stage 0 (1)" in weights["message"]
        assert "torch.manual_seed" in weights["message"]
        assert "ranks [1] differ from rank 0 in the schedule" in schedules["message"]


def test_ranks_of_other_versions_each_say_which_they_have(played: Played) -> None:
    for rank in range(2):
        message = played[rank]["other_versions"]["message"]
        assert "ranks [1] differ from rank 0 in the version" in message
        assert f"install the same versions for all ranks; here they are synthgrad 0.{rank} and torch" in message


def test_a_rank_moves_its_own_stages_and_gather_brings_the_others(played: Played) -> None:
    first, second = (one["stale_until_gathered"] for one in played)
    assert first["stages"] == [0] and second["stages"] == [1]
    assert first["moved"][:2] == ["0.bias", "0.weight"] and len(first["moved"]) > 2
    assert all(key.startswith("synthgrad.1/gradient.") for key in first["moved"][2:])
    assert second["moved"] == ["2.bias", "2.weight"]
    assert first["all"] == second["all"] == sorted(first["moved"] + second["moved"])


def test_stages_draw_for_themselves_and_the_script_draws_alike_on_all_ranks(played: Played) -> None:
    first, second = (one["draws"] for one in played)
    assert first["drawn"] == second["drawn"] and len(set(first["drawn"])) == 3
    masks = first["masks"] + second["masks"]
    assert len(masks) == 6 and len({tuple(mask) for mask in masks}) == 6


@pytest.mark.parametrize("name", ["gathers_alone", "comes_alone"])
def test_what_all_ranks_do_together_has_a_deadline_too(played: Played, name: str) -> None:
    told = played[0][name]
    assert told["error"] == "TransportError" and told["seconds"] < 8, told
    assert "did not come within 1 s" in told["message"] and "equally often" in told["message"]


# ---- a death ---------------------------------------------------------------------------------------------------------


def die(rank: int, folder: Path) -> None:
    net = perceptron()
    if rank == 1:
        calls: list[int] = []

        def observe(*_: object) -> None:
            calls.append(1)
            if len(calls) == 3:
                os._exit(9)

        net.engine.stages[0].piece.module.register_forward_hook(observe)  # between its receiving and its sending
    told = failing(lambda: steps(net, 20))
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def test_the_death_of_a_peer_in_the_middle_of_a_step_is_noticed_at_once(tmp_path: Path) -> None:
    assert run_processes(2, die, tmp_path, deadline=60)[1] == 9
    told = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    assert told["error"] == "TransportError" and told["edge"] in ([0, 1], [1, 0]), told
    assert "rank 1 is gone" in told["message"] and "look for the first error of rank 1" in told["message"]
    assert told["seconds"] < 8  # the deadline is 10
    assert not (tmp_path / "1.json").exists()


# ---- without processes -----------------------------------------------------------------------------------------------


def test_windows_are_as_wide_as_targets_may_be_late() -> None:
    declared = (sg.Declaration(),) * 4
    plan = sg.Plan(sg.update_unlocked(delay=2, microbatches=2), declared, (0, 0, 1, 1))
    assert windows(plan) == {(0, 1): 8, (1, 0): 8}
    errors = (sg.Declaration(needs=frozenset({"error"})),) * 2 + (sg.Declaration(),)
    assert windows(sg.Plan(sg.error_broadcast(), errors)) == {(0, 1): 1, (1, 0): 1, (1, 2): 1, (2, 1): 2, (2, 0): 1}


def test_the_errors_have_one_base() -> None:
    assert issubclass(TransportError, sg.SynthgradError) and issubclass(NumericalError, sg.SynthgradError)
