"""Who holds what, and what one rank finds for all."""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import synthgrad as sg
from synthgrad.core.errors import ScheduleError
from synthgrad.engines.ranks import found_by_first, spread
from synthgrad.planning import profile

sys.path.append(str(Path(__file__).parents[1] / "laws"))

from processes import run_processes  # noqa: E402

# ---- without processes -----------------------------------------------------------------------------------------------


def test_stages_are_spread_in_blocks() -> None:
    assert spread(3, 3) == (0, 1, 2) and spread(4, 2) == (0, 0, 1, 1) and spread(5, 3) == (0, 0, 1, 1, 2)
    for stages in range(1, 9):
        for world in range(1, stages + 1):
            places = spread(stages, world)
            counts = [places.count(place) for place in range(world)]
            assert list(places) == sorted(places) and max(counts) - min(counts) <= 1 and min(counts) >= 1


def test_with_a_multiple_of_processes_each_stage_has_a_place_of_its_own() -> None:
    assert spread(3, 6) == spread(3, 9) == (0, 1, 2) and spread(1, 4) == (0,)


@pytest.mark.parametrize(("stages", "world"), [(3, 4), (2, 3), (3, 5)])
def test_more_processes_that_are_no_multiple_are_an_error_that_says_what_is_possible(stages: int, world: int) -> None:
    less, more = world - world % stages, world - world % stages + stages
    with pytest.raises(ScheduleError, match=f"{world} processes for {stages} stages.*start {less} or {more}"):
        spread(stages, world)


def test_one_process_finds_for_itself() -> None:
    assert found_by_first(lambda: ["a"], "choosing", 1.0) == ["a"]


# ---- two processes ---------------------------------------------------------------------------------------------------


def choose_cuts(rank: int) -> Any:
    """Rank 1 would fail if it measured; and what is made afterwards from torch's stream is the same on both."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.ReLU()) for _ in range(5)))
    sample = torch.randn(16, 8), torch.randint(0, 8, (16,))
    measure = profile.profile
    if rank == 1:
        profile.profile = None  # type: ignore
    names = sg.balanced_cuts(model, sample, 2, seconds=0.01, timeout=20.0)
    profile.profile = measure
    net = sg.decouple(  # an error, if the ranks differed in cuts, or in the synthesizers' weights
        model, at=names, sample=sample, loss=F.cross_entropy, optimizer=partial(torch.optim.SGD, lr=0.1), timeout=20.0
    )
    net.step(sample[0], target=sample[1])
    net.flush()
    return {"names": names, "drawn": float(torch.rand(()))}


def first_cannot(rank: int) -> Any:
    model, sample = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), (torch.randn(16, 8), torch.randint(0, 8, (16,)))
    try:
        sg.balanced_cuts(model, sample, 5, seconds=0.01, timeout=20.0)
    except sg.SynthgradError as error:
        return {"error": type(error).__name__, "message": str(error)}


def comes_alone(rank: int) -> Any:
    """The last: torch counts the groups that each rank has made."""
    begun = time.monotonic()
    if rank == 1:
        try:
            found_by_first(list, "choosing cuts", 1.0)
        except sg.TransportError as error:
            return {"message": str(error), "seconds": time.monotonic() - begun}
    return {}


def play_all(rank: int, folder: Path) -> None:
    told = {}
    for scenario in (choose_cuts, first_cannot, comes_alone):
        told[scenario.__name__] = scenario(rank)
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    assert run_processes(2, play_all, folder, deadline=60) == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_cuts_are_chosen_once_for_all_ranks(played: list[dict[str, Any]]) -> None:
    first, second = (one["choose_cuts"] for one in played)
    assert first == second and len(first["names"]) == 1


def test_when_the_first_rank_cannot_choose_every_rank_says_why(played: list[dict[str, Any]]) -> None:
    first, second = (one["first_cannot"] for one in played)
    assert (first["error"], second["error"]) == ("PlanningError", "TransportError")
    assert first["message"] in second["message"] and "choosing cuts: rank 0 could not" in second["message"]


def test_a_rank_that_waits_for_the_first_in_vain_says_so(played: list[dict[str, Any]]) -> None:
    told = played[1]["comes_alone"]
    assert "did not come within 1 s" in told["message"] and told["seconds"] < 8
