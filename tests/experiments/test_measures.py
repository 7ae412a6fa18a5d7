import subprocess
import sys

import pytest

from synthgrad.experiments.datasets import DATA_SETS
from synthgrad.experiments.measures import ERROR, LOSS, MEASURES, Measure, measure_of


@pytest.mark.parametrize(("data", "measure"), [("digits", ERROR), ("mnist", ERROR), ("idx", ERROR), ("text", LOSS)])
def test_images_are_judged_by_the_error_and_text_by_the_loss(data: str, measure: Measure) -> None:
    assert measure_of({"data": data, "epochs": 3}) is measure


@pytest.mark.parametrize("settings", [{}, {"data": "gone"}, {"data": None}, {"data": ["text"]}])
def test_settings_that_name_no_data_set_mean_the_error(settings: dict[str, object]) -> None:
    assert measure_of(settings) is ERROR


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_has_a_measure(name: str) -> None:
    assert measure_of({"data": name}).name == DATA_SETS[name].measure
    assert DATA_SETS[name].measure in MEASURES


@pytest.mark.parametrize(
    ("measure", "written"),
    [
        (ERROR, ("25.50", "25.50 %", "25.50 ± 1.00", "25.50", "-25.50 ± 1.00", "+25.50", "error %")),
        (LOSS, ("0.255", "0.255 nats", "0.255 ± 0.010", "0.255", "-0.255 ± 0.010", "+0.255", "loss (nats)")),
    ],
    ids=["error", "loss"],
)
def test_figures_are_written_in_the_measures_unit(measure: Measure, written: tuple[str, ...]) -> None:
    assert written == (
        measure.value(0.255),
        measure.with_unit(0.255),
        measure.spread(0.255, 0.01),
        measure.spread(0.255, None),
        measure.difference(-0.255, 0.01),
        measure.difference(0.255, None),
        measure.heading,
    )


def test_each_takes_its_own_of_two_figures() -> None:
    assert (ERROR.of(error="e", loss="l"), LOSS.of(error="e", loss="l")) == ("e", "l")


def test_no_torch_is_needed() -> None:
    code = "import synthgrad.experiments.measures, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
