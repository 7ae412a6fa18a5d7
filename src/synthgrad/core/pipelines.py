"""Pipelines of the literature: a batch in microbatches, of which several are under way.

    gpipe(2)                     0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1   all forward, then all backward
    one_f_one_b(2)               0F0 0F1 1F0 1B0 0B0 1F1 1B1 0B1   as early backward as can be: fewer activations held
    eager_one_f_one_b(4)         more forwards under way, so that slow links are waited for less
    interleaved(2, ranks=2)      four stages, 0 and 2 on one rank, 1 and 3 on the other
    zero_bubble(2)               0F0 1F0 0F1 1I0 0I0 1F1 0W0 1I1 ..   B in two halves, W where a rank would wait
    pipedream_2bw(2)             F of the next batch before B of this one: never empty, but on old weights

Most are worked out as one program for each rank; a program says in which order, and `_listed` puts them together.
"""

from collections.abc import Iterator
from itertools import chain

from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError
from synthgrad.core.schedules import Schedule, at_least, microbatches_of

__all__ = ["eager_one_f_one_b", "gpipe", "interleaved", "one_f_one_b", "pipedream_2bw", "zero_bubble"]


def gpipe(microbatches: int) -> Schedule:
    """Back-propagation in microbatches: all forward, then all backward. Huang et al. 2019, arXiv:1811.06965.

    Raises:
        ScheduleError: fewer microbatches than one.
    """
    at_least("gpipe: microbatches", microbatches, 1)

    def order(stages: int, step: int) -> list[Action]:
        parts = microbatches_of(step, microbatches)
        forward = [Action(stage, Kind.F, part) for part in parts for stage in range(stages)]
        backward = [Action(stage, Kind.B, part) for part in parts for stage in reversed(range(stages))]
        return forward + backward + [Action(stage, Kind.U, parts[-1]) for stage in range(stages)]

    return Schedule(f"gpipe({microbatches})", order, microbatches, period=1)


def one_f_one_b(microbatches: int) -> Schedule:
    """Back-propagation in microbatches, one forward one backward. Narayanan et al. 2019 (PipeDream), arXiv:1806.03377.

    Stage k of P runs P-k forwards ahead, then alternates; so it holds at most P-k activations. With one tick for
    either, B of microbatch m ends up at tick 2P-1-k+2m, and the F that follows B of microbatch m-(P-k) at tick k+2m.

    Raises:
        ScheduleError: fewer microbatches than one.
    """
    at_least("one_f_one_b: microbatches", microbatches, 1)

    def order(stages: int, step: int) -> list[Action]:
        ticks: list[tuple[int, Action]] = []
        for stage in range(stages):
            for index, part in enumerate(microbatches_of(step, microbatches)):
                ahead = index < stages - stage
                ticks.append((stage + index if ahead else stage + 2 * index, Action(stage, Kind.F, part)))
                ticks.append((2 * stages - 1 - stage + 2 * index, Action(stage, Kind.B, part)))
        last = (step + 1) * microbatches - 1
        return [action for _, action in sorted(ticks)] + [Action(stage, Kind.U, last) for stage in range(stages)]

    return Schedule(f"one_f_one_b({microbatches})", order, microbatches, period=1)


def eager_one_f_one_b(microbatches: int, *, ahead: int = 1) -> Schedule:
    """As `one_f_one_b`, with more forwards under way, for slow links. Zhuang et al. 2022, arXiv:2211.05322.

    For every stage behind it, a stage runs 1 + ahead forwards before its first backward; one_f_one_b runs one. A round
    trip of a message then has the time of `ahead` microbatches more, and as many more activations are held.

    Raises:
        ScheduleError: fewer microbatches than one, or `ahead` below 0.
    """
    name = f"eager_one_f_one_b({microbatches}, ahead={ahead})"
    if microbatches < 1 or ahead < 0:
        raise ScheduleError(f"{name}: expected at least 1 microbatch, and ahead of 0 or more")

    def order(stages: int, step: int) -> list[Action]:
        programs = []
        for stage in range(stages):
            forward, backward = ([Action(stage, kind, m) for m in range(microbatches)] for kind in (Kind.F, Kind.B))
            programs.append(_alternating(forward, backward, (stages - 1 - stage) * (1 + ahead)))
        return _listed(programs, stages, step, microbatches)

    return Schedule(name, order, microbatches, period=1)


def _alternating(forward: list[Action], backward: list[Action], ahead: int) -> list[Action]:
    """So many forwards, then one forward one backward, then the backwards that are left."""
    ahead = min(ahead, len(forward))
    paired = zip(forward[ahead:], backward, strict=False)
    return [*forward[:ahead], *chain.from_iterable(paired), *backward[len(forward) - ahead :]]


def interleaved(microbatches: int, *, ranks: int) -> Schedule:
    """One forward one backward with several stages on a rank. Narayanan et al. 2021, arXiv:2104.04473, section 2.2.

    Stage s stands on rank s % ranks. A microbatch goes round the ranks once for each stage
    that a rank has; a rank does `ranks` microbatches at one stage, then as many at its next. So the pipeline fills
    sooner, for more messages and more activations.

    Raises:
        ScheduleError: microbatches that are no multiple of the ranks; asked for stages that are none.
    """
    name = f"interleaved({microbatches}, ranks={ranks})"
    if ranks < 1 or microbatches < 1 or microbatches % ranks:
        raise ScheduleError(
            f"{name}: expected microbatches in groups of as many as there are ranks; use {ranks}, {2 * ranks} and so on"
        )

    def order(stages: int, step: int) -> list[Action]:
        if stages % ranks:
            raise ScheduleError(f"{name}: got {stages} stages, expected a multiple of the {ranks} ranks")
        programs = [_interleaved(rank, ranks, stages // ranks, microbatches) for rank in range(ranks)]
        return _listed(programs, stages, step, microbatches)

    return Schedule(name, order, microbatches, period=1, ranks=ranks)


def _interleaved(rank: int, ranks: int, chunks: int, microbatches: int) -> list[Action]:
    forward, backward = [], []
    for group in range(0, microbatches, ranks):
        for chunk in range(chunks):
            for part in range(group, group + ranks):
                forward.append(Action(chunk * ranks + rank, Kind.F, part))
                backward.append(Action((chunks - 1 - chunk) * ranks + rank, Kind.B, part))
    once = ranks - 1 - rank
    return _alternating(forward, backward, once if chunks == 1 else 2 * once + (chunks - 1) * ranks)


def zero_bubble(microbatches: int) -> Schedule:
    """B in two halves: W, for which nobody waits, fills the gaps. ZB-H1 of Qi et al. 2023, arXiv:2401.10241, section 2.

    As many forwards ahead as in `one_f_one_b`, and W of stage k comes k microbatches behind its I: so every stage holds
    as many activations as the first one of `one_f_one_b`. Raises `ScheduleError` where there is no microbatch.
    """
    if microbatches < 1:
        raise ScheduleError(f"zero_bubble: microbatches={microbatches}: expected a whole number of at least 1")

    def order(stages: int, step: int) -> list[Action]:
        programs = [_zero_bubble(stage, stages, microbatches) for stage in range(stages)]
        return _listed(programs, stages, step, microbatches)

    return Schedule(f"zero_bubble({microbatches})", order, microbatches, period=1)


def _zero_bubble(stage: int, stages: int, microbatches: int) -> list[Action]:
    ahead = min(stages - stage, microbatches)
    program = [Action(stage, Kind.F, part) for part in range(ahead)]
    for part in range(microbatches):
        program.append(Action(stage, Kind.I, part))
        if part >= stage:
            program.append(Action(stage, Kind.W, part - stage))
        if part + ahead < microbatches:
            program.append(Action(stage, Kind.F, part + ahead))
    return program + [Action(stage, Kind.W, part) for part in range(max(0, microbatches - stage), microbatches)]


def pipedream_2bw(microbatches: int, *, ahead: int = 0) -> Schedule:
    """One forward one backward that never drains. PipeDream-2BW, Narayanan et al. 2020, arXiv:2006.09503, section 3.

    A stage goes on to the next batch while this one's backward passes come back, on the weights from before the update;
    so it holds two versions of its weights, and every gradient is one update old. To be simulated only: a stage of ours
    has its weights once. With `ahead` more forwards are under way, as in `eager_one_f_one_b`.

    Raises:
        ScheduleError: no microbatch; asked for so many stages that more than a step's microbatches would be under way,
            where two versions do not suffice.
    """
    name = f"pipedream_2bw({microbatches}{f', ahead={ahead}' if ahead else ''})"
    if microbatches < 1 or ahead < 0:
        raise ScheduleError(f"{name}: expected at least 1 microbatch, and ahead of 0 or more")

    def order(stages: int, step: int) -> list[Action]:
        if (under_way := 1 + (stages - 1) * (1 + ahead)) > microbatches:
            raise ScheduleError(
                f"{name}: with {stages} stages {under_way} microbatches are under way, expected no more than the "
                f"{microbatches} of a step; use more of them, or fewer stages"
            )
        actions: list[Action] = []
        for stage in range(stages):
            before = (stages - 1 - stage) * (1 + ahead)
            for part in range(step * microbatches, (step + 1) * microbatches):
                actions += [Action(stage, Kind.F, part), Action(stage, Kind.B, part - before)]
                if (part - before + 1) % microbatches == 0:
                    actions.append(Action(stage, Kind.U, part - before))
        return actions

    return Schedule(name, order, microbatches, lateness=1, period=1, versions=2)


def _listed(programs: list[list[Action]], stages: int, step: int, microbatches: int) -> list[Action]:
    """The programs as one list that can be carried out as it stands, then the updates."""
    done: set[Action] = set()
    actions = list(_merged(programs, stages, done))
    actions += [Action(stage, Kind.U, microbatches - 1) for stage in range(stages)]
    return [action._replace(microbatch=action.microbatch + step * microbatches) for action in actions]


def _merged(programs: list[list[Action]], stages: int, done: set[Action]) -> Iterator[Action]:
    """Round by round, from every program one action whose pass has come from the neighbor; W waits for nobody."""
    waiting = [list(reversed(program)) for program in programs]
    while any(waiting):
        for program in waiting:
            if program and _comes_from(program[-1], stages) <= done:
                done.add(program[-1])
                yield program.pop()


def _comes_from(action: Action, stages: int) -> set[Action]:
    stage, kind, microbatch = action
    if kind is Kind.F and stage > 0:
        return {Action(stage - 1, Kind.F, microbatch)}
    if kind in (Kind.B, Kind.I) and stage < stages - 1:
        return {Action(stage + 1, kind, microbatch)}
    return {Action(stage, Kind.F, microbatch)} if kind in (Kind.B, Kind.I) else set()
