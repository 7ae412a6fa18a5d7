"""A transport between processes, over `torch.distributed` with gloo.

What an action made goes to each rank that waits for it in one message, on the edge between the two ranks: one
direction, one process group, first in first out. The receiver knows from the plan what comes next, and keeps what it is
not asked for yet in a mailbox, the one that also serves the readers on its own rank.

    sender                            edge 0 -> 1                          receiver
    send: waits only for the message  | frame | frame |  posted ahead:     receive: takes messages off the edge
    that went `window` before              in flight     `window` buffers  until the one asked for is there

Why frames fit. gloo delivers a message only into a buffer that has been posted, and one that is too small for its
message ends the process; so buffers are posted before their messages are known, as large as the largest message so far.
Both sides count alike: the buffer of message n was posted just before message n - window was taken. What does not fit
goes in two parts, of which the second is posted when the header has come. On one machine the sender writes into the
posted buffer itself, where it can, and sends the header alone: see `shared`.

Why every handle is waited for. gloo drops a message whose handle is dropped before it has gone, and says of none that
it has gone before its handle is waited for.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from synthgrad.core.actions import Action
from synthgrad.core.errors import TransportError
from synthgrad.core.plan import Line
from synthgrad.engines.edges import Edge
from synthgrad.engines.frames import Frames, ordinary
from synthgrad.engines.local import Mailbox
from synthgrad.engines.message import (
    HEADER_BYTES,
    TEXT_BYTES,
    Header,
    News,
    farewell,
    pack,
    places_of,
    product,
    read_header,
)

__all__ = ["ProcessTransport"]

Doing = Callable[[], str]  # what is being done, in words, which are made only where something goes wrong
WHOLE, REST = 0, 1  # tags: of a frame or its header, and of the rest of a frame that did not fit


class _Outgoing:
    """The end of an edge at which this rank sends."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.unfinished: deque[tuple[list[dist.Work], Tensor]] = deque()  # gloo needs handle and frame until it is done
        self._frames = Frames(1 + edge.window)
        self._there: Tensor | None = None  # the frame to be sent next, if it lies in the receiver's memory
        self._sent = 0
        self._sizes: deque[int] = deque()  # of the messages for which the buffers have not grown yet
        self._capacity = HEADER_BYTES + TEXT_BYTES

    @property
    def full(self) -> bool:
        """Whether an older message has to go first."""
        return len(self.unfinished) >= self.edge.window

    def take(self, size: int) -> Tensor:
        """A frame for the next message, uint8 (size,): in the receiver's memory, if one stands ready there."""
        self._there = None if self.edge.peer is None else self.edge.peer.find(self._sent, size)
        return self._frames.take(size).bytes if self._there is None else self._there

    def post(self, frame: Tensor) -> None:
        """Without looking at how many are on their way."""
        if len(self._sizes) > self.edge.window:
            self._capacity = max(self._capacity, self._sizes.popleft())
        self._sizes.append(frame.numel())
        if frame is self._there:
            parts = [frame[:HEADER_BYTES]]
        elif frame.numel() <= self._capacity:
            parts = [frame]
        else:
            parts = [frame[:HEADER_BYTES], frame[HEADER_BYTES:]]
        works = [self.edge.send(part, tag) for tag, part in enumerate(parts)]
        self.unfinished.append((works, frame))
        self._sent += 1

    def finish_one(self) -> None:
        works, _ = self.unfinished[0]
        for work in works:
            self.edge.wait(work)
        self.unfinished.popleft()


class _Expected(NamedTuple):
    """A message that the plan says will come."""

    action: Action
    step: int
    digest: int
    readers: tuple[Action, ...]


class _Incoming:
    """The end of an edge at which this rank receives."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.expected: deque[_Expected] = deque()
        self.posted: deque[tuple[dist.Work | RuntimeError, Tensor, float]] = deque()  # and when
        self.last: Header | None = None
        self.hold: Callable[[Header, float, bool], None] | None = None  # see `slow_links`
        self._capacity = HEADER_BYTES + TEXT_BYTES
        self._frames = Frames(edge.places, ordinary if edge.own is None else edge.own.make)
        self._count = 0
        for _ in range(edge.window):
            self._post()

    def take(self) -> tuple[Header, Any]:
        """The next message's header, and what it brings."""
        # Before the wait, and not behind it, where others wait for what comes: another buffer is posted, and it is
        # looked up where in this one the tensors lie, if they are like the last ones.
        self._post()
        work, frame, posted = self.posted.popleft()
        likely = () if self.last is None or self.last.size > frame.numel() else self.last.layouts
        places = places_of(likely, frame)
        if isinstance(work, RuntimeError):
            raise work
        self.edge.wait(work)
        header = self.last = read_header(frame)
        whole = header.size <= frame.numel()
        if not whole:
            frame = torch.empty(header.content, dtype=torch.uint8)
            self.edge.wait(self.edge.receive(frame, REST))
        if self.hold is not None:
            self.hold(header, posted, not whole)
        self._capacity = max(self._capacity, header.size)
        if not whole or header.layouts != likely:
            places = places_of(header.layouts, frame, HEADER_BYTES if whole else 0)
        return header, product(header, places)

    def _post(self) -> None:
        frame, place = self._frames.take(self._capacity)
        try:
            work = self.edge.receive(frame, WHOLE)
        except RuntimeError as error:  # a peer that has ended: no fault until something is asked of it
            work = error
        if self.edge.own is not None and place is not None:
            self.edge.own.offer(self._count, place, self._capacity)
        self.posted.append((work, frame, time.monotonic()))
        self._count += 1


@dataclass
class _Step:
    """The step that is being run."""

    number: int = -1
    digest: int = 0
    news: News = field(default_factory=News)


class ProcessTransport:
    """Carries products to the actions of this rank, and of others.

    Args:
        rank: this process.
        ranks: `ranks[stage]`, the rank that holds the stage.
        edges: all of the plan, or those that begin or end here.
    """

    def __init__(self, rank: int, ranks: Sequence[int], edges: Iterable[Edge]) -> None:
        edges = list(edges)
        self.rank, self.ranks = rank, tuple(ranks)
        self.mailbox = Mailbox()
        self.outgoing = {edge.target: _Outgoing(edge) for edge in edges if edge.source == rank}
        self.incoming = {edge.source: _Incoming(edge) for edge in edges if edge.target == rank}
        self.step = _Step()

    @property
    def news(self) -> News:
        """The newest loss that this rank has heard of."""
        return self.step.news

    def tell(self, news: News) -> None:
        """Pass the news on with whatever is sent, if they are new."""
        self.step.news = max(self.step.news, news, key=lambda one: one.step)

    def begin(self, step: int, digest: int, lines: Iterable[Line]) -> None:
        """A step begins: what other ranks will send is known from its lines, those of all ranks."""
        self.step.number, self.step.digest = step, digest
        for action, _, readers in lines:
            source = self.ranks[action.stage]
            here = tuple(reader for reader in readers if self.ranks[reader.stage] == self.rank)
            if here and source != self.rank:
                self.incoming[source].expected.append(_Expected(action, step, digest, here))

    # ---- sending -----------------------------------------------------------------------------------------------------

    def send(self, action: Action, product: Any, to: tuple[Action, ...]) -> None:
        """Hand over what the action made: one message for each rank that holds a reader. Waits only for older ones.

        Raises:
            TransportError: an older message was not taken in time, or the other rank is gone.
        """
        targets = sorted({self.ranks[reader.stage] for reader in to})
        if self.rank in targets:
            self.mailbox.send(action, product, tuple(reader for reader in to if self.ranks[reader.stage] == self.rank))
            targets.remove(self.rank)
        step = self.step
        for target in targets:
            end, doing = self.outgoing[target], partial("sending {}".format, action)
            if end.full:
                self._watched(end.edge, end.finish_one, doing)
            frame = pack(action, product, step=step.number, digest=step.digest, news=step.news, make=end.take)
            self._watched(end.edge, partial(end.post, frame), doing)

    def settle(self) -> None:
        """Wait until all that was sent has gone. Raises `TransportError` as `send`.

        First all that others have sent here is taken, for its readers to come: of a message that did not fit, the
        second part goes only then, and two ranks that both settle would wait for each other.
        """
        for end in self.incoming.values():
            while end.expected:
                self._fetch(end, lambda: "settling, taking all that was sent here")
        for end in self.outgoing.values():
            while end.unfinished:
                self._watched(end.edge, end.finish_one, lambda: "waiting until all that was sent has been taken")

    def say_farewell(self, reason: str) -> None:
        """Tell all who wait for this rank that it has given up; nobody is waited for."""
        for end in self.outgoing.values():
            with suppress(RuntimeError):
                end.post(farewell(max(self.step.number, 0), reason))

    # ---- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, action: Action, *, by: Action) -> Any:
        """What the action made, for `by`, which gets it once.

        Raises:
            TransportError: it does not come in time, or is not what comes, or the other rank is gone or has given up.
        """
        source = self.ranks[action.stage]
        while source != self.rank and action not in self.mailbox.products:
            doing = partial("waiting for {}, which {} needs".format, action, by)
            self._fetch(self.incoming[source], doing)
        return self.mailbox.receive(action, by=by)

    def _fetch(self, end: _Incoming, doing: Doing) -> None:
        """Take the next message off the edge, put it into the mailbox."""
        if not end.expected:
            raise self._error(end.edge, doing, "the plan has no more messages there", "run `begin` with all its lines")
        header, brought = self._watched(end.edge, end.take, doing)
        if header.action is None:
            raise self._error(
                end.edge,
                doing,
                f"rank {end.edge.source} has given up: {brought}",
                "start all ranks anew",
            )
        expected = end.expected.popleft()
        self._expect(end.edge, header, expected, doing)
        self.tell(header.news)
        self.mailbox.send(expected.action, brought, expected.readers)

    def _expect(self, edge: Edge, header: Header, expected: _Expected, doing: Doing) -> None:
        got, planned = (header.action, header.step), (expected.action, expected.step)
        if got != planned:
            raise self._error(
                edge,
                doing,
                f"got {got[0]} of step {got[1]}, expected {planned[0]} of step {planned[1]}",
                "run the same script on all ranks, and call step and flush equally often",
            )
        if header.digest != expected.digest:
            raise self._error(
                edge,
                doing,
                f"the ranks hold different batches in step {expected.step}: got one of digest {header.digest:08x}, "
                f"expected {expected.digest:08x} as here",
                "iterate the same data in the same order on all ranks: shuffle with a generator seeded alike",
            )

    # ---- faults ------------------------------------------------------------------------------------------------------

    def _watched(self, edge: Edge, act: Callable[[], Any], doing: Doing) -> Any:
        """Do it; whatever goes wrong on the edge is told with its name and what was being done."""
        begun = time.monotonic()
        try:
            return act()
        except TransportError as error:  # a header that cannot be read
            raise self._error(edge, doing, str(error), "run the same versions on all ranks") from None
        except RuntimeError as error:
            peer = edge.target if edge.source == self.rank else edge.source
            seconds = time.monotonic() - begun
            late = seconds >= edge.timeout
            fault = f"nothing came or went for {seconds:.1f} s" if late else f"rank {peer} is gone, or has given up"
            remedy = f"look for the first error of rank {peer}; end every rank with net.flush() or net.gather()"
            if late:
                remedy = (
                    f"see whether rank {peer} runs the same script, and ends each net with flush() or gather() (one "
                    f"dropped before takes with it what it sent); or give it more time than {edge.timeout:g} s"
                )
            raise self._error(edge, doing, fault, remedy) from error

    def _error(self, edge: Edge, doing: Doing, fault: str, remedy: str) -> TransportError:
        last = self.incoming[edge.source].last if edge.source in self.incoming and edge.target == self.rank else None
        return TransportError(
            f"{edge}, step {self.step.number}, {doing()}: {fault}; the last header there: {last or 'none'}; "
            f"{self.depths(edge)}; {remedy}",
            edge=(edge.source, edge.target),
        )

    def depths(self, edge: Edge) -> str:
        """What stands in the queues of an edge, in words."""
        if edge.source == self.rank:
            return f"messages not known to have gone: {len(self.outgoing[edge.target].unfinished)} of {edge.window}"
        end = self.incoming[edge.source]
        return f"messages expected: {len(end.expected)}, buffers posted: {len(end.posted)}, held: {len(self.mailbox)}"
