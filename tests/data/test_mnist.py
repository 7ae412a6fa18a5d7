import gzip
import hashlib
import logging
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
import torch

from synthgrad.data import DataError, mnist
from synthgrad.data.mnist import MD5, MIRROR

TRAIN, TEST = 12, 5


def compressed(shape: tuple[int, ...]) -> bytes:
    size = 1
    for length in shape:
        size *= length
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    # Without the time of day, so that the checksums are the same in each run.
    return gzip.compress(header + bytes(k % 10 for k in range(size)), mtime=0)


FILES = {
    "train-images-idx3-ubyte.gz": compressed((TRAIN, 28, 28)),
    "train-labels-idx1-ubyte.gz": compressed((TRAIN,)),
    "t10k-images-idx3-ubyte.gz": compressed((TEST, 28, 28)),
    "t10k-labels-idx1-ubyte.gz": compressed((TEST,)),
}
SUMS = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
FIRST, LAST = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


class Mirror(ThreadingHTTPServer):
    """Serves the files from memory, and can be told to do so badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []
        self.cut: set[str] = set()
        self.wrong: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mirror = self.server
        assert isinstance(mirror, Mirror)
        name = self.path.strip("/")
        mirror.asked.append(name)
        if name not in FILES:
            self.send_error(404)
            return
        content = FILES[name]
        if name in mirror.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        # Returning closes the connection.
        self.wfile.write(content[: len(content) // 2] if name in mirror.cut else content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and no variable that names another place."""
    monkeypatch.delenv("SYNTHGRAD_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "synthgrad" / "mnist"


def fill(folder: Path, *, test: int = TEST) -> Path:
    """Four files; folders are told apart by the number of their test images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(compressed((test, 28, 28)))
    (folder / LAST).write_bytes(compressed((test,)))
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def found(folder: Path | None = None) -> int:
    """The number of test images in the folder that was chosen."""
    return len(mnist(folder, valid=2).test_y)


def test_reads_the_given_folder(tmp_path: Path) -> None:
    split = mnist(fill(tmp_path), valid=2)
    assert [tuple(x.shape) for x in (split.train_x, split.valid_x, split.test_x)] == [
        (count, 1, 28, 28) for count in (TRAIN - 2, 2, TEST)
    ]


def test_the_seed_is_passed_on(tmp_path: Path) -> None:
    fill(tmp_path)
    one, same, other = (mnist(tmp_path, valid=6, seed=seed).valid_y for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_places_in_their_order(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache, test=3)
    assert found() == 3
    monkeypatch.setenv("SYNTHGRAD_DATA", str(tmp_path / "data"))
    assert found() == 3  # nothing there
    fill(tmp_path / "data", test=4)
    assert found() == 4
    fill(tmp_path / "data" / "mnist", test=6)
    assert found() == 6
    (tmp_path / "data" / "mnist" / FIRST).unlink()
    assert found() == 4  # passes over a place that lacks a file
    fill(tmp_path / "given", test=7)
    assert found(tmp_path / "given") == 7


def test_a_given_folder_is_the_only_place(cache: Path, tmp_path: Path) -> None:
    fill(cache)
    with pytest.raises(DataError, match="after looking in .*given"):
        mnist(tmp_path / "given")


def test_an_empty_variable_names_no_place(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path / "here"))
    monkeypatch.setenv("SYNTHGRAD_DATA", "")
    with pytest.raises(DataError, match="no folder with all four files"):
        mnist()


def test_without_files_the_message_says_how_to_get_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTHGRAD_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError) as caught:
        mnist()
    message = str(caught.value)
    for part in (*FILES, "--download", "SYNTHGRAD_DATA", str(tmp_path / "data" / "mnist"), str(cache)):
        assert part in message
    assert not cache.exists()  # asking leaves no trace


def test_a_download_goes_to_the_first_place(
    cache: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(mnist(valid=2, download=True, mirror=mirror.url, md5=SUMS).train_y) == TRAIN - 2
    assert names_in(cache) == sorted(FILES) and mirror.asked == list(FILES)
    assert {name: (cache / name).read_bytes() for name in FILES} == FILES
    monkeypatch.setenv("SYNTHGRAD_DATA", str(tmp_path / "data"))
    (cache / FIRST).unlink()
    mnist(valid=2, download=True, mirror=mirror.url, md5=SUMS)
    assert names_in(tmp_path / "data" / "mnist") == sorted(FILES)


def test_what_is_there_is_not_downloaded(cache: Path, mirror: Mirror) -> None:
    fill(cache, test=3)
    assert len(mnist(valid=2, download=True, mirror=mirror.url, md5=SUMS).test_y) == 3
    assert mirror.asked == []


def test_what_is_there_unpacked_is_left_as_it_is(mirror: Mirror, tmp_path: Path) -> None:
    plain = tmp_path / FIRST.removesuffix(".gz")
    plain.write_bytes(gzip.decompress(FILES[FIRST]))
    mnist(tmp_path, valid=2, download=True, mirror=mirror.url, md5=SUMS)
    assert FIRST not in mirror.asked and not (tmp_path / FIRST).exists()


@pytest.mark.parametrize("fault", ["cut", "wrong"])
def test_a_download_that_went_wrong_is_never_used(mirror: Mirror, tmp_path: Path, fault: str) -> None:
    getattr(mirror, fault).add(LAST)
    address = f"{mirror.url}{LAST}"
    for _ in range(2):  # and the second attempt takes nothing for good that the first one left
        with pytest.raises(DataError, match=rf"{address}: got no usable file .* md5 {SUMS[LAST]}; .* try again"):
            mnist(tmp_path, valid=2, download=True, mirror=mirror.url, md5=SUMS)
        assert names_in(tmp_path) == sorted(set(FILES) - {LAST})  # no temporary file either
    getattr(mirror, fault).clear()
    mirror.asked.clear()
    assert len(mnist(tmp_path, valid=2, download=True, mirror=mirror.url, md5=SUMS).test_y) == TEST
    assert mirror.asked == [LAST]  # goes on where it stopped


def test_a_mirror_without_the_files(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        mnist(tmp_path, download=True, mirror=f"{mirror.url}elsewhere/", md5=SUMS)


def test_no_mirror_at_all(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check the connection"):
        mnist(tmp_path, download=True, mirror="http://127.0.0.1:1/", md5=SUMS)


def test_a_place_that_cannot_be_written(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="got no usable file"):
        mnist(tmp_path / "file" / "mnist", download=True, mirror=mirror.url, md5=SUMS)


def test_prints_nothing_unless_asked(
    mirror: Mirror,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    level = pooch.get_logger().level
    # Its own handler writes to where standard error was when pooch was imported, which is not looked at here.
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    mnist(tmp_path / "one", valid=2, download=True, mirror=mirror.url, md5=SUMS)
    assert capfd.readouterr() == ("", "") and caplog.messages == []
    assert pooch.get_logger().level == level != logging.WARNING
    mnist(tmp_path / "two", valid=2, download=True, progress=True, mirror=mirror.url, md5=SUMS)
    drawn = capfd.readouterr()
    assert drawn.out == "" and all(name in drawn.err for name in FILES)


def test_the_checksums_are_those_of_the_original_files() -> None:
    assert list(MD5) == list(FILES) and MIRROR.endswith("/")
    assert MD5 == {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
