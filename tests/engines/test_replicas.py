"""Several processes for each stage: what they share, what each keeps, and what becomes of them when one fails."""

import json
import os
import signal
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
from synthgrad.engines.distributed import DistributedEngine

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from problems import SGD, batches, equal, furthest, perceptron, train_plain  # noqa: E402
from processes import run_processes  # noqa: E402

WORLD, TIMEOUT = 4, 6.0
Told = dict[str, Any]


def made(timeout: float = 20.0, **given: Any) -> sg.Decoupled:
    """Two stages; BatchNorm in the first, dropout in both."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
    model = nn.Sequential(first, nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 4)))
    settings: dict[str, Any] = {
        "synthesizer": partial(sg.LinearSynthesizer, classes=4),
        "optimizer": partial(torch.optim.Adam, lr=0.01),
        "schedule": sg.update_unlocked(delay=1),
        "timeout": timeout,
    } | given
    return sg.decouple(model, at=["0"], sample=next(batches(1, 16)), loss=F.cross_entropy, **settings)


def train(net: sg.Decoupled, until: int, rows: int = 10, save: Callable[[int], object] = lambda step: None) -> None:
    for step, (x, y) in enumerate(batches(until, rows)):
        if step >= net.engine.steps:
            net.step(x, target=y)
            save(step + 1)


def failing(act: Callable[[], object]) -> Told:
    begun = time.monotonic()
    try:
        act()
    except sg.SynthgradError as error:
        return {"error": type(error).__name__, "message": str(error), "seconds": time.monotonic() - begun}
    return {"error": None, "message": "", "seconds": time.monotonic() - begun}


def copied(net: sg.Decoupled) -> dict[str, Any]:
    return {key: value.clone() for key, value in net.state_dict().items()}


# ---- scenarios: each is run by all four ranks, and tells what it found -----------------------------------------------


def places(rank: int, folder: Path) -> Told:
    net = made()
    engine = net.engine
    assert isinstance(engine, DistributedEngine) and engine.replicas is not None
    mesh = engine.replicas.mesh
    return {
        "stage": [stage.index for stage in net.engine.stages],
        "chain": engine.ranks,
        "same": engine.replicas.ranks,
        "mesh": [mesh.mesh_dim_names, mesh.shape, mesh.get_coordinate()],
    }


def each_its_own(rank: int, folder: Path) -> Told:
    """Rows, dropout masks and statistics are a replica's; after a flush all have the first one's statistics."""
    net = made()
    masks: list[Tensor] = []
    rows: list[int] = []
    for module in net.engine.stages[0].piece.module.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _module, _args, output: masks.append(output == 0))
            module.register_forward_hook(lambda _module, args, _output: rows.append(len(args[0])))
    train(net, 2, rows=11)
    before = copied(net)
    drawn = float(torch.rand(()))
    net.flush()
    return {"masks": masks, "rows": rows, "before": before, "after": copied(net), "drawn": drawn}


def going_on(rank: int, folder: Path) -> Told:
    """A run that saves at step 3, and one that goes on from there; at the end their weights, and who wrote what."""
    whole, net = made(), made()
    train(whole, 6, save=lambda step: whole.save(folder / "run") if step == 3 else None)
    whole.flush()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()  # all comes from the checkpoint
    net.load(folder / "run")
    train(net, 6)
    net.flush()
    own = [copied(one) for one in (whole, net)]
    gathered = [failing(one.gather)["error"] for one in (whole, net)]
    files = sorted(path.name for path in (folder / "run" / "step-00000003").iterdir())
    return {"own": own, "gathered": gathered, "whole": copied(whole), "files": files}


def traced(rank: int, folder: Path) -> Told:
    net = made()
    with sg.trace(net, folder / "trace"):
        train(net, 3)
    net.flush()
    return {}


def too_small(rank: int, folder: Path) -> Told:
    """A batch with fewer rows than replicas; nothing has changed, and the next one is learned from."""
    net = made()
    x, y = next(batches(1, 16))
    before = copied(net)
    told = failing(lambda: net.step(x[:1], target=y[:1]))
    kept = all(map(torch.equal, before.values(), copied(net).values()))
    again = failing(lambda: (net.step(x, target=y), net.flush()))
    return told | {"kept": kept, "again": again["error"]}


def other_batches(rank: int, folder: Path) -> Told:
    """The second replica has been given other batches, by a distributed sampler, say."""
    net = made()
    x, y = next(batches(1, 16, seed=rank % 2))
    told = failing(lambda: net.step(x, target=y))
    dist.barrier()
    return told


def not_equally_often(rank: int, folder: Path) -> Told:
    net = made()
    x, y = next(batches(1, 16))
    told = failing(lambda: net.flush() if rank == 1 else net.step(x, target=y))
    dist.barrier()
    return told


def not_a_number(rank: int, folder: Path) -> Told:
    """A fault of one replica of the last stage, alone."""
    net = made()
    before = copied(net)
    if rank == 3:
        net.engine.stages[0].piece.module.register_forward_hook(lambda *_: torch.full((5, 4), torch.nan))
    told = failing(lambda: (train(net, 2), net.flush()))
    last = {key: value for key, value in copied(net).items() if key.startswith("1.")}
    kept = all(torch.equal(value, before[key]) for key, value in last.items())
    dist.barrier()
    return told | {"kept": kept}


def remembering(rank: int, folder: Path) -> Told:
    told = failing(lambda: made(synthesizer=partial(sg.StaleSynthesizer, examples=16)))
    dist.barrier()
    return told


def three_places(rank: int, folder: Path) -> Told:
    torch.manual_seed(0)
    model = perceptron(3)
    sample = next(batches(1, 16))
    made = partial(sg.decouple, model, at=["s0", "s1"], sample=sample, loss=F.cross_entropy, optimizer=SGD)
    return failing(made)


SCENARIOS = [
    places,
    each_its_own,
    going_on,
    traced,
    too_small,
    other_batches,
    not_equally_often,
    not_a_number,
    remembering,
    three_places,
]


def play_all(rank: int, folder: Path) -> None:
    told = {}
    for scenario in SCENARIOS:
        told[scenario.__name__] = scenario(rank, folder)
        dist.barrier()
    torch.save(told, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("replicas")
    assert run_processes(WORLD, play_all, made, deadline=90) == [0] * WORLD
    return made


@pytest.fixture(scope="module")
def played(folder: Path) -> list[dict[str, Told]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


Played = list[dict[str, Told]]

# ---- what they found -------------------------------------------------------------------------------------------------


def test_ranks_lie_in_a_mesh_of_stages_and_data(played: Played) -> None:
    found = [one["places"] for one in played]
    assert [one["stage"] for one in found] == [[0], [0], [1], [1]]
    assert [one["chain"] for one in found] == [(0, 2), (1, 3), (0, 2), (1, 3)]
    assert [one["same"] for one in found] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [one["mesh"] for one in found] == [
        [("stage", "data"), (2, 2), (place, number)] for place in range(2) for number in range(2)
    ]


def test_each_replica_has_rows_and_masks_of_its_own(played: Played) -> None:
    found = [one["each_its_own"] for one in played]
    assert [one["rows"] for one in found] == [[5, 5], [6, 6]] * 2
    for place in range(2):
        first, second = (found[2 * place + number]["masks"] for number in range(2))
        assert not any(torch.equal(one, other[:5]) for one, other in zip(first, second, strict=True))
    assert len({one["drawn"] for one in found}) == 1  # the script's own stream goes on alike


def test_statistics_are_each_replicas_own_until_a_flush(played: Played) -> None:
    first, second = (played[rank]["each_its_own"] for rank in range(2))
    assert not torch.equal(first["before"]["0.1.running_mean"], second["before"]["0.1.running_mean"])
    for key, value in first["after"].items():
        if key.startswith(("0.", "synthgrad.")):
            assert torch.equal(second["after"][key], value), key
    assert torch.equal(first["after"]["0.1.running_mean"], first["before"]["0.1.running_mean"])


def test_a_run_goes_on_from_its_checkpoint_with_the_same_bits_and_one_replica_writes(played: Played) -> None:
    for one in played:
        whole, resumed = one["going_on"]["own"]
        assert whole.keys() == resumed.keys()
        own = "1." if "1.0.weight" in whole and one["places"]["stage"] == [1] else "0."
        assert all(torch.equal(resumed[key], value) for key, value in whole.items() if key.startswith(own))
        assert one["going_on"]["gathered"] == [None, None]
        stages = [name for name in one["going_on"]["files"] if name.startswith("stage")]
        assert stages == ["stage-0.json", "stage-1.json"]
    weights = [one["going_on"]["whole"] for one in played]
    assert all(torch.equal(value, other[key]) for other in weights for key, value in weights[0].items())


def test_one_process_goes_on_from_a_checkpoint_of_replicas(folder: Path, played: Played) -> None:
    net = made()
    net.load(folder / "run")
    assert net.engine.steps == 3
    train(net, 4)


def test_each_replica_has_a_trace_of_its_own(folder: Path, played: Played) -> None:
    assert sorted(path.name for path in (folder / "trace").iterdir()) == ["replica-0", "replica-1"]
    for number in range(2):
        found = sg.read_trace(folder / "trace" / f"replica-{number}")
        assert found.steps == range(3) and not found.missing and found.plan.ranks == (0, 1)


def test_a_batch_with_too_few_rows_is_an_error_before_anything_has_changed(played: Played) -> None:
    for one in played:
        told = one["too_small"]
        assert told["error"] == "ShapeError" and "1 rows cannot be split into 2 microbatches" in told["message"]
        assert told["kept"] and told["again"] is None


def test_replicas_that_are_given_different_batches_are_told_so(played: Played) -> None:
    told = [one["other_batches"] for one in played]
    assert all(one["error"] == "TransportError" and one["seconds"] < TIMEOUT for one in told), told
    direct = [one["message"] for one in told if "no distributed sampler" in one["message"]]
    assert direct and all("hold the same stage, and are not at the same: rank" in text for text in direct)


def test_replicas_that_call_step_and_flush_at_different_times_are_told_so(played: Played) -> None:
    told = [one["not_equally_often"] for one in played]
    assert all(one["error"] == "TransportError" and one["seconds"] < TIMEOUT for one in told[:2]), told
    assert any("step 0, a flush or gather before it" in one["message"] for one in told)


def test_a_numerical_fault_of_one_replica_stops_all_before_the_stage_is_updated(played: Played) -> None:
    told = [one["not_a_number"] for one in played]
    assert told[3]["error"] == "NumericalError" and "stage 1" in told[3]["message"]
    assert all(one["error"] == "TransportError" for one in told[:3])
    assert told[2]["kept"] and told[3]["kept"] and max(one["seconds"] for one in told) < TIMEOUT


def test_a_synthesizer_that_remembers_examples_by_number_is_refused(played: Played) -> None:
    for one in played:
        assert one["remembering"]["error"] == "ScheduleError"
        assert "4 processes for 2 places: the synthesizer of stage 0 goes by" in one["remembering"]["message"]


def test_the_processes_must_be_a_multiple_of_the_stages(played: Played) -> None:
    for one in played:
        assert one["three_places"]["error"] == "ScheduleError"
        assert "4 processes for 3 stages" in one["three_places"]["message"]
        assert "a multiple of 3; start 3 or 6" in one["three_places"]["message"]


# ---- data parallel alone ---------------------------------------------------------------------------------------------


def alone(rank: int, folder: Path) -> None:
    """One stage, two processes."""
    torch.manual_seed(0)
    model = perceptron(2)
    net = sg.decouple(model, at=[], sample=next(batches(1, 16)), loss=F.cross_entropy, optimizer=SGD, synthesizer=None)
    for x, y in batches(5, 13):
        net.step(x, target=y)
    net.flush()
    torch.save(model.state_dict(), folder / f"{rank}.pt")


def test_with_one_stage_it_is_data_parallel_back_propagation(tmp_path: Path) -> None:
    assert run_processes(2, alone, tmp_path, deadline=60) == [0, 0]
    torch.manual_seed(0)
    plain = perceptron(2)
    train_plain(plain, batches(5, 13), SGD)
    torch.manual_seed(0)
    ours, theirs = perceptron(2), perceptron(2)
    ours.load_state_dict(torch.load(tmp_path / "0.pt"))
    theirs.load_state_dict(torch.load(tmp_path / "1.pt"))
    assert equal(ours, theirs) and furthest(ours, plain) < 1e-6


# ---- a death ---------------------------------------------------------------------------------------------------------


def struck(rank: int, folder: Path, blow: int, while_adding: bool) -> None:
    """The second replica of the first stage is struck, before its third step or while gradients are added up."""
    net = made(timeout=TIMEOUT)
    assert isinstance(net.engine, DistributedEngine) and net.engine.replicas is not None
    if rank == 1:
        replicas, add_up = net.engine.replicas, net.engine.replicas.add_up

        def strike(parameters: Any) -> None:
            if net.engine.steps == 2:
                (folder / "struck").write_text(f"{os.getpid()} {time.time()}", encoding="utf-8")
                os.kill(os.getpid(), blow)
            add_up(parameters)

        if while_adding:
            replicas.add_up = strike  # type: ignore[method-assign]
        else:
            begin = replicas.begin
            replicas.begin = lambda *given: (strike([]) if net.engine.steps == 2 else None, begin(*given))[1]  # type: ignore
    told = failing(lambda: train(net, 20))
    (folder / f"{rank}.json").write_text(json.dumps(told | {"at": time.time()}), encoding="utf-8")
    while rank == 0 and len(list(folder.glob("*.json"))) < WORLD - 1:
        time.sleep(0.05)
    if rank == 0 and blow == signal.SIGSTOP:  # it has done its part
        os.kill(int((folder / "struck").read_text(encoding="utf-8").split()[0]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("blow", "while_adding"),
    [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, True)],
    ids=["killed at the start of a step", "killed before the sum", "stopped before the sum"],
)
def test_when_a_replica_fails_every_rank_ends_with_an_error_in_time(
    tmp_path: Path, blow: int, while_adding: bool
) -> None:
    codes = run_processes(WORLD, struck, tmp_path, int(blow), while_adding, deadline=50)
    assert codes == [0, -signal.SIGKILL, 0, 0]
    at = float((tmp_path / "struck").read_text(encoding="utf-8").split()[1])
    late = TIMEOUT if blow == signal.SIGSTOP else 0.0
    for rank in (0, 2, 3):
        told = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert told["error"] == "TransportError", told
        assert told["at"] - at < late + 5.0, told
    told = json.loads((tmp_path / "0.json").read_text(encoding="utf-8"))
    assert "ranks [0, 1] hold the same stage" in told["message"]
