"""Slow links and slow stages, for experiments: off unless asked for.

All processes of an experiment are on one machine and have one monotonic clock. So a message carries the time at which
it was sent, and its receiver keeps it back until it would have come. What a real link of latency L makes of a message:

    sent at s ------------------ L ------------------> there
    its buffer was posted at p; the sender hears of it at p + L, and gloo sends nothing before

    so it is there at max(s, p + L) + L; in two parts, where it did not fit, a whole round trip later

A sender that is full would also wait for an older message to leave, which here leaves too early. That changes nothing
as long as windows are as wide as the engine makes them: before a stage sends message n, it has had what another one
made after it took message n - window, and the word of the new buffer came over the same link before that. The width of
a link (bytes in a second) is not modeled.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from synthgrad.core.events import ActionDone
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.engines.local import LocalEngine
from synthgrad.engines.message import Header
from synthgrad.engines.transport import ProcessTransport

__all__ = ["slow_links", "slow_stages"]

Latency = float | Callable[[int, int], float]


def slow_links(transport: ProcessTransport, links: Latency) -> None:
    """From now on, give the links between the stages' processes a latency. Every rank calls it alike.

    What `gather` brings does not travel over these links.

    Args:
        transport: whose messages are held back: `net.engine.transport`.
        links: seconds one way, or a function of (from rank, to rank), as in `simulate`; 0 takes it off again.

    Raises:
        ValueError: a negative latency.
    """
    latency = links if callable(links) else lambda source, target: links
    for source, end in transport.incoming.items():
        there, back = latency(source, transport.rank), latency(transport.rank, source)
        if not min(there, back) >= 0:
            raise ValueError(f"ranks {source} and {transport.rank}: got latencies {there}, {back}, expected >= 0")
        end.hold = _Slow(there, back) if there or back else None


@dataclass(frozen=True)
class _Slow:
    """The link of an edge: seconds from the sender to here, and from here to the sender."""

    there: float
    back: float

    def __call__(self, header: Header, posted: float, in_parts: bool) -> None:
        """Until the message would have come; its (first) buffer was posted at `posted`."""
        arrival = max(header.sent, posted + self.back) + self.there
        if in_parts:
            arrival += self.back + self.there  # the buffer of the second is posted when the first has come
        time.sleep(max(0.0, arrival - time.monotonic()))


def slow_stages(engine: LocalEngine | DistributedEngine, factors: Mapping[int, float]) -> None:
    """Make every action of some stages take so many times as long: it ends, and then nothing happens for a while.

    Args:
        engine: of this process; its observer, if there is one, is told the longer times.
        factors: by index of the stage, at least 1.

    Raises:
        ValueError: a factor below 1.
    """
    if wrong := {stage: factor for stage, factor in factors.items() if not factor >= 1}:
        raise ValueError(f"factors {wrong}: expected at least 1; an action cannot be made faster")
    engine.observe = _Slowed(factors, engine.observe)


@dataclass(frozen=True)
class _Slowed:
    """Observes an action by waiting."""

    factors: Mapping[int, float]
    then: Callable[[ActionDone], None] | None

    def __call__(self, done: ActionDone) -> None:
        time.sleep((self.factors.get(done.action.stage, 1.0) - 1.0) * (done.end - done.start))
        if self.then is not None:
            self.then(replace(done, end=time.perf_counter()))
