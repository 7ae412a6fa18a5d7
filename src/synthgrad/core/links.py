"""What a message takes from one rank to another, and how to write that down: `1GBps,20ms`."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from synthgrad.core.errors import LinkError

__all__ = ["Link", "parse_link", "parse_links"]

_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_BANDWIDTH = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kMGT]?)(B|bit)(?:ps|/s)")
_LATENCY = re.compile(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*(s|ms|us|ns)")
_BETWEEN = re.compile(r"([0-9]+)-([0-9]+)[=:](.*)")
_FORM = "expected a bandwidth, a latency or both, such as 1GBps,20ms or 100Mbit/s or 50us"


@dataclass(frozen=True)
class Link:
    """One direction between two ranks; messages go one after the other, in the order in which they were made.

    A message of n bytes leaves when the one before it has left, takes n / bandwidth to leave, and arrives `latency`
    later.

    Attributes:
        latency: one way, in the unit of the costs (seconds, if they are measured).
        bandwidth: in bytes per such unit.

    >>> Link(latency=0.02, bandwidth=1e9).time(1e6)
    0.021
    """

    latency: float = 0.0
    bandwidth: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 <= self.latency < math.inf:
            raise LinkError(f"link: latency is {self.latency}, expected zero or more, and finite")
        if not self.bandwidth > 0.0:
            raise LinkError(f"link: bandwidth is {self.bandwidth}, expected more than zero bytes")

    def time(self, size: float) -> float:
        """What one message of so many bytes takes on an idle link."""
        return self.latency + size / self.bandwidth

    def __str__(self) -> str:
        latency = f"{1e3 * self.latency:g}ms"
        return latency if self.bandwidth == math.inf else f"{self.bandwidth / 1e9:g}GBps,{latency}"


def parse_link(text: str) -> Link:
    """The link that a text such as `1GBps,20ms` describes; what is left out costs nothing. Units of seconds, bytes.

    Raises:
        LinkError: the text has another form, or names a bandwidth or a latency twice.

    >>> parse_link("1GBps,20ms")
    Link(latency=0.02, bandwidth=1000000000.0)
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        if match := _BANDWIDTH.fullmatch(part.strip()):
            name, value = "bandwidth", _number(match[1], text) * _SCALES[match[2]] / (8 if match[3] == "bit" else 1)
        elif match := _LATENCY.fullmatch(part.strip()):
            name, value = "latency", _number(match[1], text) * _SECONDS[match[2]]
        else:
            raise LinkError(f"link {text!r}: cannot read {part.strip()!r}; {_FORM}")
        if name in found:
            raise LinkError(f"link {text!r}: names a {name} twice; {_FORM}")
        found[name] = value
    return Link(**found)


def parse_links(texts: Sequence[str], devices: int) -> Callable[[int, int], Link]:
    """The link between any two of some devices; `0-1=100MBps,50ms` holds between these two, in both directions.

    Raises:
        LinkError: a text of another form, or one that names a device that is not there.

    >>> links = parse_links(["1GBps,20ms", "1-2=50ms"], devices=3)
    >>> links(0, 1), links(2, 1)
    (Link(latency=0.02, bandwidth=1000000000.0), Link(latency=0.05, bandwidth=inf))
    """
    usual, special = Link(), dict[tuple[int, int], Link]()
    for text in texts:
        match = _BETWEEN.fullmatch(text.strip())
        if match is None:
            usual = parse_link(text)
            continue
        one, other = int(match[1]), int(match[2])
        if one == other or max(one, other) >= devices:
            raise LinkError(f"link {text!r}: names no two of the devices, which are 0 to {devices - 1}; leave it out")
        special[one, other] = special[other, one] = parse_link(match[3])
    return lambda source, target: special.get((source, target), usual)


def _number(digits: str, text: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise LinkError(f"link {text!r}: {digits!r} is no number; {_FORM}") from None
