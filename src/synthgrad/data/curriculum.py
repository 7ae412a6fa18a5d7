"""The published curriculum of the copying tasks: what is solved makes place for the next longer one.

Jaderberg et al. 2016, arXiv:1608.05343, section 3.1.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from synthgrad.data.copying import Copying
from synthgrad.data.split import DataError

__all__ = ["LIMIT", "WINDOW", "Curriculum"]

LIMIT = 0.15
"""Bits below which a length counts as solved."""

WINDOW = 256
"""Sequences that the mean is taken over; as many as a batch of the paper holds."""


@dataclass
class Curriculum:
    """Which sequences come next.

    Copy begins with N = 1, and each time that it is solved N grows by one. Repeat Copy begins with N = R = 1, and N and
    R grow by turns, N first.

    Attributes:
        copying: the task.
        limit: what the mean score has to stay below, in bits of a digit (see `synthgrad.data.copying`).
        window: over how many of the latest sequences of this length the mean is taken.
        n: N, characters of the sequences that come next.
        r: R, how often they are to be repeated.
        solved: the longest solved so far, as the paper's table counts it; 0 for none.

    Raises:
        DataError: a limit that is not above 0, or a window below 1.
    """

    copying: Copying
    limit: float = LIMIT
    window: int = WINDOW
    n: int = 1
    r: int = 1
    solved: int = 0
    _scores: deque[float] = field(default_factory=deque, repr=False)

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise DataError(f"Curriculum: limit is {self.limit}, expected a number of bits above 0, such as {LIMIT}")
        if self.window < 1:
            raise DataError(f"Curriculum: window is {self.window}, expected 1 sequence or more")
        self._scores = deque(self._scores, maxlen=self.window)

    @property
    def bits(self) -> float | None:
        """The mean score of the latest sequences of the present length; None until there is one."""
        return fmean(self._scores) if self._scores else None

    def see(self, scores: Iterable[float]) -> bool:
        """Take in the scores of sequences of the present length, and advance if it is solved.

        Args:
            scores: of each sequence the bits of a digit, `Copying.bits`.

        Returns:
            Whether the sequences that come next are longer.
        """
        self._scores.extend(scores)
        if len(self._scores) < self.window or not fmean(self._scores) < self.limit:
            return False
        self.solved = self.copying.solved(self.n, self.r)
        self._scores.clear()
        if self.copying.repeats and self.r < self.n:
            self.r += 1
        else:
            self.n += 1
        return True
