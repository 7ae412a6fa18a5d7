"""Memory that is lent again: never while anything lies in it, whoever holds on to it."""

import random

import pytest
import torch
from torch import Tensor, nn

from synthgrad.engines.frames import Frames


def test_a_frame_is_as_long_as_asked_for_and_begins_where_kernels_want_it() -> None:
    frames = Frames(2)
    for size in (320, 5000, 64, 1):
        frame = frames.take(size).bytes
        assert frame.dtype == torch.uint8 and frame.shape == (size,) and frame.data_ptr() % 64 == 0
        del frame


def test_memory_is_lent_again_when_the_last_tensor_in_it_has_gone() -> None:
    frames = Frames(4)
    frame = frames.take(1024).bytes
    place, view = frame.data_ptr(), frame[64:128].view(torch.float32)
    del frame
    assert frames.take(1024).bytes.data_ptr() != place  # the view lies in it
    del view
    assert frames.take(512).bytes.data_ptr() == place
    assert len(frames) == 2


def test_what_autograd_has_saved_is_not_written_over() -> None:
    frames, layer = Frames(4), nn.Linear(4, 2)
    activation = frames.take(4 * 4 * 3).bytes.view(torch.float32).view(3, 4).fill_(1.0)
    output = layer(activation).sum()
    del activation
    for _ in range(3):
        frames.take(4 * 4 * 3).bytes.fill_(255)
    output.backward()
    assert layer.weight.grad is not None and torch.equal(layer.weight.grad, torch.full((2, 4), 3.0))


def test_memory_that_is_too_small_is_replaced_and_only_so_much_is_kept() -> None:
    frames = Frames(2)
    frames.take(100)
    frames.take(200)
    assert len(frames) == 1
    held = [frames.take(200).bytes for _ in range(5)]
    assert len(frames) == 2 and len({frame.data_ptr() for frame in held}) == 5


@pytest.mark.parametrize("most", [0, 1, 3])
def test_frames_that_are_held_at_one_time_never_share_memory(most: int) -> None:
    frames, draw, held = Frames(most), random.Random(0), list[tuple[int, Tensor]]()
    for number in range(300):
        held.append((number % 251, frames.take(draw.choice([0, 1, 64, 1000])).bytes.fill_(number % 251)))
        if len(held) > draw.randrange(6):
            held.pop(draw.randrange(len(held)))
        assert all(bool((frame == value).all()) for value, frame in held)
