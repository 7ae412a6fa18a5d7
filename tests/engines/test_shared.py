"""Memory that another process writes into: only what stands ready is found, and it is the receiver's own."""

import gc
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.engines.frames import Frames
from synthgrad.engines.shared import Address, OwnMemory, PeerMemory

PLACES = 4
linux = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a name is known to Linux alone")


def both(places: int = PLACES) -> tuple[OwnMemory, PeerMemory]:
    own = OwnMemory(places)
    return own, PeerMemory(own.address, places)


@linux
@given(
    offers=st.lists(st.tuples(st.integers(0, PLACES - 1), st.integers(1, 9000)), max_size=12),
    size=st.integers(1, 9000),
)
def test_a_message_finds_the_buffer_that_stands_ready_for_it_if_it_is_large_enough(
    offers: list[tuple[int, int]], size: int
) -> None:
    own, peer = both()
    for number, (place, room) in enumerate(offers):
        memory = own.make(place, room)
        assert peer.find(number, size) is None  # not yet
        own.offer(number, place, room)
        found = peer.find(number, size)
        assert (found is not None) == (size <= room)
        if found is not None:
            found[-1] = number + 1
            assert found.shape == (size,) and memory[size - 1] == number + 1
        assert peer.find(number + 1, 1) is None and peer.find(number - PLACES, 1) is None


@linux
def test_a_buffer_that_has_grown_is_found_whole() -> None:
    own, peer = both()
    for number, size in enumerate((100, 100_000, 5000)):
        memory = own.make(0, size)
        own.offer(number, 0, size)
        found = peer.find(number, size)
        assert found is not None
        found.fill_(7 + number)
        assert (memory == 7 + number).all()


@linux
@pytest.mark.parametrize("field", range(4))
def test_what_is_half_written_is_not_found(field: int) -> None:
    own, peer = both()
    own.offer(5, 1, 100)
    assert peer.find(5, 100) is not None
    own.offer(1, 2, 4096)  # in the same place of the board
    with open(f"/proc/self/fd/{own.address.descriptor}", "r+b", buffering=0) as board:
        board.seek(8 * (4 + field))
        before = board.read(8)
        old = struct.pack("<4q", 5, 1, 100, 0)[8 * field :][:8]
        board.seek(8 * (4 + field))
        board.write(old)
        assert peer.find(1, 100) is None and peer.find(5, 100) is None
        board.seek(8 * (4 + field))
        board.write(before)
    assert peer.find(1, 100) is not None


@linux
def test_only_the_file_that_was_meant_is_opened(tmp_path: Path) -> None:
    own, _ = both()
    with (tmp_path / "other").open("w") as other:
        wrong = [
            Address(),
            own.address._replace(token=own.address.token + 1),
            own.address._replace(process=1 << 30),
            own.address._replace(descriptor=other.fileno()),
        ]
        for address in wrong:
            with pytest.raises(OSError):
                PeerMemory(address, PLACES)
        assert (tmp_path / "other").stat().st_size == 0


def test_a_system_without_such_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(OSError):
        OwnMemory(PLACES)


@linux
def test_nothing_is_left_open_when_both_have_gone() -> None:
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    own, peer = both()
    own.offer(0, 0, own.make(0, 1 << 20).size)
    found = peer.find(0, 1 << 20)
    assert len(os.listdir("/proc/self/fd")) > len(before)
    del own, peer, found
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


@linux
def test_frames_of_shared_memory_are_lent_like_others() -> None:
    own, peer = both()
    frames = Frames(PLACES, own.make)
    held = [frames.take(1000 * (number + 1)) for number in range(PLACES + 1)]
    assert [frame.place for frame in held] == [0, 1, 2, 3, None]
    for number, frame in enumerate(held[:PLACES]):
        assert frame.place is not None and frame.bytes.data_ptr() % 64 == 0
        own.offer(number, frame.place, frame.bytes.numel())
    for number in range(PLACES):
        found = peer.find(number, 1000)
        assert found is not None
        found.fill_(number)
    assert all(bool((frame.bytes[:1000] == number).all()) for number, frame in enumerate(held[:PLACES]))
    view = held[2].bytes.view(torch.int16)
    del held[2], frame
    assert frames.take(1).place is None  # something still lies there
    del view
    assert frames.take(1).place == 2
