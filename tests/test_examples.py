"""The examples run, and learn. (01 and 02 are tried with several processes, whole_idea.py by law 11.)"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> Any:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["07_own_loop", "08_own_synthesizer", "09_stages_times_data", "11_accelerate", "12_skorch", "13_trainer"]
)
def test_an_example_learns_digits(name: str) -> None:
    assert example(name).main(epochs=6) < 0.25  # of guesses 0.9 are wrong


@pytest.mark.filterwarnings("ignore")  # its own, and torch's about it
def test_lightning_learns_digits() -> None:
    assert example("10_lightning").main(epochs=6) < 0.25


def test_credit_comes_past_the_window() -> None:
    everything, window, critic = example("03_past_the_window").main()
    assert everything > 0.9 and critic > 0.9 and window < 0.6  # of guesses 0.5 are right


def test_a_fast_net_learns_what_the_slow_one_is_asked_through_the_synthetic_gradient_alone() -> None:
    _, critic, nothing = example("14_two_speeds").main(stretches=450)
    assert critic < 0.3 < 0.45 < nothing
