"""The benchmarks of two processes, small: each measures what it says, and its ratios are those of its medians."""

import struct
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from synthgrad.core.actions import Action, parse_actions
from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import ActionDone, encode
from synthgrad.core.pipelines import gpipe
from synthgrad.core.schedules import backprop, update_unlocked
from synthgrad.experiments.bench import latency, pipeline, transport
from synthgrad.experiments.bench.measurement import measure
from synthgrad.experiments.bench.pipeline import (
    LOCKED,
    SCHEDULES,
    SKIP,
    TIMED,
    costs_of,
    intervals,
    link_of,
    predicted_step,
    throughput_figures,
)
from synthgrad.experiments.bench.race import Race, error_of, race, race_figures
from synthgrad.experiments.bench.ranks import on_ranks
from synthgrad.experiments.bench.sides import Network
from synthgrad.experiments.spec import SettingsError

SMALL, ROWS = Network(6, 8, 4), 16
LINK = 0.005
ON_FIRST = ("one_process", "two_threads", "two_apart", "torch_ddp")
SIDES = [*ON_FIRST, *(f"torch_{name}_{parts}" for name in ("gpipe", "1f1b") for parts in (2, 4, 8)), "replicas"]
Ranks = list[dict[str, Any]]


def small_race(folder: Path) -> Race:
    return Race(Network(36, 8, 4), rows=16, every=4, folder=folder)


def play(rank: int, folder: Path) -> dict[str, Any]:
    return {
        "throughput": pipeline.throughput(rank, SMALL, ROWS, 1),
        "latency": latency.throughput(rank, SMALL, ROWS, 1, LINK),
        "transport": transport.exchange(rank, 1),
        "race": race(rank, small_race(folder), 2, 2),
    }


def fail(rank: int) -> None:
    raise SystemExit(3 * rank)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("images")
    small_images(folder)
    return on_ranks(play, folder)


def small_images(folder: Path) -> None:
    """160 and 40 images of 6x6 pixels in MNIST's layout; the brightness tells the class."""
    for stem, count in (("train", 160), ("t10k", 40)):
        labels = torch.arange(count) % 3
        images = (60 * labels[:, None] + torch.randint(0, 60, (count, 36))).to(torch.uint8)
        head = struct.pack(">4I", 0x803, count, 6, 6)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images.numpy().tobytes())
        content = struct.pack(">2I", 0x801, count) + labels.to(torch.uint8).numpy().tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(content)


# ---- pipeline --------------------------------------------------------------------------------------------------------


def test_every_side_is_timed_by_the_rank_that_ends_its_steps(played: Ranks) -> None:
    first, last = (one["throughput"]["seconds"] for one in played)
    assert set(first) == set(ON_FIRST) and set(last) == {*SIDES[len(ON_FIRST) :], *SCHEDULES}
    counts = {name: len(seconds) for name, seconds in (first | last).items()}
    assert counts == dict.fromkeys(counts, TIMED) | {"unlocked_second": TIMED // 2}
    assert all(min(seconds) > 0 for seconds in [*first.values(), *last.values()])


def test_messages_and_activations_are_counted(played: Ranks) -> None:
    first, last = (one["throughput"] for one in played)
    whole = ROWS * SMALL.hidden * 4
    for name, schedule in SCHEDULES.items():
        parts = schedule().microbatches
        assert whole < first["bytes"][name] <= whole + parts * 320
        assert last["bytes"][name] == first["bytes"][name] / (2 if name == "unlocked_second" else 1)
        assert first["peak"][name] > 0 and last["peak"][name] > 0
    assert first["peak"]["gpipe"] > first["peak"]["one_f_one_b"]  # which holds two microbatches at most, of four
    assert first["peak"]["one_process"] > first["peak"]["backprop"] > 0 == last["peak"]["one_process"]
    assert first["peak"]["two_apart"] == last["peak"]["two_apart"] == first["peak"]["one_process"]  # both train


def trace(stage: int, seconds: float) -> list[str]:
    """Each kind of action, one after the other, none of which has waited."""
    names = [f"{stage}{kind}{number}" for number in range(2) for kind in "FSBTU"]
    return [encode(done(name, place * seconds, (place + 1) * seconds)) for place, name in enumerate(names)]


def done(action: str, start: float, end: float, sources: str = "", waited: float = 0.0) -> ActionDone:
    return ActionDone(Action.parse(action), start, end, parse_actions(sources), waited)


def test_costs_are_all_but_waiting_and_the_link_what_is_waited_for_besides() -> None:
    rows = [("0F0", 0.0, 1.0, "", 0.0), ("0B0", 5.0, 7.0, "1B0", 3.5), ("0U0", 7.5, 8.0, "", 0.0)]
    first = [done(*row) for row in rows]
    last = [done("1F0", 1.25, 2.0, "0F0", 1.25), done("1B0", 2.0, 4.75)]
    assert costs_of(first) == {"0B": 7.0 - 1.0 - 3.5, "0U": 1.0}
    assert link_of([first, last]) == 0.25
    assert link_of([first, []]) == 0.0  # nobody knows when the source ended


def test_the_ratios_are_those_of_the_medians() -> None:
    seconds = {name: [1.0, 2.0, 9.0] for name in SIDES} | {name: [1.0] for name in SCHEDULES}
    seconds |= {"torch_1f1b_4": [1.5, 1.5, 99.0], "two_threads": [1.2], "gpipe": [0.8], "two_apart": [2.5]}
    first = {name: seconds[name] for name in ON_FIRST}
    last = {name: taken for name, taken in seconds.items() if name not in first}
    counted = {"bytes": dict.fromkeys(SCHEDULES, 2048.0), "peak": {}}
    traces = [dict.fromkeys(SCHEDULES, trace(stage, 0.25)) for stage in (0, 1)]
    ratios, figures = throughput_figures(
        {"seconds": first, "traces": traces[0], **counted}, {"seconds": last, "traces": traces[1], **counted}
    )
    assert ratios["unlocked_over_one_process"] == 2.0 and ratios["unlocked_over_two_threads"] == 1.2
    assert ratios["unlocked_over_torch_ddp"] == 2.0 and ratios["replicas_over_torch_ddp"] == 1.0
    assert ratios["unlocked_over_two_apart"] == 1.25 and ratios["two_apart_over_one_process"] == 1.6
    assert ratios["unlocked_over_torch_pipelining"] == 1.5 and ratios["unlocked_over_own_locked"] == 0.8
    assert figures["torch_gpipe_8_ms"] == 2000.0 and figures["gpipe_kib_forward"] == 2.0
    assert ratios["predicted_over_measured_unlocked"] == pytest.approx(1.0)  # F T S U in one second, on rank 0
    assert ratios["predicted_over_measured_backprop"] == pytest.approx(1.25)  # F F B B U: of both, one after the other


def test_what_was_measured_gives_every_figure(played: Ranks) -> None:
    ratios, figures = throughput_figures(*(one["throughput"] for one in played))
    expected = {f"unlocked_over_{name}" for name in (*ON_FIRST, "torch_pipelining", "own_locked")}
    expected |= {"unlocked_second_over_one_process"}
    expected |= {f"predicted_over_measured_{name}" for name in SCHEDULES}
    assert set(ratios) == expected | {"two_apart_over_one_process", "replicas_over_torch_ddp"}
    assert all(value is not None and value > 0 for value in [*ratios.values(), *figures.values()])


def test_predictions_are_of_the_steady_state() -> None:
    costs = {"0F": 1.0, "1F": 1.0, "0B": 2.0, "1B": 2.0, "0U": 0.0, "1U": 0.0, "0S": 2.0, "0T": 0.5}
    assert predicted_step(update_unlocked(1), costs) == pytest.approx(3.5)  # the first stage's own work
    assert predicted_step(backprop(), costs) == pytest.approx(6.0)
    quarter = {key: value / 4 for key, value in costs.items()}
    assert predicted_step(gpipe(4), quarter) == pytest.approx(3.75)  # (4 + 1) / 4 of a stage's three seconds


def test_the_ends_of_a_turn_do_not_count() -> None:
    ended = [10.0, 20.0, 30.0]
    ended += [31.0 + number for number in range(TIMED)] + [100.0, 200.0, 300.0]
    assert len(ended) == 2 * SKIP + TIMED and intervals(ended) == [1.0] * TIMED


def test_of_steps_that_take_turns_their_mean_counts() -> None:
    ended = [10.0, 20.0] + [30.0 + 3 * (number // 2) + number % 2 for number in range(TIMED + 1)] + [99.0] * 3
    assert set(intervals(ended)) == {1.0, 2.0} and intervals(ended, 2) == [1.5] * (TIMED // 2)


# ---- race ------------------------------------------------------------------------------------------------------------


def test_a_race_has_a_curve_for_each_seed_and_side(played: Ranks) -> None:
    seeds = played[0]["race"]
    names = {"one_process", "two_threads", "unlocked", "unlocked_second"}
    assert len(seeds) == 2 and all(set(sides) == names for sides in seeds)
    for curve in (curve for sides in seeds for curve in sides.values()):
        seconds, errors = zip(*curve, strict=True)
        assert len(curve) == 5 and list(seconds) == sorted(seconds) and seconds[0] > 0  # 20 steps, 4 each
        assert all(0 <= error <= 1 for error in errors)
    # One thread or two, the same network over the same batches.
    assert [error for _, error in seeds[0]["one_process"]] == [error for _, error in seeds[0]["two_threads"]]
    assert seeds[0]["one_process"] != seeds[1]["one_process"]


def test_times_to_the_threshold_are_read_off_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    def curves(*_: object) -> list[Any]:
        slow = [[1.0, 0.5], [2.0, 0.016], [3.0, 0.01]]
        sides = {"one_process": slow, "two_threads": [[1.0, 0.02], [4.0, 0.02]], "unlocked": [[0.5, 0.016]]}
        sides["unlocked_second"] = [[0.25, 0.016]]
        return [[sides, sides | {"unlocked": [[1.5, 0.0]]}], None]

    monkeypatch.setattr("synthgrad.experiments.bench.race.on_ranks", curves)
    ratios, figures = race_figures(Race(), 2, 1)
    assert ratios == {"time_to_accuracy_over_one_process": 0.5, "time_to_accuracy_over_two_threads": None}
    assert figures["unlocked_seed_1_seconds_to_accuracy"] == 1.5 and figures["unlocked_seconds_to_accuracy"] == 1.0
    assert figures["two_threads_seconds_to_accuracy"] is None and figures["unlocked_second_seconds_to_accuracy"] == 0.25
    assert figures["one_process_final_error_percent"] == pytest.approx(1.0)
    assert figures["unlocked_seed_0_final_error_percent"] == pytest.approx(1.6)


def test_the_error_is_the_share_that_is_wrong(small_idx: Path) -> None:
    from synthgrad.data import idx_folder

    split = idx_folder(small_idx, valid=0)
    model = torch.nn.Linear(36, 3)
    torch.nn.init.zeros_(model.weight)
    model.load_state_dict(model.state_dict() | {"bias": torch.tensor([0.0, 1.0, 0.0])})
    assert error_of(model, split) == float((split.test_y != 1).double().mean())
    assert model.training and torch.get_num_threads() == 1


# ---- latency, transport ----------------------------------------------------------------------------------------------


def test_slow_links_hold_up_those_who_wait(played: Ranks) -> None:
    found = played[1]["latency"]
    assert set(found) == {*LOCKED, "unlocked"} and not any(played[0]["latency"].values())
    for name in found:
        assert set(found[name]) == {"0ms", "50ms"} and all(len(times) == TIMED for times in found[name].values())
    assert median(found["backprop"]["50ms"]) >= 2 * LINK  # there and back; one may end late, and the next soon after
    ratios, figures = latency.latency_figures({}, {"unlocked": {"0ms": [1.0, 3.0], "50ms": [2.5]}})
    assert ratios == {"throughput_50ms_over_0ms": 0.8} and figures["delay"] == latency.DELAY
    assert figures["unlocked_at_50ms_ms"] == 2500.0


def test_both_ways_to_exchange_are_timed(played: Ranks) -> None:
    for one in played:
        assert {name: len(times) for name, times in one["transport"].items()} == dict.fromkeys(
            ("raw", "ours"), transport.TURN
        )


# ---- processes, settings ---------------------------------------------------------------------------------------------


def test_a_rank_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SynthgradError, match="exit codes"):
        on_ranks(fail)


def test_seeds_are_for_those_that_train() -> None:
    with pytest.raises(SettingsError, match="seeds: step trains nothing to an end"):
        measure("step", command="", seeds=1)
    with pytest.raises(SettingsError, match="epochs is 0"):
        measure("pipeline", command="", epochs=0)
