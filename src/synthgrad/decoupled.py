"""The front door: a model goes in, the same model comes out, in stages that learn without waiting for each other."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from synthgrad.core.actions import Kind
from synthgrad.core.agreement import Agreement, Alignment, Monitor
from synthgrad.core.batch import Batch, Context, Loss
from synthgrad.core.errors import PartitionError, ScheduleError, ShapeError
from synthgrad.core.partition import Partition, partition
from synthgrad.core.plan import Lock, Plan, locks, validate
from synthgrad.core.preserve import call_preserved, random_preserved
from synthgrad.core.probe import probe
from synthgrad.core.schedules import Schedule, backprop, eager, update_unlocked
from synthgrad.core.stage import Learner, Stage
from synthgrad.core.synthesizers import InputSynthesizer, Synthesizer, choice
from synthgrad.engines.distributed import DistributedEngine, spread, world_size
from synthgrad.engines.local import LocalEngine, Outcome

__all__ = ["Decoupled", "decouple"]

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SynthesizerFactory = Callable[[tuple[int, ...]], Synthesizer]
InputSynthesizerFactory = Callable[[tuple[int, ...], tuple[int, ...]], InputSynthesizer]
log = logging.getLogger("synthgrad")
CUTS = "synthgrad"  # what stands at the cuts is saved under this name

LRScheduleFactory = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def decouple(
    model: nn.Module,
    *,
    at: Sequence[str],
    sample: tuple[Any, ...],
    loss: Callable[[Any, Any], Tensor] | Loss,
    optimizer: OptimizerFactory,
    synthesizer: SynthesizerFactory | Mapping[str, SynthesizerFactory] | Literal["auto"] | None = "auto",
    schedule: Schedule | None = None,
    input_synthesizer: InputSynthesizerFactory | None = None,
    synthesizer_optimizer: OptimizerFactory | None = None,
    lr_schedule: LRScheduleFactory | None = None,
    mixing: float = 1.0,
    recompute: bool = False,
    monitor: int = 200,
    timeout: float = 300.0,
) -> "Decoupled":
    """Decouple a model at the outputs of some of its submodules. arXiv:1608.05343.

    One pass over the sample builds and checks everything; the model, its weights and buffers are left as they are.

    Args:
        model: any module. It is not changed: the result trains its very parameters.
        at: names of the submodules at whose outputs to cut, as in `model.named_modules()`.
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
        mixing: λ of the schedule's `B`, which injects (1-λ)·synthetic + λ·received.
        recompute: run each synthesizer a second time when its target comes, instead of holding its answer: less memory,
            more time. (A BatchNorm in a synthesizer then sees each batch twice.)
        monitor: warn where, in the mean of so many steps and of so many before, synthetic gradients point away from
            their targets; 0: do not look.
        timeout: with several processes, how many seconds one waits for another before it gives up.

    Where `torch.distributed` is initialized for several processes, each runs the stages of its rank: with as many ranks
    as stages one each, with fewer, neighbors together. Every rank makes the whole model from the same seed, and calls
    `step`, `flush` and `gather` equally often, with the same batches.

    Raises:
        PartitionError: the model cannot be cut there; the message says why, and where it could.
        ScheduleError: the schedule asks for what the stages do not have; or there are more processes than stages.
        ShapeError: a synthesizer's answer is not of the activation's shape, or the batch is not of one length.
        ContextError: a synthesizer needs labels that are missing or out of range.
        SynthgradError: a negative `monitor`.
        TransportError: several processes do not hold the same model and schedule.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    >>> net = decouple(model, at=["1"], sample=(x, y), loss=nn.functional.cross_entropy,
    ...                synthesizer=lambda shape: LinearSynthesizer(shape, classes=3),
    ...                optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    >>> net.step(x, target=y).loss.shape
    torch.Size([])
    """
    if isinstance(model, Decoupled):
        raise PartitionError("the model is decoupled already; pass net.plain to cut it anew")
    if len(sample) < 2:
        raise ShapeError(f"sample: got {len(sample)} values, expected the model's arguments and, last, the target")
    if not 0.0 <= mixing <= 1.0:
        raise ScheduleError(f"mixing={mixing}: expected λ between 0 (synthetic alone) and 1 (received alone)")
    if synthesizer == "auto" and mixing == 1.0 and schedule is not None and not _asks(schedule, len(at) + 1):
        synthesizer = None  # gradients pass: nobody asks for anything else
    if mixing < 1.0 and synthesizer is None:
        raise ScheduleError(f"mixing={mixing}: there is nothing to mix with; give a synthesizer, or mixing=1")
    if any(name == CUTS or name.startswith(f"{CUTS}.") for name in model.state_dict()):
        raise PartitionError(f"the model has a member {CUTS!r}, under which its synthesizers are saved; rename it")
    *arguments, target = sample
    parts = partition(model, at=at, sample=tuple(arguments))
    learn = synthesizer_optimizer or optimizer
    factories = choice(parts.output, target) if synthesizer == "auto" else synthesizer
    synthesizers = _synthesizers(factories, parts, learn)
    predictors = _input_synthesizers(input_synthesizer, parts, tuple(arguments), learn)
    criterion = loss if isinstance(loss, Loss) else Loss(loss)
    criterion.measure(parts.output, target, len(parts.activations[0]) if parts.activations else len(target))
    stages = [
        Stage(
            index,
            [*parts.names, "output"][index],
            _learner(piece, optimizer, list(parameters.values())),
            synthesizer=synthesizers[index],
            input_synthesizer=predictors[index],
            loss=criterion if index == len(parts.names) else None,
            mixing=mixing,
            recompute=recompute,
            tells_output=any(learner and "output" in learner.module.feedback for learner in synthesizers[:index]),
        )
        for index, (piece, parameters) in enumerate(zip(parts.pieces, parts.parameters, strict=True))
    ]
    if schedule is None:
        schedule = backprop() if synthesizer is None else update_unlocked()
    declarations = tuple(stage.declaration for stage in stages)
    plan = Plan(schedule, declarations)
    validate(plan)
    if synthesizer == "auto":
        for name, learner in zip(parts.names, synthesizers, strict=False):
            log.info("cut %r: synthesizer= was not given, taking %s", name, learner and type(learner.module).__name__)
    net = Decoupled(model, stages, plan, lr_schedule, monitor=monitor, timeout=timeout)
    rows = len(parts.activations[0]) if parts.activations else len(target)
    index = torch.zeros(rows, dtype=torch.int64)  # the sample's examples have no numbers; any will do to try
    context = net._batch(tuple(arguments), target, None, index).context
    for stage, activation in zip(stages, parts.activations, strict=False):
        if stage.synthesizer is not None and "error" not in stage.declaration.needs:
            _try(f"synthesizer at {stage.name!r}", stage.synthesizer.module, (activation, context), activation)
    return net


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
        optimizers = [stage.piece.optimizer for stage in self.engine.stages if stage.piece.optimizer is not None]
        self.lr_schedulers = [lr_schedule(optimizer) for optimizer in optimizers] if lr_schedule else []
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The plain model's output: no synthesizer runs, and gradients pass through every cut."""
        return self.plain(*inputs, **kwargs)

    def step(self, *inputs: Any, target: Any, labels: Tensor | None = None, index: Tensor | None = None) -> Outcome:
        """Every stage learns from a batch, as the schedule says.

        Args:
            inputs: the model's positional arguments; the first dimension of their tensors is the batch.
            target: for the loss, with a row for each example.
            labels: for the synthesizers; the target, if not given.
            index: each example's number in the data set, for synthesizers that need it.

        Returns:
            `loss`, the mean loss of the batch, and `agreement` at each cut. With several processes: the loss where the
            last stage is, elsewhere the newest that has come, NaN before the first; the agreement of one's own stages.

        Raises:
            ContextError, ShapeError: something is missing or does not fit; nothing has changed.
            NumericalError: a value is not finite; raised before the faulty stage's update (on a GPU, at the end of the
                step), naming the stages updated before. The step is given up, pending lessons included.
        """
        outcome = self.engine.step(self._batch(inputs, target, labels, index))
        with warnings.catch_warnings() if self.engine.steps == 1 else nullcontext():
            if self.engine.steps == 1:  # torch warns at the first step of a stage that the schedule has skipped
                warnings.simplefilter("ignore", UserWarning)
            for scheduler in self.lr_schedulers:
                scheduler.step()
        self.monitor.see(outcome.agreement)  # last: whoever has warnings raised finds the step done
        return outcome

    def probe(
        self, *inputs: Any, target: Any, labels: Tensor | None = None, index: Tensor | None = None
    ) -> dict[str, Alignment]:
        """For each cut, how well the synthetic gradient aligns with the true one; arguments as in `step`.

        Costs a full pass. Weights, gradients, buffers and the random state are left as they were.
        """
        return probe(self.stages, self._batch(inputs, target, labels, index))

    def flush(self) -> dict[str, Agreement]:
        """Learn what is still pending (with `delay` above 0), before a checkpoint and at the end."""
        return self.engine.flush()

    def gather(self) -> None:
        """Bring all stages' current weights and buffers to all processes, which must all call it; optimizers stay.

        Before it, a process holds the other ones' stages as they were at the last call, or at the start.
        """
        self.engine.gather()

    @property
    def locks(self) -> frozenset[Lock]:
        """What updates wait for, computed from the plan."""
        return locks(self.plan)

    def _batch(self, inputs: tuple[Any, ...], target: Any, labels: Tensor | None, index: Tensor | None) -> Batch:
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


def _learner(module: nn.Module, optimizer: OptimizerFactory, parameters: list[nn.Parameter] | None = None) -> Learner:
    if parameters is None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Learner(module, parameters, optimizer(parameters) if parameters else None)


def _synthesizers(
    given: SynthesizerFactory | Mapping[str, SynthesizerFactory] | None, parts: Partition, optimizer: OptimizerFactory
) -> list[Learner | None]:
    """One for each stage, the last has none."""
    if isinstance(given, Mapping) and set(given) != set(parts.names):
        raise PartitionError(f"synthesizer: got factories for {sorted(given)}, expected one for each of {parts.names}")
    found: list[Learner | None] = []
    for name, activation in zip(parts.names, parts.activations, strict=True):
        factory = given[name] if isinstance(given, Mapping) else given
        if factory is None:
            found.append(None)
            continue
        module = factory(tuple(activation.shape[1:])).to(activation.device, activation.dtype)
        found.append(_learner(module, optimizer))
    return [*found, None]


def _input_synthesizers(
    factory: InputSynthesizerFactory | None, parts: Partition, inputs: tuple[Any, ...], optimizer: OptimizerFactory
) -> list[Learner | None]:
    """One for each stage, the first has none: the batch is its input."""
    found: list[Learner | None] = [None]
    for name, activation in zip(parts.names, parts.activations, strict=True):
        if factory is None:
            found.append(None)
            continue
        module = factory(tuple(inputs[0].shape[1:]), tuple(activation.shape[1:])).to(
            activation.device, activation.dtype
        )
        _try(f"input synthesizer behind {name!r}", module, inputs, activation)
        found.append(_learner(module, optimizer))
    return found


def _try(who: str, module: nn.Module, arguments: tuple[Any, ...], activation: Tensor) -> None:
    """Raise `ShapeError` if the module does not answer with the activation's shape."""
    shape = tuple(activation.shape)
    remedy = f"build it from the shape that its factory is called with, {shape[1:]}"
    try:
        with torch.no_grad(), random_preserved([activation]):
            answer = call_preserved(module, *arguments)
    except (RuntimeError, IndexError) as error:
        raise ShapeError(f"{who}: cannot take an activation of shape {shape}: {error}; {remedy}") from error
    if answer.shape != activation.shape:
        raise ShapeError(
            f"{who}: got an answer of shape {tuple(answer.shape)}, expected {shape} as the activation; {remedy}"
        )


def _at_cuts(stages: list[Stage]) -> nn.ModuleDict:
    """What stands at the cuts, by its name and kind, with `/` for `.`: a module's name has no dots."""
    found = nn.ModuleDict()
    for before, after in zip(stages, stages[1:], strict=False):
        for kind, learner in (("gradient", before.synthesizer), ("input", after.input_synthesizer)):
            if learner is not None:
                found[f"{before.name.replace('.', '/')}/{kind}"] = learner.module
    return found


# ---- state_dict: the plain model's keys are left unchanged -----------------------------------------------------------

PLAIN = "plain."


def _without_prefix(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    for key in list(state):
        state[key.replace(prefix + PLAIN, prefix, 1) if key.startswith(prefix + PLAIN) else key] = state.pop(key)


def _with_prefix(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in list(state):
        if key.startswith(prefix) and not key.startswith(f"{prefix}{CUTS}."):
            state[f"{prefix}{PLAIN}{key[len(prefix) :]}"] = state.pop(key)
