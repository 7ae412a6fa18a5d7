"""Benchmarks measure what they say. How fast anything is, no test asserts."""

import json
import time

import pytest
import torch
from torch import nn

from synthgrad.experiments.bench import BENCHMARKS, interleaved, measure
from synthgrad.experiments.bench.memory import Meter
from synthgrad.experiments.spec import SettingsError


def test_sides_take_turns_and_the_median_is_given() -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    found = interleaved({"a": lambda: side("a", 0.001), "b": lambda: side("b", 0.01)}, 3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert found["a"] < found["b"]


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="'stop'.*step, memory"):
        measure("stop", rounds=1, command="")
    with pytest.raises(SettingsError, match="rounds is 0"):
        measure("step", rounds=0, command="")


@pytest.mark.parametrize(
    ("name", "ratio"), [("step", "cdni_over_backprop"), ("startup", "import_synthgrad_over_torch")]
)
def test_a_measurement_is_one_json_object_with_its_stable_names(name: str, ratio: str) -> None:
    found = json.loads(measure(name, rounds=1, command="synthgrad bench").as_json())
    assert found.keys() == {"name", "ratios", "figures", "machine", "command"}
    assert found["name"] == name and found["ratios"][ratio] > 0 and found["machine"]["threads"] == 1
    assert name in BENCHMARKS


def test_the_meter_counts_each_storage_once_and_lets_go_when_the_graph_does() -> None:
    x = torch.ones(100, 10)
    chain = nn.Sequential(nn.ReLU(), nn.Sigmoid())  # ReLU saves its output, Sigmoid its own; 4,000 bytes each
    leaf = torch.ones(100, 10, requires_grad=True)
    meter = Meter([x])
    with meter.watching():
        out = chain(leaf)
        (out * x).sum().backward()
        assert meter.peak == 8000  # and what the product saves is out again, and x, which is not counted
        chain(leaf).sum().backward()
    assert meter.peak == 8000  # not 16,000: the first graph is gone


def test_the_meter_counts_what_is_held_besides() -> None:
    meter = Meter([])
    kept = torch.ones(50)
    meter.held = lambda: [kept, kept[:10]]  # one storage
    meter.look()
    assert meter.peak == 200
