"""The front door: a model goes in, the same model comes out, in stages that learn without waiting for each other."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.actions import Kind
from synthgrad.core.agreement import Agreement, Alignment, Monitor
from synthgrad.core.batch import Batch, Context, Loss, call, expect_sample
from synthgrad.core.boundary import expect_gradients
from synthgrad.core.combined import eager
from synthgrad.core.errors import PartitionError, ScheduleError, SynthgradError
from synthgrad.core.factories import (
    InputSynthesizerFactory,
    Synthesizers,
    expect_answer,
    expect_factory,
    expect_outputs,
    input_synthesizers,
    synthesizers,
)
from synthgrad.core.keys import expect_free_name, keep_plain_keys
from synthgrad.core.learner import Learner, OptimizerFactory, clipped
from synthgrad.core.partition import partition
from synthgrad.core.plan import Lock, Plan, locks, validate
from synthgrad.core.probe import probe
from synthgrad.core.schedules import Schedule, backprop, update_unlocked
from synthgrad.core.stage import Stage
from synthgrad.engines.checkpoint import load_checkpoint, save_checkpoint
from synthgrad.engines.distributed import DistributedEngine
from synthgrad.engines.local import LocalEngine, Outcome
from synthgrad.engines.ranks import spread, world_size
from synthgrad.engines.replicas import expect_whole

__all__ = ["Decoupled", "decouple"]

log = logging.getLogger("synthgrad")

LRScheduleFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def decouple(
    model: nn.Module,
    *,
    at: Sequence[str],
    sample: tuple[Any, ...],
    loss: Callable[[Any, Any], Tensor] | Loss,
    optimizer: OptimizerFactory,
    synthesizer: Synthesizers = "auto",
    schedule: Schedule | None = None,
    input_synthesizer: InputSynthesizerFactory | None = None,
    synthesizer_optimizer: OptimizerFactory | None = None,
    lr_schedule: LRScheduleFactory | None = None,
    synthesizer_lr_schedule: LRScheduleFactory | None = None,
    clip: float | None = None,
    mixing: float = 1.0,
    recompute: bool = False,
    monitor: int = 200,
    timeout: float = 300.0,
    seed: int | None = None,
) -> "Decoupled":
    """Decouple a model at the outputs of some of its submodules. arXiv:1608.05343.

    One pass over the sample builds and checks everything; the model, its weights and buffers are left as they are.

    Args:
        model: any module. It is not changed: the result trains its very parameters. Those that are frozen now
            (`requires_grad`) stay so; to train them later, decouple `net.plain` anew.
        at: names of the submodules at whose outputs to cut, as in `model.named_modules()`; or `balanced_cuts(...)`.
        sample: a batch: the model's positional arguments, and last the target.
        loss: `loss(output, target)`: a mean, or one term for each example or token; see `Loss`.
        optimizer: `optimizer(parameters)`, for each stage its own.
        synthesizer: `synthesizer(shape)`, called with the shape of the activation at each cut, without the batch
            dimension; or such a factory for each name of a cut. None: gradients pass, for locked schedules. If not
            given, the task decides which (see `choice`), unless the schedule asks for none; net.synthgrad shows it, and
            the log says so.
        schedule: who does what when; `update_unlocked()` if there are synthesizers, which is the default.
        input_synthesizer: `input_synthesizer(input_shape, shape)`, for `forward_unlocked`.
        synthesizer_optimizer: as `optimizer`, for the synthesizers of both kinds; `optimizer` if not given.
        lr_schedule: `lr_schedule(optimizer)`, for each stage's optimizer; counts steps, not epochs.
        synthesizer_lr_schedule: as `lr_schedule`, for the synthesizers of both kinds; a constant rate if not given.
        clip: scale a stage's gradient down before its update, to an L2 norm of at most this: each stage by its own
            norm, since that of the whole model is known only when all have waited for each other. Synthesizers are
            not clipped.
        mixing: λ of the schedule's `B`, which injects (1-λ)·synthetic + λ·received.
        recompute: run each synthesizer a second time when its target comes, instead of holding its answer: less memory,
            more time. (A BatchNorm in a synthesizer then sees each batch twice.)
        monitor: warn where, in the mean of so many steps and of so many before, synthetic gradients point away from
            their targets; 0: do not look.
        timeout: with several processes, how many seconds one waits for another before it gives up.
        seed: of the random numbers that stages draw while they learn, for dropout; `torch.initial_seed()` if not
            given. They depend on it, the stage and the count of batches, on nothing else; and what the script draws
            does not depend on them. So masks are the same in any number of processes, and not the plain loop's.

    Where `torch.distributed` is initialized for several processes, each runs the stages of its rank: with as many ranks
    as stages one each, with fewer, neighbors together. With a multiple of the stages, several ranks hold each stage,
    and each trains it on its own rows of every batch; see docs/parallel.md. Every rank makes the whole model from the
    same seed, and calls `step`, `flush` and `gather` equally often, with the same batches, whole.

    Raises:
        PartitionError: the model cannot be cut there; the message says why, and where it could.
        ScheduleError: the schedule asks for what the stages do not have; or there are more processes than stages, and
            no multiple of them.
        ShapeError: a synthesizer's answer is not of the activation's shape, or the batch is not of one length.
        ContextError: a synthesizer needs labels that are missing or out of range; or learns from the model's output,
            and the one behind it predicts none.
        SynthgradError: a negative `monitor`, or `clip` not above 0.
        TransportError: several processes do not hold the same model and schedule.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    >>> net = decouple(model, at=["1"], sample=(x, y), loss=nn.functional.cross_entropy,
    ...                synthesizer=lambda shape: LinearSynthesizer(shape, classes=3),
    ...                optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    >>> net.step(x, target=y).loss.shape
    torch.Size([])
    """
    expect_bare(model)
    expect_sample(sample)
    for name, factory in (("optimizer", optimizer), ("synthesizer_optimizer", synthesizer_optimizer or optimizer)):
        expect_factory(name, factory, "partial(torch.optim.Adam, lr=1e-3)")
    if not 0.0 <= mixing <= 1.0:
        raise ScheduleError(f"mixing={mixing}: expected λ between 0 (synthetic alone) and 1 (received alone)")
    if synthesizer == "auto" and mixing == 1.0 and schedule is not None and not _asks(schedule, len(at) + 1):
        synthesizer = None  # gradients pass: nobody asks for anything else
    if mixing < 1.0 and synthesizer is None:
        raise ScheduleError(f"mixing={mixing}: there is nothing to mix with; give a synthesizer, or mixing=1")
    expect_free_name(model)
    *arguments, target = sample
    parts = partition(model, at=at, sample=tuple(arguments))
    learn = synthesizer_optimizer or optimizer
    at_cuts = [*_learners(synthesizers(synthesizer, parts, target), learn), None]
    predictors = [None, *_learners(input_synthesizers(input_synthesizer, parts, tuple(arguments)), learn)]
    criterion = loss if isinstance(loss, Loss) else Loss(loss)
    criterion.measure(parts.output, target, len(parts.activations[0]) if parts.activations else len(target))
    update = optimizer if clip is None else clipped(optimizer, clip)
    stages = [
        Stage(
            index,
            [*parts.names, "output"][index],
            Learner.of(piece, update, list(parameters.values())),
            synthesizer=at_cuts[index],
            input_synthesizer=predictors[index],
            loss=criterion if index == len(parts.names) else None,
            mixing=mixing,
            recompute=recompute,
            tells_output=any(learner and "output" in learner.module.feedback for learner in at_cuts[:index]),
            seed=torch.initial_seed() if seed is None else seed,
        )
        for index, (piece, parameters) in enumerate(zip(parts.pieces, parts.parameters, strict=True))
    ]
    if schedule is None:
        schedule = backprop() if synthesizer is None else update_unlocked()
    declarations = tuple(stage.declaration for stage in stages)
    plan = Plan(schedule, declarations)
    validate(plan)
    if synthesizer == "auto":
        for name, learner in zip(parts.names, at_cuts, strict=False):
            log.info("cut %r: synthesizer= was not given, taking %s", name, learner and type(learner.module).__name__)
    net = Decoupled(model, stages, plan, lr_schedule, synthesizer_lr_schedule, monitor=monitor, timeout=timeout)
    rows = len(parts.activations[0]) if parts.activations else len(target)
    index = torch.zeros(rows, dtype=torch.int64)  # the sample's examples have no numbers; any will do to try
    context = net._batch(tuple(arguments), target, None, index).context
    for stage, activation in zip(stages, parts.activations, strict=False):
        if stage.synthesizer is not None and "error" not in stage.declaration.needs:
            given = activation, context.on(activation.device)
            expect_answer(f"synthesizer at {stage.name!r}", stage.synthesizer.module, given, activation)
    error = torch.zeros_like(parts.output) if isinstance(parts.output, Tensor) else None
    expect_outputs(stages, plan, parts.activations, replace(context, error=error))
    return net


def expect_bare(model: nn.Module) -> None:
    """Raise `PartitionError` where something is wrapped around the model that the stages could not go on without."""
    if isinstance(model, Decoupled):
        raise PartitionError("the model is decoupled already; pass net.plain to cut it anew")
    if hasattr(model, "_orig_mod"):
        raise PartitionError("the model is compiled as a whole; pass it as it was, and compile its layers in place")
    if isinstance(model, nn.DataParallel):
        raise PartitionError("the model is wrapped in DataParallel, which copies it in every pass; pass model.module")
    expect_whole(model)


class Decoupled(nn.Module):
    """A model in stages that learn on their own; made by `decouple`.

    Called, it is the plain model. Its `state_dict` has the plain model's keys, and `synthgrad.*` for what stands at
    the cuts: the plain model's file loads into it with `strict=False`.

    With several processes each trains its own stages only: called, probed or saved, the model is whole after `gather`.

    Attributes:
        plain: the model, the very object that was given.
        stages: its stages, in order.
        plan: the schedule, with what the stages declare.
        engine: runs the plan; one process alone runs it eagerly, which changes nothing but memory.
        monitor: warns of synthetic gradients that point away from their targets.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: list[Stage],
        plan: Plan,
        lr_schedule: LRScheduleFactory | None = None,
        synthesizer_lr_schedule: LRScheduleFactory | None = None,
        *,
        monitor: int = 0,
        timeout: float = 300.0,
    ) -> None:
        super().__init__()
        self.plain = model
        self.synthgrad = _at_cuts(stages)
        self.stages, self.plan = stages, plan
        self.engine = _engine(stages, plan, timeout)
        self.monitor = Monitor(monitor)
        self.lr_schedulers = [
            schedule(learner.optimizer)
            for stage in self.engine.stages
            for learner in stage.learners
            if learner.optimizer is not None
            if (schedule := lr_schedule if learner is stage.piece else synthesizer_lr_schedule) is not None
        ]
        keep_plain_keys(self)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The plain model's output: no synthesizer runs, and gradients pass through every cut."""
        return self.plain(*inputs, **kwargs)

    def step(
        self, *inputs: Any, target: Any, labels: Tensor | None = None, index: Tensor | None = None, **keywords: Any
    ) -> Outcome:
        """Every stage learns from a batch, as the schedule says.

        Args:
            inputs: the model's positional arguments; the first dimension of their tensors is the batch.
            target: for the loss, with a row for each example.
            labels: (B,) or (B, T), for the synthesizers; the target, if not given.
            index: (B,) each example's number in the data set, for synthesizers that need it.
            keywords: further arguments of the model, by name. Those that it calls target, labels or index go into
                `Keywords`, behind the inputs.

        Returns:
            `loss`, the mean loss of the batch, a scalar without a graph: there is nothing left to call `backward` on;
            and `agreement` at each cut. With several processes: the loss where the last stage is, elsewhere the newest
            that has come, NaN before the first; the agreement of one's own stages, and of one's own rows of the batch.

        Raises:
            ContextError, ShapeError: something is missing or does not fit; nothing has changed.
            SynthgradError: gradients are switched off, or float16 would lose them; a keyword that the model does not
                take, or that may be meant for it or for the synthesizers; or, when the step is done, a mode (`train`,
                `eval`) that was changed in its middle.
            NumericalError: a value is not finite; raised before the faulty stage's update (on a GPU, at the end of the
                step), naming the stages updated before. The step is given up, pending lessons included.
        """
        expect_gradients(next(self.plain.parameters(), torch.empty(0)))
        mode = self.plain.training
        outcome = self.engine.step(self._batch(inputs, target, labels, index, keywords))
        if self.plain.training is not mode:
            was, now = ("train", "eval") if mode else ("eval", "train")
            raise SynthgradError(
                f"step: the model was put from {was} into {now} mode in the middle of the step, by the loss or a hook, "
                f"so its stages learned in different modes; call net.train() and net.eval() between two steps"
            )
        with warnings.catch_warnings() if self.engine.steps == 1 else nullcontext():
            if self.engine.steps == 1:  # torch warns at the first step of a stage that the schedule has skipped
                warnings.simplefilter("ignore", UserWarning)
            for scheduler in self.lr_schedulers:
                scheduler.step()
        self.monitor.see(outcome.agreement)  # last: whoever has warnings raised finds the step done
        return outcome

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Decoupled":
        """As `nn.Module`, for `to` and the like; what optimizers remember, and what is pending, comes along."""
        before = [(one.device, one.dtype) for one in self.parameters()]
        super()._apply(fn, recurse)
        if before != [(one.device, one.dtype) for one in self.parameters()]:
            for stage in self.engine.stages:
                stage.follow(fn)
            products = self.engine.mailbox.products
            products.update(pytree.tree_map_only(Tensor, fn, dict(products)))
        return self

    def probe(
        self, *inputs: Any, target: Any, labels: Tensor | None = None, index: Tensor | None = None, **keywords: Any
    ) -> dict[str, Alignment]:
        """For each cut, how well the synthetic gradient aligns with the true one; arguments as in `step`.

        Costs a full pass. Weights, gradients, buffers and the random state are left as they were.
        """
        return probe(self.stages, self._batch(inputs, target, labels, index, keywords))

    def flush(self) -> dict[str, Agreement]:
        """Learn what is still pending (with `delay` above 0), before a checkpoint and at the end."""
        return self.engine.flush()

    def gather(self) -> None:
        """Bring all stages' current weights and buffers to all processes, which must all call it; optimizers stay.

        Before it, a process holds the other ones' stages as they were at the last call, or at the start.
        """
        self.engine.gather()

    def save(self, folder: str | Path, *, extra: Any = None, keep: int = 2) -> Path:
        """Save all that it takes to go on from here, as a new checkpoint in the folder. All processes call it.

        Pending lessons are learned first (`flush`). So a run that was killed and resumed ends, bit for bit, as one that
        saved as often and was not killed: weights, optimizers, learning-rate schedules, what synthesizers remember,
        random numbers. Python's and numpy's own random state are left out.

        Args:
            folder: that all processes see; each checkpoint is a folder in it.
            extra: of the script, say its place in the data: None, numbers, strings, tensors, and lists, tuples and
                dicts of them; the same in all processes.
            keep: how many of the latest checkpoints stay.

        Returns:
            The checkpoint's own folder.

        Raises:
            CheckpointError: it could not be written; the one before is as it was, and training can go on.
            TransportError: another process is gone, or does not come.
        """
        return save_checkpoint(self, folder, extra, keep)

    def load(self, folder: str | Path) -> Any:
        """Go on from the newest checkpoint in the folder; does nothing if there is none yet.

        In as many processes as one likes, whatever their number when it was saved; they all call it.

        Returns:
            The `extra` of the script; None if there is no checkpoint.

        Raises:
            CheckpointError: it is not whole, or of another model; nothing has changed.
            TransportError: another process is gone, or does not come.
        """
        return load_checkpoint(self, folder)

    @property
    def locks(self) -> frozenset[Lock]:
        """What updates wait for, computed from the plan."""
        return locks(self.plan)

    def _batch(
        self,
        inputs: tuple[Any, ...],
        target: Any,
        labels: Tensor | None,
        index: Tensor | None,
        keywords: dict[str, Any] | None = None,
    ) -> Batch:
        inputs = call(self.plain, inputs, keywords or {}, labels=labels, index=index)
        if labels is None and isinstance(target, Tensor):
            labels = target
        last = self.stages[-1].loss
        assert last is not None
        batch = Batch.of(inputs, target, Context(labels, index), last)
        for stage in self.stages:
            if stage.synthesizer is not None:
                stage.synthesizer.module.check(batch.context)
        return batch


def _engine(stages: list[Stage], plan: Plan, timeout: float) -> LocalEngine | DistributedEngine:
    if (world := world_size()) > 1:
        return DistributedEngine(stages, replace(plan, ranks=spread(len(stages), world)), timeout=timeout)
    return LocalEngine(stages, replace(plan, schedule=eager(plan.schedule)))


# ---- what stands at the cuts -----------------------------------------------------------------------------------------


def _asks(schedule: Schedule, stages: int) -> bool:
    """Whether the schedule, or one that it is put together from, has anybody ask a synthesizer in its first steps."""
    asked = any(action.kind is Kind.S for step in range(8) for action in schedule.actions(stages, step))
    return asked or any(_asks(part, stages) for part in schedule.parts)


def _learners(modules: Iterable[nn.Module | None], optimizer: OptimizerFactory) -> list[Learner | None]:
    return [None if module is None else Learner.of(module, optimizer) for module in modules]


def _at_cuts(stages: list[Stage]) -> nn.ModuleDict:
    """What stands at the cuts, by its name and kind, with `/` for `.`: a module's name has no dots."""
    found = nn.ModuleDict()
    for before, after in zip(stages, stages[1:], strict=False):
        for kind, learner in (("gradient", before.synthesizer), ("input", after.input_synthesizer)):
            if learner is not None:
                found[f"{before.name.replace('.', '/')}/{kind}"] = learner.module
    return found
