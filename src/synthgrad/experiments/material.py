"""What a training works with: the data, in the shape that the network takes, on the device that is asked for."""

from dataclasses import replace

import torch
from torch import Tensor

from synthgrad.data import Split
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.networks import network_named
from synthgrad.experiments.spec import Training

__all__ = ["accelerator_of", "device_named", "load", "synchronize"]


def device_named(name: str) -> torch.device:
    """Find a device, and see that it works.

    Raises:
        SettingsError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has no one way to say so
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingsError(
            f"device {name!r}: not to be had here ({reason}); use one of {', '.join(_devices())}"
        ) from None
    if device.type == "meta":
        raise SettingsError(f"device {name!r}: holds no numbers; use one of {', '.join(_devices())}")
    return device


def _devices() -> list[str]:
    others = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *others, *(["mps"] if torch.backends.mps.is_available() else [])]


def accelerator_of(device: torch.device) -> dict[str, str]:
    """What stands beside the processor, for the record; nothing where there is none."""
    if device.type == "cpu":
        return {}
    return {"accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was told, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def load(training: Training, seed: int) -> Split:
    """The data of a seed, on the device.

    Returns:
        Images (N, features) or (N, C, H, W), as the network takes them; or tokens (N, T).

    Raises:
        SettingsError: no such device, or a batch larger than the training part.
        DataError: the files are missing or broken.
    """
    device = device_named(training.device)
    split = training.data_set.load(training, seed)
    if training.batch_size > len(split.train_y):
        raise SettingsError(
            f"batch_size is {training.batch_size}: the training part has {len(split.train_y)} examples; take fewer"
        )
    flat = network_named(training.model).flat

    def moved(images: Tensor) -> Tensor:
        return (images.flatten(1) if flat else images).to(device)

    return replace(
        split,
        train_x=moved(split.train_x),
        train_y=split.train_y.to(device),
        valid_x=moved(split.valid_x),
        valid_y=split.valid_y.to(device),
        test_x=moved(split.test_x),
        test_y=split.test_y.to(device),
    )
