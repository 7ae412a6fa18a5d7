from pathlib import Path

import pytest
import torch

from synthgrad.experiments.datasets import DATA_SETS, data_set_named
from synthgrad.experiments.material import accelerator_of, device_named, load
from synthgrad.experiments.names import SettingsError, UnknownNameError
from synthgrad.experiments.spec import Comparison, Training
from synthgrad.models import convolutional


def test_a_network_is_given_images_as_it_takes_them() -> None:
    flat, maps = load(Training(), 0), load(Training(model="convolutional"), 0)
    assert flat.train_x.shape[1:] == (64,)
    assert maps.train_x.shape[1:] == (1, 8, 8)
    torch.testing.assert_close(maps.test_x.flatten(1), flat.test_x, rtol=0, atol=0)
    convolutional(1, (8, 8), flat.classes, channels=2)(maps.train_x[:2])


def test_on_the_digits_the_seed_is_the_fold_and_elsewhere_the_test_part_is_fixed(small_idx: Path) -> None:
    one, other = load(Training(), 0), load(Training(), 1)
    assert not torch.equal(one.test_y, other.test_y)
    training = Training.suited_to("idx", data_dir=small_idx, valid=40, batch_size=8)
    one, other = load(training, 0), load(training, 1)
    assert torch.equal(one.test_x, other.test_x) and torch.equal(one.valid_x, other.valid_x)
    assert one.classes == 3 and one.train_x.shape == (120, 36)


def test_data_have_defaults_of_their_own() -> None:
    mnist = Comparison.suited_to("mnist")
    assert (mnist.batch_size, mnist.epochs, mnist.threads, mnist.lr, mnist.layers, mnist.hidden) == (
        256,
        8,
        1,
        1e-3,
        4,
        256,
    )
    assert Comparison.suited_to("digits") == Comparison()
    assert Comparison.suited_to("mnist", epochs=1).epochs == 1
    assert Comparison.from_table({"data": "mnist", "seeds": 1}, "here").batch_size == 256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "mnits"}, "did you mean 'mnist'"),
        ({"data": "idx"}, "needs --data-dir"),
        ({"data": "idx", "data_dir": Path("/nowhere/at/all")}, "no such folder"),
        ({"data": "digits", "data_dir": Path(".")}, "shipped with the package"),
        ({"data": "digits", "download": True}, "cannot be downloaded"),
        ({"model": "convolution"}, "did you mean 'convolutional'"),
        ({"cuts": "layer9"}, "no layer 'layer9'"),
        ({"rank": -1}, "rank is -1"),
        ({"channels": 0}, "channels is 0"),
        ({"model": "transformer"}, "does not take digits; use fully-connected or convolutional or residual"),
        ({"data": "text", "data_dir": Path("."), "model": "residual"}, "does not take text; use transformer"),
        ({"data": "text", "data_dir": Path("."), "model": "transformer", "hidden": 10}, "expected a multiple of heads"),
        ({"data": "text", "model": "transformer"}, "needs --data-dir: a text file"),
        ({"data": "text", "data_dir": Path("/no/such/file.txt"), "model": "transformer"}, "no such"),
        ({"weight_decay": 1.5}, "weight_decay is 1.5"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_what_is_not_there_is_refused_before_anything(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Training(**settings)  # pyrefly: ignore


def test_an_unknown_name_is_a_setting_that_is_wrong() -> None:
    assert issubclass(UnknownNameError, SettingsError)
    assert all(name == data_set_named(name).name for name in DATA_SETS)


def test_a_batch_larger_than_the_training_part_is_refused(small_idx: Path) -> None:
    with pytest.raises(SettingsError, match="batch_size is 256: the training part has 120 examples"):
        load(Training.suited_to("idx", data_dir=small_idx, valid=40), 0)


@pytest.mark.parametrize("name", ["cuda:99", "toaster", "meta", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(SettingsError, match="use one of cpu"):
        device_named(name)


def test_the_processor_is_no_accelerator() -> None:
    assert accelerator_of(device_named("cpu")) == {}
