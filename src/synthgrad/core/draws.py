"""The random numbers of an action: a stream of its own, which begins at a key.

The key is the seed, the stage, what is done, and the microbatch, counted from the start of the run. So dropout has the
same masks whoever runs a stage, in however many processes, in whatever order, and after a restart: there is no stream
to be saved. (Replicas of a stage have other rows, and other masks.) And the stream that a script draws from, for the
order of its data, goes on as though no stage drew.
"""

import hashlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["Draws", "common_stream"]

_NONE = nullcontext()


class Draws:
    """What one stage draws.

    It costs nothing where nothing is drawn: whatever is done for the first time gets a stream of its own, and from then
    on only if it has drawn from it.

    Args:
        seed: of the run; the same in all processes.
        stage: the stage's index.
    """

    def __init__(self, seed: int, stage: int) -> None:
        self.seed, self.stage = seed, stage
        self.replica = 0  # of those that hold the stage
        self._cuda: Sequence[int] = ()
        self._drawing: dict[str, bool] = {}  # by what is done; not there: not known yet

    def watch(self, devices: Iterable[torch.device]) -> None:
        """Draw on the CPU, and on these devices."""
        self._cuda = sorted({device.index for device in devices if device.type == "cuda"})

    @property
    def generators(self) -> list[torch.Generator]:
        """Torch's own, from which modules draw."""
        return [torch.default_generator, *(torch.cuda.default_generators[index] for index in self._cuda)]

    def of(self, what: str, microbatch: int) -> AbstractContextManager[None]:
        """Within it, torch's own generators stand at the key's stream; behind it, where they stood before."""
        return _NONE if self._drawing.get(what) is False else self._keyed(what, microbatch)

    def forget(self) -> None:
        """Look anew at what draws."""
        self._drawing.clear()

    @contextmanager
    def _keyed(self, what: str, microbatch: int) -> Generator[None]:
        generators = self.generators
        common = [generator.get_state() for generator in generators]
        key = f"{self.seed} {self.stage} {what} {microbatch}{f' {self.replica}' * bool(self.replica)}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1
        for generator in generators:
            generator.manual_seed(number)
        begun = [] if self._drawing.get(what) else [generator.get_state() for generator in generators]
        try:
            yield
        finally:
            if begun:
                self._drawing[what] = _moved(generators, begun)
            for generator, state in zip(generators, common, strict=True):
                generator.set_state(state)


@contextmanager
def common_stream(stages: Iterable[Draws]) -> Generator[None]:
    """Put the stream that the script draws from back to where it was.

    A stage that begins to draw where it drew nothing at first (a model that was in eval mode, say) is noticed here: up
    to now it drew from the script's stream, from now on it has streams of its own.
    """
    stages = list(stages)
    generators = list(dict.fromkeys(generator for stage in stages for generator in stage.generators))
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        if _moved(generators, states):
            for stage in stages:
                stage.forget()
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _moved(generators: Iterable[torch.Generator], states: Iterable[torch.Tensor]) -> bool:
    pairs = zip(generators, states, strict=True)
    return any(not torch.equal(generator.get_state(), state) for generator, state in pairs)
