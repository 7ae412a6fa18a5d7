"""The count of what signals cost, against figures worked out by hand."""

import pytest

from synthgrad.experiments.bench.signals import CLASSES, INPUTS, ROWS, run
from synthgrad.experiments.methods import METHODS

HIDDEN, CUTS = 256, 4
LAYERS = [(INPUTS, HIDDEN), *[(HIDDEN, HIDDEN)] * 3, (HIDDEN, CLASSES)]
FORWARD = sum(2 * ROWS * a * b for a, b in LAYERS)
INPUT_GRADS = sum(2 * ROWS * a * b for a, b in LAYERS[1:])  # nobody asks for that of the images
PLAIN = 2 * FORWARD + INPUT_GRADS
HEAD = 2 * ROWS * HIDDEN * CLASSES  # of one product with a linear head's matrix


def solving(features: int) -> float:
    """The answer, the sums, the factor, and the solution for each output."""
    answer, sums = 2 * ROWS * features * HIDDEN, 2 * ROWS * features * (features + HIDDEN)
    return answer + sums + round(features**3 / 3) + 2 * features**2 * HIDDEN


@pytest.fixture(scope="module")
def counted() -> tuple[dict[str, float], dict[str, float]]:
    return run(1)


def test_every_method_is_counted(counted: tuple[dict[str, float], dict[str, float]]) -> None:
    ratios, figures = counted
    assert len(ratios) == len(METHODS) and len(figures) == 2 * len(METHODS)


def test_arithmetic_is_that_worked_out_by_hand(counted: tuple[dict[str, float], dict[str, float]]) -> None:
    ratios, _ = counted
    expected = {
        "bp": PLAIN,
        "staged": PLAIN,
        "zero": PLAIN - INPUT_GRADS,
        # A linear head: output and gradient when asked; the gradient of its weight when taught.
        "local": PLAIN - INPUT_GRADS + 3 * CUTS * HEAD,
        "critic": PLAIN + 3 * CUTS * HEAD,
        "cdni-exact": PLAIN + CUTS * solving(HIDDEN + CLASSES + 1),
        # Its head's output when asked, and the gradient of the head's weight when taught.
        "cdni-belief": PLAIN + CUTS * (solving(HIDDEN + 2 * CLASSES + 1) + 2 * HEAD),
        # To match gradients takes two products more.
        "sobolev": PLAIN + 5 * CUTS * HEAD,
    }
    for name, flops in expected.items():
        assert ratios[f"{name}_flops_over_backprop"] == pytest.approx(flops / PLAIN, rel=1e-12), name


def test_parameters_and_bytes_are_those_worked_out_by_hand(
    counted: tuple[dict[str, float], dict[str, float]],
) -> None:
    _, figures = counted
    head, square = HIDDEN * CLASSES + CLASSES, HIDDEN * HIDDEN + HIDDEN
    assert figures["sobolev_extra_parameters"] == figures["local_extra_parameters"] == CUTS * head
    assert figures["cdni_extra_parameters"] == CUTS * (square + CLASSES * HIDDEN)
    assert figures["bp_extra_parameters"] == figures["zero_extra_parameters"] == figures["stale_extra_parameters"] == 0
    assert figures["cdni-exact_extra_parameters"] == 0 and figures["cdni-belief_extra_parameters"] == CUTS * head
    assert figures["cdni-belief_kib_back"] == figures["cdni_kib_back"]
    gradients, output = CUTS * ROWS * HIDDEN * 4 / 1024, ROWS * CLASSES * 4 / 1024
    assert figures["bp_kib_back"] == figures["cdni_kib_back"] == figures["sobolev_kib_back"] == gradients
    assert figures["zero_kib_back"] == figures["local_kib_back"] == figures["predsim_kib_back"] == 0
    assert figures["dfa_kib_back"] == CUTS * output  # the error, to every stage
    assert figures["critic_kib_back"] == gradients + CUTS * output
