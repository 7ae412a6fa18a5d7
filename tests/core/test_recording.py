from typing import Any

import pytest
import torch
from torch import Tensor, nn

from synthgrad.core import recording
from synthgrad.core.recording import Recorder, record


class Net(nn.Module):
    """Calls `act` twice, `pair` returns a tree, `unused` is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Sequential(nn.BatchNorm1d(4), Pair())
        self.unused, self.drop = nn.Linear(2, 2), nn.Dropout(0.5)
        self.forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        h = self.act(self.a(x))
        return self.act(self.drop(self.b(h)["pair"][0]) - 1.0)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> dict[str, tuple[Tensor, int]]:
        return {"pair": (x, 7)}


def test_every_call_is_recorded_in_order_and_what_was_not_called_is_missing() -> None:
    found = record(Net(), (torch.randn(3, 4),), keep=True)
    assert {name: len(calls) for name, calls in found.calls.items()} == {
        **{"a": 1, "act": 2, "b": 1, "b.0": 1, "b.1": 1, "drop": 1}
    }
    spans = [(call.start, call.end) for calls in found.calls.values() for call in calls]
    assert sorted(edge for span in spans for edge in span) == list(range(2 * len(spans)))  # no moment twice
    a, (first, second), parent = found.calls["a"][0], found.calls["act"], found.calls["b"][0]
    assert a.end < first.start < first.end < parent.start < second.start
    for child in ("b.0", "b.1"):
        assert parent.start < found.calls[child][0].start < found.calls[child][0].end < parent.end


def test_kept_values_are_those_at_the_return_and_later_changes_in_place_do_not_show() -> None:
    net, x = Net().eval(), torch.randn(3, 4)
    found = record(net, (x,), keep=True)
    assert torch.equal(found.calls["a"][0].output, net.a(x))  # act has changed it in place since
    assert (net.a(x) < 0).any()
    assert found.calls["b.1"][0].output["pair"][1] == 7
    assert torch.equal(found.output, net(x))
    assert not found.output.requires_grad


def test_without_keeping_there_are_shapes_but_no_values() -> None:
    found = record(Net(), (torch.randn(3, 4),), keep=False)
    outputs = [found.calls["a"][0].output, found.calls["b.1"][0].output["pair"][0], found.output]
    assert all(output.device.type == "meta" and output.shape == (3, 4) for output in outputs)


def counts(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_recording_leaves_no_trace() -> None:
    net, x = Net(), torch.randn(3, 4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random, hooks, buffers = torch.get_rng_state(), counts(net), [id(b) for b in net.buffers()]
    record(net, (x,), keep=True)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert counts(net) == hooks and [id(b) for b in net.buffers()] == buffers


def test_recording_leaves_no_trace_also_when_the_model_fails() -> None:
    net, random = Net(), torch.get_rng_state()
    buffers = [id(b) for b in net.buffers()]
    with pytest.raises(RuntimeError):
        record(net, (torch.zeros(3, 5),), keep=True)  # 5 features, and Linear takes 4
    assert counts(net) == [0] * len(counts(net)) and [id(b) for b in net.buffers()] == buffers
    assert torch.equal(random, torch.get_rng_state())


def test_a_recorder_runs_the_model_once_for_each_kind_of_batch() -> None:
    net = Net()
    recorder = Recorder(net)
    first = recorder.of((torch.randn(3, 4),))
    assert net.forwards == 1
    assert recorder.of((torch.randn(3, 4),)) is first and net.forwards == 1
    assert recorder.of((torch.randn(5, 4),)).output.shape == (5, 4) and net.forwards == 2
    net.eval()
    assert recorder.of((torch.randn(3, 4),)) is not first and net.forwards == 3


def test_a_recorder_tells_values_that_are_no_tensors_apart() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor, times: int) -> Tensor:
            for _ in range(times):
                x = self.a(x)
            return x

    recorder = Recorder(Repeats())
    x = torch.randn(3, 4)
    assert [len(recorder.of((x, times)).calls["a"]) for times in (1, 3, 1)] == [1, 3, 1]


def test_a_recorder_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "KNOWN_AT_MOST", 3)
    recorder: Any = Recorder(Net())
    for batch in range(2, 12):
        recorder.of((torch.randn(batch, 4),))
    assert len(recorder._known) == 3
