"""Real models, small ones: where they can be cut, and what is measured."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from synthgrad.core.batch import Keywords
from synthgrad.core.errors import PartitionError, PlanningError, ShapeError
from synthgrad.core.partition import partition
from synthgrad.core.synthesizers import MLPInputSynthesizer
from synthgrad.models import transformer
from synthgrad.planning.advice import plan_for
from synthgrad.planning.candidates import cut_everywhere, places
from synthgrad.planning.profile import MOST_PREDICTED, balanced_cuts, profile


class Skipping(nn.Module):
    """A block with a skip around its inside, between two layers; the head uses the first layer's weight if tied."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.first, self.inside, self.last = (nn.Linear(8, 8) for _ in range(3))
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.inside(h)
        return self.last(h) @ self.first.weight if self.tied else self.last(h)


def classes(model: nn.Module, width: int = 8, rows: int = 16) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    return model, (torch.randn(rows, width), torch.randint(0, 8, (rows,)))


def test_a_place_is_where_the_whole_graph_goes_through() -> None:
    model, (x, _) = classes(Skipping())
    assert places(model, (x,)) == ["first"]
    assert places(Skipping(tied=True), (x,)) == []
    words = torch.randint(0, 9, (4, 6))
    found = places(transformer(9, width=8, heads=2, layers=3, context=6), (words,))
    assert found == ["layer1.0.token", "layer1.0", "layer1", "layer2", "layer3", "output.0"]


@pytest.mark.parametrize("training", [True, False])
def test_at_every_place_the_model_can_be_cut_and_looking_changes_nothing(training: bool) -> None:
    layers = [nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 8)]
    model, (x, _) = classes(nn.Sequential(*layers).train(training))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = places(model, (x,))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name in found:
        assert partition(model, at=[name], sample=(x,)).names == (name,)
    # In eval mode Dropout hands on what it got: one place, by the name of the one that comes last.
    assert cut_everywhere(model, (x,)).names == tuple(found) == (("0", "1", "2", "3") if training else ("0", "1", "3"))


def test_what_the_graph_does_not_show_is_tried() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.layers[1](first := self.layers[0](x))
            with torch.no_grad():
                scale = first.mean()
            return self.layers[3](self.layers[2](h) * scale)

    model, (x, _) = classes(Scaled())
    assert places(model, (x,)) == ["layers.0", "layers.1", "layers.2"]
    assert cut_everywhere(model, (x,)).names == ("layers.0",)


def test_what_cannot_be_cut_says_why_and_where_it_could() -> None:
    model, sample = classes(Skipping())
    with pytest.raises(PartitionError, match="bypasses the cut at 'inside'.*could be cut at 'first'"):
        profile(model, sample, among=["inside"], seconds=0.01)
    with pytest.raises(PlanningError, match="1 to 2: the model can be cut at 'first'"):
        plan_for(model, sample, devices=3, seconds=0.01)


def test_a_segment_is_measured_and_the_model_is_left_as_it_was() -> None:
    model, sample = classes(nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 8)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, last = profile(model, sample, seconds=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (first.name, last.name) == ("0", "output")
    assert (first.boundary, last.boundary) == (16 * 64 * 4, 0)
    assert (first.parameters, last.parameters) == ((8 * 64 + 64) * 4, (64 * 8 + 8) * 4)
    assert first.activation == 16 * 8 * 4 and last.activation >= 16 * 64 * 4  # a Linear keeps its input
    assert first.lesson > 0 and first.synthesizer > 0 and (last.lesson, last.synthesis, last.synthesizer) == (0, 0, 0)
    for one in (first, last):
        assert min(one.forward, one.backward, one.weight_half, one.update) > 0


class Masked(nn.Module):
    """Takes a mask by name, and will not do without."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), norm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x * mask)) * mask)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])  # with buffers, and without
def test_a_sample_with_keyword_arguments_is_measured(norm: type[nn.Module]) -> None:
    model, (x, y) = classes(Masked(norm))
    sample = (x, Keywords(mask=torch.ones(16, 1)), y)
    assert [one.name for one in profile(model, sample, seconds=0.01)] == ["first", "norm", "output"]
    assert len(balanced_cuts(model, sample, 2, seconds=0.01)) == 1
    advice = plan_for(model, sample, devices=2, seconds=0.01)
    assert advice.decoupled is not None and len(advice.taken.cuts) == 1


def test_an_input_synthesizer_is_measured_where_the_first_input_has_values() -> None:
    model, sample = classes(nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 8)))
    first, last = profile(model, sample, seconds=0.01)
    assert first.prediction is not None and first.prediction > 0 and first.input_lesson > 0
    assert first.predictor == ((8 * 256 + 256) + (256 * 64 + 64)) * 4
    assert (last.prediction, last.input_lesson, last.predictor) == (None, 0.0, 0.0)
    words = torch.randint(0, 9, (4, 6))
    found = profile(transformer(9, width=8, heads=2, layers=1, context=6), (words, words), seconds=0.01)
    assert {one.prediction for one in found} == {None}
    wide = nn.Sequential(nn.Linear(8, MOST_PREDICTED), nn.Linear(MOST_PREDICTED, 8))
    assert profile(wide, classes(wide)[1], seconds=0.01)[0].prediction is None


def test_an_input_synthesizer_of_ones_own_is_measured_or_refused() -> None:
    model, sample = classes(nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 8)))
    wide, narrow = (
        profile(model, sample, seconds=0.01, input_synthesizer=partial(MLPInputSynthesizer, hidden=hidden))[0]
        for hidden in (512, 2)
    )
    assert wide.predictor > narrow.predictor > 0
    with pytest.raises(ShapeError, match="input synthesizer behind '0'"):
        profile(model, sample, seconds=0.01, input_synthesizer=lambda given, _: MLPInputSynthesizer(given, (3,)))


def test_measuring_leaves_the_random_state_as_it_was() -> None:
    model, sample = classes(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)))
    state = torch.random.get_rng_state()
    profile(model, sample, seconds=0.01)
    assert torch.equal(state, torch.random.get_rng_state())


def test_cuts_are_balanced_by_what_is_measured() -> None:
    wide = [nn.Linear(512, 512) for _ in range(4)]
    model, sample = classes(nn.Sequential(nn.Linear(8, 512), *wide, nn.Linear(512, 8)), rows=512)
    assert balanced_cuts(model, sample, 2, unlocked=False, seconds=0.3) in (
        ["1"],
        ["2"],
        ["3"],
    )  # and never a narrow end
    assert len(balanced_cuts(model, sample, 3, seconds=0.1)) == 2


@pytest.mark.parametrize("sample", [None, (), (torch.randn(4, 8),), torch.randn(4, 8)])
def test_without_a_sample_batch_nothing_is_planned(sample: object) -> None:
    with pytest.raises(PlanningError, match="expected a batch to measure with"):
        plan_for(Skipping(), sample, devices=2)  # type: ignore


def test_a_target_that_suits_no_loss_asks_for_one() -> None:
    model = Skipping()
    with pytest.raises(PlanningError, match="loss: not given"):
        profile(model, (torch.randn(4, 8), torch.randn(4, 3)))
    assert profile(model, (torch.randn(4, 8), torch.randn(4, 3)), loss=lambda o, t: o.mean() + t.mean(), seconds=0.01)
