"""The doctor: the same pass as `decouple`, which reports where that raises."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_real_models import CLASSES, MODELS, B, Case, Recycling, StatesToo, UNet, decoupled, each, gpt2, made, tokens
from torch import Tensor, nn
from torch.nn import functional as F

import synthgrad as sg

NEVER, NOT_YET, REPLACE = sg.Verdict


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, CLASSES))


def vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6), torch.randint(0, CLASSES, (8,))


def test_what_it_counts_is_what_can_be_counted_by_hand() -> None:
    """Two operations for each product of a number and a weight, three times: forward, and both halves of backward."""
    report = sg.check(mlp(), at=["1"], sample=vectors(), synthesizer=partial(sg.LinearSynthesizer, classes=CLASSES))
    (cut,), (below, above) = report.cuts, report.stages
    assert report.ok and not report.findings
    assert (cut.name, cut.shape, cut.dtype, cut.bytes) == ("1", (8, 5), torch.float32, 4 * 8 * 5)
    assert (below.name, above.name) == ("1", "output")
    assert (below.parameters, above.parameters) == (6 * 5 + 5, 5 * CLASSES + CLASSES)
    assert below.arithmetic == 2 * 2 * 8 * 6 * 5  # nobody asks for the gradient of the batch
    assert above.arithmetic == 3 * 2 * 8 * 5 * CLASSES
    assert below.saved == 4 * (8 * 6 + 8 * 5)  # what a Linear receives, what a ReLU puts out
    assert above.saved == 4 * 8 * 5
    assert cut.synthesizer == "LinearSynthesizer" and cut.parameters == (5 + CLASSES) * 5 + 5
    assert cut.arithmetic == 2 * 2 * 8 * (5 + CLASSES) * 5
    assert cut.share == cut.arithmetic / below.arithmetic


@pytest.mark.parametrize("name", list(MODELS))
def test_it_says_of_each_model_what_decouple_makes_of_it(name: str) -> None:
    case = MODELS[name]
    model = made(case)
    before = copy.deepcopy(model.state_dict())
    sample = case.sample()
    report = sg.check(model, at=case.at, sample=sample, loss=case.loss)
    assert report.ok, report
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    net = decoupled(case, model)
    assert [cut.name for cut in report.cuts] == [stage.name for stage in net.stages[:-1]]
    for cut, stage, cost in zip(report.cuts, net.stages, report.stages, strict=False):
        assert stage.synthesizer is not None and cut.synthesizer == type(stage.synthesizer.module).__name__
        assert cost.parameters == sum(one.numel() for one in stage.piece.parameters)
        assert cut.name in str(report) and str(cut.synthesizer) in str(report)


class Counting(nn.Module):
    """Remembers in plain Python, in the module that contains the cut or in one of its own."""

    def __init__(self, *, inside: bool) -> None:
        super().__init__()
        self.lower, self.head, self.seen = nn.Linear(6, 5), nn.Linear(5, CLASSES), 0
        self.counter = Counter() if inside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.counter, nn.Identity):
            self.seen += 1
        return self.head(self.counter(torch.relu(self.lower(x))))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x


class Caching(nn.Module):
    """Makes a table at its first call, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.arange(5.0)
        return self.head(torch.relu(self.lower(x)) + self.table)


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs().long()


def integer() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), Whole(), nn.Embedding(9, 3))


def tagged() -> tuple[Tensor, Tensor]:
    return tokens(), torch.randint(0, CLASSES, (B, 7))


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(B, 1, 8, 8), torch.randint(0, CLASSES, (B, 8, 8))


REFUSED: dict[str, tuple[Callable[[], nn.Module], list[str], Callable[[], Any], list[tuple[sg.Verdict, str, str]]]] = {
    "shared weight": (
        partial(gpt2, tied=True),
        ["transformer.h.1"],
        lambda: (tokens(), tokens()),
        [(REPLACE, "transformer.h.1", "'transformer.wte.weight' (also 'lm_head.weight')")],
    ),
    "skips": (
        UNet,
        ["mid", "dec2", "dec1"],
        images,
        [(NOT_YET, "mid", "output of 'enc1' bypasses"), (NOT_YET, "dec2", "output of 'enc1' bypasses")],
    ),
    "several tensors": (StatesToo, ["lower"], tagged, [(NOT_YET, "lower", "more of the output of 'lower'")]),
    "called thrice": (Recycling, ["block"], lambda: (torch.randn(B, 12), each()), [(NEVER, "block", "3 times")]),
    "no gradient": (integer, ["1"], vectors, [(NEVER, "1", "torch.int64")]),
    "no such name": (mlp, ["one", "1"], vectors, [(REPLACE, "one", "no submodule 'one'")]),
    "state outside tensors": (partial(Counting, inside=False), ["lower"], vectors, [(REPLACE, "lower", "'seen'")]),
    "a sample that does not fit": (
        mlp,
        ["1"],
        lambda: (torch.randn(8, 7), each()),
        [(REPLACE, "the model", "Runtime")],
    ),
    "no target": (mlp, ["1"], lambda: vectors()[:1], [(REPLACE, "sample", "got 1 values")]),
    "a target of other rows": (mlp, ["1"], lambda: (vectors()[0], each()), [(REPLACE, "loss or", "8 rows")]),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_is_reported_with_kind_place_and_remedy_and_decouple_refuses_it(name: str) -> None:
    model, at, sample, expected = REFUSED[name]
    report = sg.check(model(), at=at, sample=sample())
    assert not report.ok and len(report.findings) == len(expected)
    for finding, (verdict, place, what) in zip(report.findings, expected, strict=True):
        assert finding.verdict is verdict and finding.place.startswith(place) and what in finding.what, finding
        assert finding.refused and str(finding) in str(report)
    with pytest.raises((sg.SynthgradError, RuntimeError)):
        Adam = torch.optim.Adam
        sg.decouple(model(), at=at, sample=sample(), loss=lambda output, target: output.mean(), optimizer=Adam)


def test_a_synthesizer_that_does_not_fit_is_reported_and_the_costs_of_the_stages_stand() -> None:
    report = sg.check(mlp(), at=["1"], sample=vectors(), synthesizer=lambda shape: sg.LinearSynthesizer((9,)))
    assert not report.ok and "cannot take an activation of shape (8, 5)" in report.findings[0].what
    assert report.cuts[0].synthesizer is None and report.stages[0].arithmetic > 0
    labels = torch.full((8,), 4)
    report = sg.check(
        mlp(), at=["1"], sample=(vectors()[0], labels), synthesizer=partial(sg.LinearSynthesizer, classes=2)
    )
    assert not report.ok and "labels from 0 to 1" in report.findings[0].what


def test_what_is_remembered_inside_a_stage_and_batch_norm_are_notes() -> None:
    report = sg.check(Counting(inside=True), at=["lower"], sample=vectors())
    (note,) = report.findings
    assert report.ok and not note.refused and note.place == "counter.seen" and note.remedy == "make it a buffer"
    (note,) = sg.check(
        made(MODELS["torchvision's resnet"]), at=["layer1"], sample=MODELS["torchvision's resnet"].sample()
    ).findings
    assert not note.refused and note.place == "stages up to layer1, output" and "GroupNorm" in note.remedy


class Experts(nn.Module):
    """Calls those that somebody is sent to."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 5) for _ in range(3))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (rows := chosen == number).any():
                out[rows] = expert(x[rows])
        return x + out


class Routed(nn.Module):
    """The second block of experts stands in one stage whole, so that it does not matter whom the sample calls."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.head = nn.Linear(6, 5), nn.Linear(5, CLASSES)
        self.first, self.second = Experts(), Experts()

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.lower(x), chosen), chosen))


def test_an_expert_that_the_sample_calls_not_is_a_note_where_no_stage_is_known_to_have_it() -> None:
    x, y = vectors()
    for chosen, noted in ((torch.arange(8) % 2, True), (torch.arange(8) % 3, False)):
        report = sg.check(Routed(), at=["first.experts.0"], sample=(x, chosen, y))
        assert not report.ok  # it gets some of the rows only
        report = sg.check(Routed(), at=["first"], sample=(x, chosen, y))
        assert report.ok and not any("'second" in str(finding) for finding in report.findings)
        assert any("'first.experts.2': not called" in str(finding) for finding in report.findings) <= noted


@pytest.mark.parametrize("wrap", [nn.DataParallel, partial(torch.compile, backend="eager")])
def test_a_wrapped_model_is_one_finding_that_says_what_decouple_says(wrap: Any) -> None:
    report = sg.check(wrap(mlp()), at=["1"], sample=vectors())
    with pytest.raises(sg.PartitionError) as caught:
        sg.decouple(wrap(mlp()), at=["1"], sample=vectors(), loss=F.cross_entropy, optimizer=torch.optim.Adam)
    (finding,) = report.findings
    assert finding.refused and f"{finding.what}; {finding.remedy}" == str(caught.value)


def test_a_cache_is_no_state() -> None:
    report = sg.check(Caching(), at=["lower"], sample=vectors())
    assert report.ok and not report.findings
    case = Case(Caching, ("lower",), vectors, F.cross_entropy)
    decoupled(case, Caching())


def test_without_synthesizers_nothing_stands_at_the_cuts() -> None:
    report = sg.check(mlp(), at=["1"], sample=vectors(), synthesizer=None)
    assert report.ok and report.cuts[0].synthesizer is None and report.cuts[0].share is None


@pytest.mark.parametrize("name", ["two streams", "a dictionary passes"])
def test_it_says_how_many_tensors_cross_together(name: str) -> None:
    case = MODELS[name]
    report = sg.check(made(case), at=case.at, sample=case.sample(), loss=case.loss)
    assert [cut.tensors for cut in report.cuts] == [2] * len(case.at)
    assert "2 tensors" in str(report)
