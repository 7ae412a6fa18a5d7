"""A trace: what every stage did when, and what it waited for, written to disk as it happens.

run/trace/rank-0.jsonl      of each process its own file: `Started` with the plan, then a line for each action
run/trace/rank-1.jsonl

Lines are written every quarter of a second: of a process that is killed (SIGKILL), that much may be missing, and no
more. `synthgrad trace run/trace` reads what there is.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from synthgrad.core.actions import format_actions
from synthgrad.core.errors import TraceError
from synthgrad.core.events import ActionDone, Event, Failed, Finished, Started, encode
from synthgrad.core.plan import Plan, locks
from synthgrad.core.stage import Stage
from synthgrad.engines.clock import machine, offset_to_first
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.engines.local import LocalEngine

__all__ = ["LIMIT", "trace"]

LIMIT = 64 * 2**20  # bytes of a file: some 400,000 actions
EVERY = 0.25  # seconds, after which what has been done is written
log = logging.getLogger("synthgrad")


class _Net(Protocol):
    """What of a decoupled model a trace looks at."""

    plan: Plan
    stages: list[Stage]
    engine: LocalEngine | DistributedEngine


@contextmanager
def trace(net: _Net, folder: str | Path, *, limit: int = LIMIT) -> Iterator[None]:
    """Write down what the stages do, and what they wait for, as long as the context is open.

    On several processes each writes a file of its own, and all enter the context between the same two steps; of
    replicas, each in a folder of its own, `replica-0` and so on. On a GPU, times are those at which work was handed to
    it.

    Args:
        net: from `decouple`.
        folder: for the files; made if need be.
        limit: bytes for each file. What comes after that is counted, not written.

    Raises:
        TraceError: the folder holds a trace already, or cannot be written to; or the limit is below 4096.
        TransportError: with several processes, one does not come.

    >>> with trace(net, "run/trace"):  # doctest: +SKIP
    ...     for x, y in loader:
    ...         net.step(x, target=y)
    """
    engine = net.engine
    distributed = isinstance(engine, DistributedEngine)
    rank = engine.place if distributed else 0
    apart = f"replica-{engine.replica}" if distributed and engine.replicas is not None else ""
    file = _File(Path(folder) / apart / f"rank-{rank}.jsonl", limit)
    before, first, begun = engine.observe, engine.steps, time.perf_counter()

    def observe(done: ActionDone) -> None:
        if before is not None:
            before(done)
        file.keep(engine.steps, done)

    try:
        offset, error = offset_to_first(engine.rank, engine.group) if distributed else (0.0, 0.0)
        clock = {"machine": machine(), "offset": offset, "error": error}
        ranks = engine.plan.ranks if distributed else (0,) * len(net.stages)
        file.write(Started(_described(net, ranks) | {"limit": limit, "rank": rank, "clock": clock}, _locks(net.plan)))
        engine.observe = observe
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | GeneratorExit)  # and not failed
        file.write(Failed(engine.steps, "stopped" if stopped else f"{type(error).__name__}: {error}"))
        raise
    finally:
        engine.observe = before
        file.close(Finished(engine.steps - first, time.perf_counter() - begun))


def _locks(plan: Plan) -> tuple[str, ...]:
    return tuple(sorted(lock.value for lock in locks(plan)))


def _described(net: _Net, ranks: Sequence[int]) -> dict[str, Any]:
    """All that it takes to make the plan again: a period's steps, from the first that has all its late actions.

    Of a schedule without a period, the steps are what was done.
    """
    schedule = net.plan.schedule
    return {
        "schedule": schedule.name,
        "microbatches": schedule.microbatches,
        "lateness": schedule.lateness,
        "actions": [format_actions(net.plan.actions(schedule.lateness + step)) for step in range(schedule.period)],
        "ranks": list(ranks),
        "stages": [
            {
                "name": stage.name,
                "synthesizer": declared.synthesizer,
                "needs": sorted(declared.needs),
                "feedback": sorted(declared.feedback),
                "input_synthesizer": declared.input_synthesizer,
            }
            for stage, declared in zip(net.stages, net.plan.stages, strict=True)
        ],
    }


def _line(step: int, done: ActionDone) -> str:
    """What `encode(done, step=step)` gives, in a fifth of the time; times are finite, and actions need no escapes."""
    sources = format_actions(done.sources) if done.sources else ""
    return (
        f'{{"event": "ActionDone", "step": {step}, "action": "{done.action}", "start": {done.start!r}, '
        f'"end": {done.end!r}, "sources": "{sources}", "waited": {done.waited!r}, "bytes": {done.bytes}}}'
    )


class _File:
    """Lines of JSON, up to a limit. Training goes on without it when the disk is full.

    What is done is kept as it is, and written with what else has been done meanwhile: between two actions, whose work
    empties the processor's caches, whatever is called takes several times as long.
    """

    def __init__(self, path: Path, limit: int) -> None:
        if limit < 4096:
            raise TraceError(f"limit={limit}: a trace needs at least 4096 bytes for what it is a trace of")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except FileExistsError:
            raise TraceError(f"{path}: there is a trace already; remove it, or choose another folder") from None
        except OSError as error:
            raise TraceError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
        self.room, self.dropped = limit, 0
        self._kept: list[tuple[int, ActionDone]] = []  # with the steps
        self._due = 0.0  # when to write again

    def keep(self, step: int, done: ActionDone) -> None:
        """Keep what was done, and now and then write what is kept."""
        self._kept.append((step, done))
        if done.end >= self._due:
            self._due = done.end + EVERY
            self._write_kept()

    def write(self, event: Event) -> None:
        """Write the event behind all that was kept, if there is room."""
        self._write_kept()
        self._put([encode(event)])

    def close(self, last: Finished) -> None:
        """Write the last event, with the number of those that were dropped: whether there is room or not."""
        self._write_kept()
        try:
            self._file.write(f"{encode(last, dropped=self.dropped)}\n".encode())
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _write_kept(self) -> None:
        self._put(_line(step, done) for step, done in self._kept)
        self._kept.clear()

    def _put(self, lines: Iterable[str]) -> None:
        fitting = []
        for line in lines:
            size = len(line) + 1  # in bytes, too: JSON escapes all that is not ASCII
            if size > self.room or self.dropped:  # no gaps: what is there is all up to a point
                self.dropped += 1
            else:
                self.room -= size
                fitting.append(f"{line}\n")
        try:
            self._file.write("".join(fitting).encode())
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self.room:
            log.warning("%s: cannot be written any more (%s); the trace ends here", self._file.name, error.strerror)
        self.room = 0
        self.dropped += 1
