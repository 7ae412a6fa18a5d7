"""The distributed engine: each process runs the stages of its rank, and none waits but for what the plan says."""

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from synthgrad.core.agreement import Agreement
from synthgrad.core.batch import Batch
from synthgrad.core.draws import common_stream
from synthgrad.core.errors import ScheduleError, SynthgradError, TransportError
from synthgrad.core.events import ActionDone
from synthgrad.core.plan import Line, Plan, line_of
from synthgrad.core.run import run
from synthgrad.core.stage import Stage
from synthgrad.engines.digest import digest_of_batch, digest_of_tensors
from synthgrad.engines.edges import edges_of
from synthgrad.engines.local import Mailbox, Outcome
from synthgrad.engines.message import News
from synthgrad.engines.passages import open_passages, take_agreement, take_loss
from synthgrad.engines.ranks import together
from synthgrad.engines.replicas import Replicas, mesh_of
from synthgrad.engines.transport import ProcessTransport

__all__ = ["DistributedEngine"]

TOLD = 1024  # bytes of what a rank tells all others


class DistributedEngine:
    """Runs this rank's stages of a plan, step by step. Making it is collective: all ranks make it, of equal models.

    Every rank calls `step`, `flush` and `gather` equally often, and with the same batches. After an error it is of no
    more use: what was under way between the ranks is lost.

    Where there are some times as many ranks as the plan has, each of its ranks is a place that several processes hold,
    replicas of each other, and each replica trains on its own rows of every batch; see `Replicas`.

    Args:
        stages: of the whole plan, in order; those of other ranks are not run.
        plan: of these stages, validated; `plan.ranks` says who runs which.
        observe: told of every action that has ended here.
        timeout: how many seconds to wait for another rank before giving up.

    Attributes:
        stages: those that this rank runs.
        place: which of the plan's ranks this process is; without replicas its own.
        replica: the number of the replica that it belongs to.
        ranks: for each stage the process that holds it in this replica.
        replicas: the processes at the same place; None if this is the only one.

    Raises:
        TransportError: the ranks differ in versions, plan or weights.
        SynthgradError: a stage of this rank is on another GPU than the process's own.
        ScheduleError: the plan cannot be run by so many processes.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        plan: Plan,
        *,
        observe: Callable[[ActionDone], None] | None = None,
        timeout: float = 300.0,
    ) -> None:
        _warn_of_restarts()
        self.rank = dist.get_rank()
        self.plan = plan
        self.whole = list(stages)
        count = _replicas_of(plan)
        self.place, self.replica = divmod(self.rank, count)
        self.stages = [stage for stage in stages if plan.ranks[stage.index] == self.place]
        self.observe = observe
        self.steps = 0  # steps done
        self.since = 0  # the step of the last flush: nothing older is pending
        self.failed: str | None = None  # why, if so
        _expect_present_device(self.stages)
        with together(f"rank {self.rank} making its engine", timeout):
            self.group: Any = dist.new_group(timeout=timedelta(seconds=timeout), backend="gloo")
            _expect_same(self.whole, plan, self.group)
            chains = [tuple(place * count + replica for place in plan.ranks) for replica in range(count)]
            edges = edges_of(sum((windows(replace(plan, ranks=ranks)) for ranks in chains), Counter()), timeout)
            self.replicas = Replicas(mesh_of(1 + max(plan.ranks), count), timeout) if count > 1 else None
        self.timeout = timeout
        self.ranks = chains[self.replica]
        self.transport = ProcessTransport(self.rank, self.ranks, edges)
        for stage in self.stages:
            stage.draws.replica = self.replica
            for learner in stage.learners:
                learner.replicas = self.replicas

    @property
    def mailbox(self) -> Mailbox:
        """What has come, or was made here, and still waits for its readers here."""
        return self.transport.mailbox

    def step(self, batch: Batch) -> Outcome:
        """Run this rank's part of one step.

        Returns:
            `loss`: of this step where the last stage is, elsewhere the newest that has arrived; it comes with
            gradients, so it is NaN before the first of them. `agreement`: of the cuts behind this rank's stages, and
            of the rows of this replica.

        Raises:
            ShapeError: fewer rows than microbatches in all replicas; nothing has changed.
            NumericalError: a value is not finite; names the stages of this rank updated before.
            TransportError: see `ProcessTransport`; or an earlier step has failed.
        """
        self._expect_working()
        open_passages(self.stages, self.plan, self.steps, self._own(batch))
        lines = self.plan.lines(self.steps, since=self.since)
        with self._telling():
            self._run(lines, digest_of_batch(batch))
            loss = self._loss()
        self.steps += 1
        return Outcome(loss, take_agreement(self.stages))

    def flush(self) -> dict[str, Agreement]:
        """Run the late actions that are still pending here, and see that all that was sent has gone.

        Before a checkpoint, and at the end; returns their agreement. Replicas then have the first one's buffers.
        """
        self._expect_working()
        late = self.plan.flush(self.steps, since=self.since)
        with self._telling():
            self._run([line_of(action, self.plan) for action in late])
        self._settle()
        self.since = self.steps
        return take_agreement(self.stages)

    def gather(self) -> None:
        """Bring all stages' weights and buffers, and the newest loss, to all ranks; collective.

        Before it, a rank holds other ranks' stages as they were at the last one, or at the start.
        """
        self._expect_working()
        self._settle()
        news = torch.tensor(self.transport.news, dtype=torch.float64)
        with together(f"rank {self.rank}, step {self.steps}, gathering", self.timeout):
            for stage in self.whole:
                for tensor in _state(stage):
                    self._bring(tensor, stage.index)
            self._bring(news, self.plan.last)
        step, loss = news.tolist()
        self.transport.tell(News(int(step), loss))

    def resume(self, steps: int, news: News) -> None:
        """Go on as after so many steps and a flush; nothing may be under way."""
        self.steps = self.since = steps
        self.transport.tell(news)

    def tell_all(self, text: str) -> list[str]:
        """What each rank has to tell, the first kilobyte of it; collective."""
        told = text.encode()[:TOLD].ljust(TOLD, b"\0")
        found = [torch.empty(TOLD, dtype=torch.uint8) for _ in range(dist.get_world_size())]
        with together(f"rank {self.rank}, step {self.steps}, hearing of all ranks", self.timeout):
            dist.all_gather(found, torch.frombuffer(bytearray(told), dtype=torch.uint8), self.group)
        return [bytes(one.tolist()).rstrip(b"\0").decode(errors="replace") for one in found]

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def news(self) -> News:
        """The newest loss that has come."""
        return self.transport.news

    def _bring(self, tensor: Tensor, stage: int) -> None:
        """From the first replica's process that holds the stage to all that do not hold it."""
        value = tensor.cpu().contiguous()
        dist.broadcast(value, self.ranks[stage] - self.replica, self.group)
        if self.plan.ranks[stage] != self.place:
            tensor.copy_(value)

    def abandon(self) -> None:
        """Give up what is under way, and tell the other ranks; the engine is of no more use."""
        self._give_up("abandoned by its user")

    def close(self) -> None:
        """Give the process groups back, when all that was sent has gone; `dist.destroy_process_group()` does so too."""
        if self.failed is None:
            self.transport.settle()
            self.failed = "closed"
        ends = [*self.transport.outgoing.values(), *self.transport.incoming.values()]
        meshes = [] if self.replicas is None else self.replicas.groups
        for group in [self.group, *meshes, *(end.edge.group for end in ends)]:
            dist.destroy_process_group(group)

    def _own(self, batch: Batch) -> list[Batch]:
        """This replica's microbatches: of as many parts as all replicas have, those that come next to each other."""
        count = self.plan.schedule.microbatches
        parts = list(batch.split(dist.get_world_size() // (1 + max(self.plan.ranks)) * count))
        return parts[self.replica * count :][:count]

    def _run(self, lines: Sequence[Line], digest: int | None = None) -> None:
        own = [line for line in lines if self.plan.ranks[line.action.stage] == self.place]
        if self.replicas is not None:
            self.replicas.begin(self.steps, digest)
        if digest is not None:
            self.transport.begin(self.steps, digest, lines)
        with common_stream(stage.draws for stage in self.stages):
            run(own, {stage.index: stage for stage in self.stages}, self.transport, self.observe)
        if self.replicas is not None:
            self.replicas.meet()

    def _loss(self) -> Tensor:
        """Of this step and the whole batch where the last stage is; elsewhere the newest that has come."""
        if self.plan.ranks[self.plan.last] != self.place:
            return torch.tensor(self.transport.news.loss)
        loss = take_loss(self.stages[-1])
        if self.replicas is not None:
            loss = self.replicas.sum(loss)
        self.transport.tell(News(self.steps, float(loss)))
        return loss

    def _settle(self) -> None:
        """All that was sent has gone, and replicas have the same buffers."""
        self.transport.settle()
        if self.replicas is not None:
            learners = [learner for stage in self.stages for learner in stage.learners]
            self.replicas.align(self.steps, [buffer for one in learners for buffer in one.module.buffers()])

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Whatever goes wrong here, the other ranks hear of it."""
        try:
            yield
        except BaseException as error:
            self._give_up(f"{type(error).__name__}: {error}")
            raise

    def _give_up(self, reason: str) -> None:
        self.failed = reason
        self.transport.say_farewell(reason)
        if self.replicas is not None:
            self.replicas.leave()
        self.transport.mailbox.clear()
        for stage in self.stages:
            stage.abandon()

    def _expect_working(self) -> None:
        if self.failed is not None:
            raise TransportError(
                f"rank {self.rank} gave up in step {self.steps} ({self.failed}), and what was under way between the "
                f"ranks is lost; start all ranks anew, from the last checkpoint"
            )


def _replicas_of(plan: Plan) -> int:
    """How many processes hold each place of the plan."""
    world, places = dist.get_world_size(), 1 + max(plan.ranks)
    if world % places:
        raise ScheduleError(f"{world} processes for a plan of {places} ranks: expected {places}, or a multiple of it")
    remembering = [number for number, one in enumerate(plan.stages) if "index" in one.needs]
    if world > places and remembering:
        raise ScheduleError(
            f"{world} processes for {places} places: the synthesizer of stage {remembering[0]} goes by the examples' "
            f"numbers, and would find an example in another replica at each visit; start {places} processes, or take a "
            f"synthesizer that needs no index"
        )
    return world // places


def _expect_present_device(stages: Sequence[Stage]) -> None:
    """Messages from a GPU arrive on the receiver's present one."""
    for stage in stages:
        devices = {parameter.device for parameter in stage.piece.module.parameters()}
        if other := [one for one in devices if one.type == "cuda" and one.index != torch.cuda.current_device()]:
            raise SynthgradError(
                f"stage {stage.index} ({stage.name}) is on {other[0]}, and this process's own GPU is "
                f"cuda:{torch.cuda.current_device()}, on which messages arrive; call "
                f'torch.cuda.set_device(int(os.environ["LOCAL_RANK"])) first, and move the model there'
            )


def _warn_of_restarts() -> None:
    """Torchrun's processes meet through one store; those it starts anew find the dead ones' addresses there."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and dist.get_rank() == 0:
        warnings.warn(
            "torchrun --max-restarts: the processes that it starts anew may wait for those that are dead, since torch "
            "2.13 keeps their addresses; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment",
            UserWarning,
            stacklevel=2,
        )


def windows(plan: Plan) -> Counter[tuple[int, int]]:
    """For each ordered pair of ranks between which something may travel, how many messages may be under way at once.

    As many as the steps send that a target may be late. With fewer, a rank could wait to send while others wait for
    what it would do after that; with so many, it has done all that they can wait for: it is a whole step further.
    """
    links = [(stage, stage + 1) for stage in range(plan.last)]
    links += [(after, before) for before, after in links]
    links += [(plan.last, stage) for stage, one in enumerate(plan.stages) if "error" in one.needs]
    ends = ((plan.ranks[source], plan.ranks[target]) for source, target in links)
    pairs = Counter(pair for pair in ends if pair[0] != pair[1])
    longest = plan.schedule.microbatches * (plan.schedule.lateness + 1)
    return Counter({pair: number * longest for pair, number in pairs.items()})


def _state(stage: Stage) -> list[Tensor]:
    """All that changes in a stage while it learns, optimizers apart; in the same order on every rank."""
    found = [parameter.detach() for parameter in stage.piece.parameters]
    for learner in stage.learners[1:]:  # no optimizer has the parameters of an average
        found += [parameter.detach() for parameter in learner.module.parameters()]
    return found + [buffer for learner in stage.learners for buffer in learner.module.buffers()]


def _all(stage: Stage) -> Iterator[Tensor]:
    """Also what does not change."""
    for learner in stage.learners:
        yield from (value for value in learner.module.state_dict().values() if isinstance(value, Tensor))


def _expect_same(stages: Sequence[Stage], plan: Plan, group: Any) -> None:
    """Raise `TransportError` where the ranks differ in what must be the same; collective."""
    schedule = f"{plan.schedule.name} {plan.schedule.text(len(plan.stages), plan.schedule.lateness + 2)}"
    declared = [
        (one.synthesizer, sorted(one.needs), sorted(one.feedback), one.input_synthesizer) for one in plan.stages
    ]
    versions = f"synthgrad {version('synthgrad')} and torch {torch.__version__}"
    same = f"install the same versions for all ranks; here they are {versions}"
    _compare({"the version of synthgrad or torch": _crc(versions)}, group, same)
    rows = {
        "the schedule": _crc(schedule),
        "the stages": _crc(f"{plan.ranks} {[stage.name for stage in stages]} {declared}"),
    }
    _compare(rows, group, "run the same script on all ranks")
    weights = {f"the initial weights of stage {s.index} ({s.name})": digest_of_tensors(_all(s)) for s in stages}
    remedy = "call torch.manual_seed with the same seed on all ranks before the model is made"
    _compare(weights, group, remedy)
    _compare({"the seed": _crc(str(stages[0].draws.seed))}, group, f"{remedy}, or give decouple(seed=...)")


def _compare(rows: dict[str, int], group: Any, remedy: str) -> None:
    mine = torch.tensor(list(rows.values()))
    found = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine, group)
    for what, place in zip(rows, range(len(mine)), strict=True):
        digests = [int(row[place]) for row in found]
        if different := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
            raise TransportError(
                f"ranks {different} differ from rank 0 in {what}: got digests "
                f"{', '.join(f'{digest:08x}' for digest in digests)}, expected the same on all; {remedy}"
            )


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())
