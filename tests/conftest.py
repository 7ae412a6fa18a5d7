"""Every test starts from the same random state and runs on one thread, alone or beside others."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import register_random, settings

# The same examples on every run, so that a red test is red for its change; no deadline, since speed is never asserted.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("ci")


class TorchRandom(random.Random):
    """Torch's global generator as hypothesis wants to see it, which then reseeds it for each example."""

    def seed(self, a: object = None, version: int = 2) -> None:
        torch.manual_seed(a if isinstance(a, int) else 0)

    def getstate(self) -> tuple[torch.Tensor]:
        return (torch.get_rng_state(),)

    def setstate(self, state: tuple[torch.Tensor]) -> None:
        torch.set_rng_state(state[0])


TORCH_RANDOM = TorchRandom()  # hypothesis keeps a weak reference only
register_random(TORCH_RANDOM)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.gpu` needs a CUDA device, `@pytest.mark.gpu(2)` two of them; skipped where there are fewer."""
    for marker in item.iter_markers("gpu"):
        wanted = marker.args[0] if marker.args else 1
        if torch.cuda.device_count() < wanted:
            pytest.skip(f"needs {wanted} CUDA device{'s' * (wanted > 1)}")


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)
    # One thread: the order of additions, and with it the last bits, would else depend on the machine.
    torch.set_num_threads(1)


@pytest.fixture
def small_idx(tmp_path: Path) -> Path:
    """A folder in MNIST's layout: 160 and 40 images of 6x6 pixels in 3 classes, which the brightness tells."""
    folder = tmp_path / "small-idx"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for stem, count in (("train", 160), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = (60 * labels[:, None, None] + draw.integers(0, 60, (count, 6, 6))).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return folder


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MNIST's layout, large enough to hold 5,000 out: 5,560 and 60 images of 4x4 pixels in 10 classes."""
    folder = tmp_path_factory.mktemp("tiny-mnist")
    draw = np.random.default_rng(0)
    for stem, count in (("train", 5560), ("t10k", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = (20 * labels[:, None, None] + draw.integers(0, 60, (count, 4, 4))).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return folder
