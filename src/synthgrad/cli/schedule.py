"""`synthgrad schedule`: look at a schedule, check one, play one on a clock. None of it needs torch."""

import gc
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from synthgrad.core.actions import Action, format_actions, parse_actions
from synthgrad.core.errors import ScheduleError
from synthgrad.core.jitter import jittered
from synthgrad.core.pipelines import (
    eager_one_f_one_b,
    gpipe,
    interleaved,
    one_f_one_b,
    pipedream_2bw,
    zero_bubble,
)
from synthgrad.core.plan import Lock, Plan, stage_locks, validate
from synthgrad.core.schedules import (
    Schedule,
    backprop,
    forward_unlocked,
    from_text,
    sporadic,
    update_unlocked,
)
from synthgrad.core.simulate import UNIT_COSTS, asked_of, simulate
from synthgrad.experiments.names import named

__all__ = ["BUILDERS", "app"]

BUILDERS: dict[str, Callable[..., Schedule]] = {
    builder.__name__: builder
    for builder in (
        backprop,
        gpipe,
        one_f_one_b,
        eager_one_f_one_b,
        interleaved,
        zero_bubble,
        pipedream_2bw,
        update_unlocked,
        forward_unlocked,
        sporadic,
    )
}
DEFAULTS = {"microbatches": 4, "p": 0.5, "ranks": 2}  # of what a builder must be told
STAGES = 4
LOGNORMAL = "lognormal"
_TOLD = ("microbatches", "delay", "ranks", "ahead", "p", "seed")


@dataclass(frozen=True)
class Source:
    """Which schedule: one that the library builds, or a text.

    Attributes:
        name: out of backprop, gpipe, one_f_one_b, eager_one_f_one_b, interleaved, zero_bubble, pipedream_2bw,
            update_unlocked, forward_unlocked, sporadic; or use --file.
        file: with a step's actions as text, such as 0F0 1F0 1B0 0B0 0U0 1U0; lines and blanks are the same.
        stages: how many stages; 4, or as many as the text names.
        microbatches: parts of the batch.
        delay: how many steps late the synthesizers may learn.
        ranks: that share the stages (interleaved).
        ahead: more forwards under way for each stage (eager_one_f_one_b, pipedream_2bw).
        p: probability that a stage takes part (sporadic).
        seed: of the draws (sporadic).
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    stages: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    microbatches: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    delay: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    ranks: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    ahead: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    p: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None

    def title(self, plan: Plan) -> str:
        """How to call it: by its file, or as it was built."""
        return plan.schedule.name if self.file is None else str(self.file)

    def plan(self, steps: int) -> Plan:
        """The schedule with stages that have what it asks of them in the first steps.

        Raises:
            ScheduleError: there is no such schedule, or it cannot be built.
        """
        if steps < 1:
            raise ScheduleError(f"steps is {steps}: expected 1 or more")
        if bool(self.name) == (self.file is not None):
            raise ScheduleError("expected the name of a schedule or --file, one of the two")
        if self.file is not None:
            return self._written(self.file, steps)
        builder = named("schedule", self.name, BUILDERS)
        taken = inspect.signature(builder).parameters
        given = {name: getattr(self, name) for name in _TOLD}
        for name, value in given.items():
            if value is not None and name not in taken:
                raise ScheduleError(f"{self.name} takes no --{name}; leave it out")
            if value is None and name in taken and taken[name].default is inspect.Parameter.empty:
                given[name] = DEFAULTS[name]
        schedule = builder(**{name: value for name, value in given.items() if value is not None})
        return _plan(schedule, STAGES if self.stages is None else self.stages, steps)

    def _written(self, file: Path, steps: int) -> Plan:
        for name in _TOLD[1:]:
            if getattr(self, name) is not None:
                raise ScheduleError(f"a schedule as text takes no --{name}; leave it out")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScheduleError(f"{file}: cannot be read ({error}); give a file of actions as text") from None
        return _plan_of(text, self.microbatches, self.stages, steps)


def _plan_of(text: str, microbatches: int | None, stages: int | None, steps: int) -> Plan:
    written = parse_actions(text)
    if not written:
        raise ScheduleError("the text names no action; expected stage, letter and microbatch, such as 0F0 0B0 0U0")
    parts = 1 + max(action.microbatch for action in written) if microbatches is None else microbatches
    if parts < 1:
        raise ScheduleError(f"microbatches={parts}: expected 1 or more")
    return _plan(from_text(text, microbatches=parts), stages or 1 + max(action.stage for action in written), steps)


def _plan(schedule: Schedule, stages: int, steps: int) -> Plan:
    if stages < 1:
        raise ScheduleError(f"stages is {stages}: expected 1 or more")
    return asked_of(schedule, stages, steps=steps)


# ---- the commands ----------------------------------------------------------------------------------------------------


def show(source: Annotated[Source, tyro.conf.arg(name="")], steps: int = 2) -> int:
    """The actions step by step, then stage by stage, and what each stage's updates wait for.

    Args:
        source: which schedule.
        steps: how many steps.
    """
    plan = source.plan(steps)
    if plan.schedule.versions == 1:  # else it is for looking at
        validate(plan, steps)
    console = Console(highlight=False)
    count = len(plan.stages)
    _print(console, plan.schedule.text(count, steps))
    _print(console, "")
    programs: list[list[Action]] = [[] for _ in plan.stages]
    for action in plan.run_of(steps):
        programs[action.stage].append(action)
    waits = stage_locks(plan, None if plan.schedule.period else steps)
    for stage, program in enumerate(programs):
        _print(console, f"stage {stage}: {format_actions(program)}   waits for {_locks(waits[stage])}")
    _print(console, "")
    _print(console, f"{source.title(plan)} waits for {_locks(frozenset().union(*waits))}")
    return 0


def check(
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")] = "",
    *,
    file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    microbatches: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
) -> int:
    """See whether a step's actions, as text, can be executed; status 2 and the first that cannot, if not.

    Args:
        text: in quotes, such as "0F0 1F0 1B0 0B0 0U0 1U0"; or use --file.
        file: with such a text.
        microbatches: parts of the batch; as many as the text names, if not given.
    """
    if bool(text.strip()) == (file is not None):
        raise ScheduleError("expected a text in quotes or --file, one of the two")
    source = Source(file=file, microbatches=microbatches)
    plan = source.plan(1) if file is not None else _plan_of(text, microbatches, None, 1)
    validate(plan)
    waits = _locks(frozenset().union(*stage_locks(plan)))
    _print(Console(highlight=False), f"Valid: {len(plan.stages)} stages, waits for {waits}.")
    return 0


def play(
    source: Annotated[Source, tyro.conf.arg(name="")],
    steps: int = 1,
    latency: float = 0.0,
    jitter: float = 0.0,
    distribution: str = LOGNORMAL,
    jitter_seed: int = 0,
) -> int:
    """Play a schedule on a clock, a worker for each rank: how long, how idle, how much is held.

    Args:
        source: which schedule.
        steps: how many steps.
        latency: of a message between two stages, in units of a forward pass; a backward pass takes two.
        jitter: standard deviation of each action's time, as a share of it; of a lognormal one, of its logarithm.
        distribution: of the jitter: lognormal, uniform, exponential (beyond a least time), or straggler (one action in
            20 takes long).
        jitter_seed: of the jitter's draws.
    """
    if not 0.0 <= latency < float("inf"):
        raise ScheduleError(f"latency is {latency}: expected 0 or more, in units of a forward pass")
    with _no_collector():
        plan = source.plan(steps)
        costs = jittered(UNIT_COSTS, jitter, jitter_seed, distribution=distribution)
        timeline = simulate(plan, steps=steps, costs=costs, links=latency)
        held = [timeline.activations_held(stage) for stage in range(len(plan.stages))]
    console = Console(highlight=False)
    varies = f", {distribution} jitter {jitter:g}" if jitter else ""
    _print(console, f"{source.title(plan)}, {len(held)} stages, {_steps(steps)}, latency {latency:g}{varies}")
    _print(console, f"makespan    {timeline.makespan:g} forward passes")
    _print(console, f"idle share  {100 * timeline.idle_share:.1f} %")
    _print(console, "activations held, in microbatches")
    for stages, most in _runs(held):
        _print(console, f"  {stages}: {most}")
    return 0


def compare(
    *,
    out: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = (Path("locking.svg"),),
    stages: int = 8,
    microbatches: int = 32,
    synthesizer: float = 0.1,
    distribution: str = LOGNORMAL,
) -> int:
    """Draw what waiting costs each schedule, against depth, latency and jitter, in one picture.

    Args:
        out: where to, ending in .svg or .png (which asks for the extra `png`).
        stages: of all panels but the first.
        microbatches: of a step; a multiple of the stages.
        synthesizer: what one costs, as a share of a stage's forward and backward pass.
        distribution: of the jitter: lognormal, uniform, exponential or straggler, as for simulate.
    """
    from synthgrad.experiments.locking import Conditions, panels
    from synthgrad.experiments.report.locking import as_png, locking_picture

    conditions = Conditions(stages, microbatches, synthesizer=synthesizer, distribution=distribution)
    if wrong := [path for path in out if path.suffix not in (".svg", ".png")]:
        raise ScheduleError(f"{wrong[0]}: expected a name that ends in .svg or .png")
    if any(path.suffix == ".png" for path in out) and find_spec("resvg_py") is None:
        raise ScheduleError("a PNG needs the package resvg_py: pip install 'synthgrad[png]', or write an .svg")
    if missing := [path for path in out if not path.absolute().parent.is_dir()]:
        raise ScheduleError(f"{missing[0]}: there is no such folder; make it, or name another file")
    picture = locking_picture(panels(conditions), conditions)
    for path in out:
        content = picture.encode() if path.suffix == ".svg" else as_png(picture)
        try:
            path.write_bytes(content)
        except OSError as error:
            raise ScheduleError(f"{path}: cannot be written ({error.strerror}); name another file") from None
        _print(Console(highlight=False), f"Wrote {path}.")
    return 0


def app() -> tyro.extras.SubcommandApp:
    """The group of commands, as tyro wants it."""
    group = tyro.extras.SubcommandApp()
    group.command(show)
    group.command(check)
    group.command(name="simulate")(play)
    group.command(compare)
    return group


# ---- as text ---------------------------------------------------------------------------------------------------------


def _print(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)  # a line stays a line, for whoever reads it further


def _locks(found: frozenset[Lock]) -> str:
    return ", ".join(lock.value for lock in Lock if lock in found) or "nothing"


def _steps(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the garbage collector: a million small tuples that all live on only keep it busy."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _runs(values: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Neighboring stages with the same value, together."""
    for value, group in groupby(range(len(values)), key=lambda stage: values[stage]):
        stages = list(group)
        yield (f"stage {stages[0]}" if len(stages) == 1 else f"stages {stages[0]}-{stages[-1]}"), value
