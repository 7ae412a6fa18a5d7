"""A trace: what every stage did when, and what it waited for, written to disk as it happens.

run/trace/rank-0.jsonl      of each process its own file: `Started` with the plan, then a line for each action
run/trace/rank-1.jsonl

`synthgrad trace run/trace` reads it.
"""

import logging
import time
from collections.abc import Iterator, Sequence
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
EVERY = 0.25  # seconds after which what is written is handed to the system; a killed process loses no more
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
        file.write(done, step=engine.steps)

    try:
        offset, error = offset_to_first(engine.rank, engine.group) if distributed else (0.0, 0.0)
        clock = {"machine": machine(), "offset": offset, "error": error}
        ranks = engine.plan.ranks if distributed else (0,) * len(net.stages)
        file.write(Started(_described(net, ranks) | {"limit": limit, "rank": rank, "clock": clock}, _locks(net.plan)))
        engine.observe = observe
        yield
    except BaseException as error:
        file.write(Failed(engine.steps, f"{type(error).__name__}: {error}"))
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


class _File:
    """Lines of JSON, up to a limit. Training goes on without it when the disk is full."""

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
        self._flushed = time.perf_counter()

    def write(self, event: Event, **labels: Any) -> None:
        """Keep the event, if there is room."""
        line = f"{encode(event, **labels)}\n".encode()
        if len(line) > self.room or self.dropped:  # no gaps: what is there is all up to a point
            self.dropped += 1
            return
        self.room -= len(line)
        self._put(line)

    def close(self, last: Finished) -> None:
        """Keep the last event, with the number of those that were dropped: whether there is room or not."""
        self._flushed = 0.0
        self._put(f"{encode(last, dropped=self.dropped)}\n".encode())
        try:
            self._file.close()
        except OSError as error:
            self._give_up(error)

    def _put(self, line: bytes) -> None:
        try:
            self._file.write(line)
            if (now := time.perf_counter()) - self._flushed > EVERY:
                self._file.flush()
                self._flushed = now
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self.room:
            log.warning("%s: cannot be written any more (%s); the trace ends here", self._file.name, error.strerror)
        self.room = 0
        self.dropped += 1
