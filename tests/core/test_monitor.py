"""The monitor: warns where synthetic gradients point away from their targets. Legend: B batch, D features."""

import copy
import math
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import synthgrad as sg
from synthgrad.core.agreement import TOGETHER, Agreement, Monitor, agree


def of_cosine(*cosines: float) -> Agreement:
    """Rows of these cosines, of various lengths."""
    ours = torch.tensor([[math.cos(math.acos(c)), math.sin(math.acos(c))] for c in cosines])  # (B, 2)
    return agree(3 * ours, torch.tensor([[0.5, 0.0]] * len(cosines)))


def warned(monitor: Monitor, cosines: list[float], name: str = "cut") -> list[tuple[int, str]]:
    """At which lessons, counted from 1, there came which warnings."""
    found: list[tuple[int, str]] = []
    for lesson, cosine in enumerate(cosines, start=1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor.see({name: of_cosine(cosine)})
        assert all(issubclass(warning.category, UserWarning) for warning in caught)
        found += [(lesson, str(warning.message)) for warning in caught]
    return found


def by_hand(cosines: list[float], window: int) -> list[int]:
    """The lesson, if any, that ends the first two windows in a row with a mean below zero."""
    ends = range(window, len(cosines) + 1, window)
    means = {end: sum(cosines[end - window : end]) / window for end in ends}
    return [end for end in ends if means[end] < 0 and means.get(end - window, 0.0) < 0][:1]


@given(
    window=st.sampled_from([1, 3, TOGETHER - 1, TOGETHER, TOGETHER + 1, 2 * TOGETHER + 5]),
    levels=st.lists(st.sampled_from([-0.5, -0.1, 0.1, 0.5]), min_size=1, max_size=6),
    seed=st.integers(0, 100),
)
def test_it_warns_at_the_end_of_the_second_bad_window_in_a_row_and_once(
    window: int, levels: list[float], seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    cosines = [level + 0.4 * float(torch.rand((), generator=draw)) - 0.2 for level in levels for _ in range(window)]
    assert [lesson for lesson, _ in warned(Monitor(window), cosines)] == by_hand(cosines, window)


def test_the_law_above_sees_warnings() -> None:
    assert by_hand([0.1, -0.1, -0.1, -0.1], 1) == [3] and by_hand([-0.1, 0.1, -0.1], 1) == []
    assert by_hand([-0.3, 0.1, -0.3, 0.1, -0.3], 2) == [4]


def test_the_message_says_where_how_much_over_how_long_and_what_to_do() -> None:
    ((_, message),) = warned(Monitor(5), [-0.5] * 5 + [-0.25] * 5, "body.1")
    assert "cut 'body.1'" in message and "cosine of -0.38" in message and "last 10 lessons" in message
    for remedy in ("labels", "Replay", "learning rate below the cut", "CriticSynthesizer", "monitor=0"):
        assert remedy in message


def test_each_cut_is_judged_and_warned_of_for_itself_by_its_own_lessons() -> None:
    monitor, seen = Monitor(4), []
    for step in range(1, 21):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            agreement = {"bad": of_cosine(-0.2), "good": of_cosine(0.2)}
            monitor.see(agreement | ({"rare": of_cosine(-0.1)} if step % 2 else {}))
        seen += [(step, str(warning.message).split(":")[0]) for warning in caught]
    assert seen == [(8, "cut 'bad'"), (15, "cut 'rare'")]


def test_the_mean_is_over_all_rows() -> None:
    rows = of_cosine(-0.9, 0.1, 0.1, 0.1)  # three of four rows agree, the mean does not
    monitor = Monitor(3)
    with pytest.warns(UserWarning, match="cosine of -0.15"):
        for _ in range(6):
            monitor.see({"cut": rows})


@pytest.mark.parametrize("cosine", [0.0, 1.0, -1.0])
def test_with_no_window_or_no_disagreement_it_says_nothing(cosine: float) -> None:
    monitor = Monitor(0 if cosine < 0 else 3)
    assert not warned(monitor, [cosine] * 20)


def test_zero_answers_agree_neither_way() -> None:
    monitor = Monitor(2)
    for _ in range(3):
        assert not warned(monitor, [-0.5] * 2)
        for _ in range(4):
            monitor.see({"cut": agree(torch.zeros(4, 3), torch.randn(4, 3))})


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(sg.SynthgradError, match="monitor=-1: expected over how many steps to look"):
        Monitor(-1)


def test_it_reads_one_number_a_window_and_holds_the_rows_of_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every reading would wait for all that is under way."""
    reads: list[str] = []
    for name in ("__float__", "__bool__", "item", "tolist", "__int__"):
        original = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda self, *args, name=name, original=original: reads.append(name) or original(self, *args)
        )
    monitor, seen = Monitor(3 * TOGETHER + 2), of_cosine(0.5, 0.2)
    for lesson in range(1, 2 * monitor.window + 1):
        monitor.see({"cut": seen})
        assert len(reads) == lesson // monitor.window
        assert len(monitor._watches["cut"].seen) < TOGETHER
    assert reads == ["__float__"] * 2


def test_the_type_of_the_figures_may_change_within_a_window() -> None:
    monitor, one = Monitor(4), of_cosine(-0.5)
    other = Agreement(one.products.double(), one.norms.double(), one.other_norms.double())
    with pytest.warns(UserWarning, match="cosine of -0.5 "):
        for step in range(8):
            monitor.see({"cut": other if step % 3 else one})


# ---- in a net --------------------------------------------------------------------------------------------------------

WIDTH, CLASSES = 5, 3


class Contrary(sg.Synthesizer):
    """Knows the truth through the last layer, and says the opposite; does not learn."""

    def __init__(self, last: nn.Linear, sign: float) -> None:
        super().__init__()
        self.last, self.sign = [last], sign  # in a list: the layer is no part of it

    def forward(self, activation: Tensor, context: sg.Context) -> Tensor:
        (last,) = self.last
        assert context.labels is not None
        error = last(activation).softmax(1) - functional.one_hot(context.labels, CLASSES)
        return self.sign * (error @ last.weight).detach()

    def learn(self, activation: Tensor, answer: sg.Answer, context: sg.Context, feedback: sg.Feedback) -> Tensor | None:
        return None


def net_of(sign: float, **given: Any) -> sg.Decoupled:
    torch.manual_seed(0)
    last = nn.Linear(WIDTH, CLASSES)
    return sg.decouple(
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), last),
        at=["1"],
        sample=batch(),
        loss=functional.cross_entropy,
        synthesizer=lambda shape: Contrary(last, sign),
        optimizer=partial(torch.optim.SGD, lr=0.01),
        **given,
    )


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, WIDTH), torch.randint(0, CLASSES, (8,))


def caught_in(net: sg.Decoupled, steps: int) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            x, y = batch()
            net.step(x, target=y)
    return caught


def test_a_step_warns_where_it_was_called() -> None:
    net = net_of(-1.0, monitor=3)
    assert not caught_in(net, 5)
    (warning,) = caught_in(net, 1)
    assert (
        warning.filename == __file__ and "cut '1'" in str(warning.message) and "cosine of -1 " in str(warning.message)
    )
    assert not caught_in(net, 12)


@pytest.mark.parametrize(("sign", "window"), [(1.0, 3), (-1.0, 0)])
def test_a_step_does_not_warn_where_all_is_well_or_nobody_looks(sign: float, window: int) -> None:
    assert not caught_in(net_of(sign, monitor=window), 12)


def test_the_window_is_of_200_steps_if_not_given_and_no_negative_number() -> None:
    assert net_of(1.0).monitor.window == 200
    with pytest.raises(sg.SynthgradError, match="monitor=-5"):
        net_of(1.0, monitor=-5)


def test_a_copy_watches_for_itself() -> None:
    net = net_of(-1.0, monitor=2)
    assert not caught_in(net, 3)
    twin = copy.deepcopy(net)
    assert len(caught_in(net, 1)) == len(caught_in(twin, 1)) == 1


def test_learning_does_not_depend_on_it() -> None:
    nets = [net_of(1.0, monitor=window) for window in (0, 2)]
    for net in nets:
        torch.manual_seed(1)
        assert not caught_in(net, 6)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
