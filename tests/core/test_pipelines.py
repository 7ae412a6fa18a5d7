"""The arithmetic of pipelines: what is known in closed form, against the clock. Whole numbers, so equality is meant."""

from collections.abc import Callable
from copy import deepcopy
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim, randint, randn
from torch.testing import assert_close

import synthgrad as sg
from synthgrad.core.actions import Action, Kind
from synthgrad.core.errors import ScheduleError
from synthgrad.core.jitter import jittered
from synthgrad.core.links import Link
from synthgrad.core.pipelines import eager_one_f_one_b, gpipe, interleaved, one_f_one_b, pipedream_2bw, zero_bubble
from synthgrad.core.plan import Declaration, Lock, Plan, locks, validate
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, update_unlocked
from synthgrad.core.simulate import UNIT_COSTS, Timeline, asked_of, simulate, simulate_replicas
from synthgrad.planning.options import break_even

LOCKED = Declaration(synthesizer=False, feedback=frozenset())
ALL = frozenset(Lock)


def locked(schedule: Schedule, stages: int) -> Plan:
    return Plan(schedule, (LOCKED,) * stages)


def unlocked(schedule: Schedule, stages: int) -> Plan:
    return Plan(schedule, (*(Declaration(),) * (stages - 1), LOCKED))


def costs_of(forward: float, inputs: float, weights: float, synthesis: float = 0) -> dict[Kind, float]:
    backward = inputs + weights
    halves = {Kind.F: forward, Kind.I: inputs, Kind.W: weights, Kind.B: backward, Kind.S: backward + synthesis}
    return {**UNIT_COSTS, **halves}


def period(schedule: Schedule, plan: Plan, *, latency: float = 0, steps: int = 32, **more: object) -> float:
    """Time per microbatch once the pipeline is full."""
    end = simulate(plan, steps=2 * steps, links=latency, **more).end  # type: ignore
    first, last = (Action(plan.last, Kind.U, n * schedule.microbatches - 1) for n in (steps, 2 * steps))
    return (end[last] - end[first]) / (steps * schedule.microbatches)


HALVES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


# ---- section 1: idle time, memory ------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), HALVES)
def test_interleaved_fills_once_for_every_chunk(
    ranks: int, groups: int, chunks: int, halves: tuple[int, int, int]
) -> None:
    """Idle (P-1)(F+B+W)/v; with times of a chunk, v is gone from it."""
    parts = groups * ranks
    plan = locked(interleaved(parts, ranks=ranks), ranks * chunks)
    validate(plan)
    assert plan.ranks == tuple(stage % ranks for stage in range(ranks * chunks))
    timeline = simulate(plan, costs=costs_of(*halves))
    assert timeline.makespan - parts * chunks * sum(halves) == (ranks - 1) * sum(halves)


@pytest.mark.parametrize(("ranks", "chunks"), [(2, 2), (4, 2), (4, 3), (8, 2)])
def test_interleaved_holds_more_on_the_first_rank(ranks: int, chunks: int) -> None:
    """P(1+(P-1)/(Pv))·a, a chunk's activations being a/v; 11.5a for P=8, v=2."""
    timeline = simulate(locked(interleaved(4 * ranks, ranks=ranks), ranks * chunks))
    held = [timeline.memory_held(rank, activation=1.0) / chunks for rank in range(ranks)]
    assert max(held) == held[0] == (ranks * chunks + ranks - 1) / chunks
    if (ranks, chunks) == (8, 2):
        assert held[0] == 11.5


@given(st.integers(1, 7), st.integers(0, 9), st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)))
def test_zero_bubble_pays_one_weight_half_less_for_each_stage(
    stages: int, more: int, halves: tuple[int, int, int]
) -> None:
    """Idle (P-1)(F+B-W), where there are as many microbatches as stages, and W is no longer than F and B."""
    forward, inputs, weights = halves
    weights = min(weights, inputs, forward)
    plan = locked(zero_bubble(stages + more), stages)
    validate(plan)
    timeline = simulate(plan, costs=costs_of(forward, inputs, weights))
    busy = (stages + more) * (forward + inputs + weights)
    assert timeline.makespan - busy == (stages - 1) * (forward + inputs - weights)
    assert [timeline.activations_held(stage) for stage in range(stages)] == [stages] * stages


@pytest.mark.parametrize("microbatches", [8, 32])
def test_zero_bubble_is_idle_for_a_third_of_what_1f1b_is(microbatches: int) -> None:
    timeline = simulate(locked(zero_bubble(microbatches), 8))  # F=B=W
    assert timeline.idle_share == pytest.approx(7 / (3 * microbatches + 7), abs=1e-15)


@given(st.integers(1, 6), st.integers(0, 3), HALVES)
def test_an_asynchronous_pipeline_idles_nothing_once_it_is_full(
    stages: int, more: int, halves: tuple[int, int, int]
) -> None:
    schedule = pipedream_2bw(stages + more)
    plan = locked(schedule, stages)
    assert period(schedule, plan, steps=4, costs=costs_of(*halves)) == sum(halves)
    timeline = simulate(plan, steps=4)
    assert [timeline.activations_held(stage) for stage in range(stages)] == list(range(stages, 0, -1))


@given(st.integers(1, 6), st.integers(1, 9), HALVES, st.integers(0, 4), st.integers(0, 5))
def test_synthetic_gradients_fill_once_and_then_pay_for_themselves(
    stages: int, steps: int, halves: tuple[int, int, int], synthesis: int, latency: int
) -> None:
    """Makespan N(F+B+W+S)+(P-1)(F+L), with targets in time; the last stage has no synthesizer, only a place in line."""
    costs = costs_of(*halves, synthesis=synthesis)
    last = {Kind.B: costs[Kind.B] + synthesis}  # so that all stages are equal, as in the formula
    plan = unlocked(update_unlocked(2 * latency + 1), stages)
    timeline = simulate(
        plan, steps=steps, links=latency, costs=lambda a: (costs | last if a.stage == stages - 1 else costs)[a.kind]
    )
    passed = max(end for action, end in timeline.end.items() if action.kind is Kind.U)
    assert passed == steps * (sum(halves) + synthesis) + (stages - 1) * (halves[0] + latency)


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_synthetic_gradients_hold_one_activation_and_the_boundaries_that_wait(delay: int) -> None:
    """1·a, plus d boundary tensors h: those of the batches whose targets are still to come, and this one's."""
    timeline = simulate(unlocked(update_unlocked(delay), 4), steps=8)
    assert timeline.memory_held(1, activation=100.0, waiting=0.0) == 100
    assert timeline.memory_held(1, activation=0.0, waiting=1.0) == delay + 1
    assert timeline.memory_held(3, activation=100.0, waiting=1.0) == 100


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_predicted_inputs_wait_for_the_real_ones(delay: int) -> None:
    """A stage of the complete unlock keeps what P predicted until Q, besides its outputs; but not the first one."""
    timeline = simulate(asked_of(forward_unlocked(delay), 4), steps=8)
    assert timeline.memory_held(0, activation=0.0, waiting=1.0) == delay + 1
    assert timeline.memory_held(3, activation=0.0, waiting=1.0) == delay + 1  # no T at the end
    sizes = [1.0, 10.0, 100.0, 1000.0]
    # Of stage 2: its own outputs, and predictions of stage 1's. S adds one of the former when F has made way for it.
    assert timeline.memory_held(2, activation=0.0, waiting=sizes) == (delay + 1) * (100.0 + 10.0)


# ---- section 2: what may be claimed ----------------------------------------------------------------------------------


@given(st.integers(2, 8), st.integers(1, 4), HALVES, st.integers(0, 20))
def test_throughput_breaks_even_where_it_is_said_to(
    stages: int, groups: int, halves: tuple[int, int, int], synthesis: int
) -> None:
    """Fact 1: S/(F+B+W) < (P-1)/M, against GPipe and 1F1B; (P-1)(F+B-W)/(M(F+B+W)) against ZB-H1; 0 against 2BW."""
    parts = stages * groups
    forward, inputs, weights = halves
    weights = min(weights, inputs, forward)
    work = forward + inputs + weights
    costs = costs_of(forward, inputs, weights, synthesis)
    every = costs | {Kind.B: costs[Kind.S]}  # all stages equal
    schedule = update_unlocked(1)
    ours = parts * period(schedule, unlocked(schedule, stages), steps=3 * stages, costs=every)
    assert ours == parts * (work + synthesis)
    gaps: dict[Callable[[int], Schedule], float] = {
        gpipe: 1.0,
        one_f_one_b: 1.0,
        zero_bubble: (forward + inputs - weights) / work,
        pipedream_2bw: 0.0,
    }
    for builder, gap in gaps.items():
        theirs = parts * period(builder(parts), locked(builder(parts), stages), steps=3, costs=costs)
        wins = synthesis / work < break_even(stages, parts, gap=gap) - 1e-12
        assert wins == (ours < theirs)


@pytest.mark.parametrize(("stages", "parts", "bar"), [(4, 16, 18.8), (8, 32, 21.9), (8, 8, 87.5)])
def test_the_bars_of_the_page(stages: int, parts: int, bar: float) -> None:
    assert 100 * break_even(stages, parts) == pytest.approx(bar, abs=0.051)
    assert 100 * break_even(8, 32, gap=1 / 3) == pytest.approx(7.3, abs=0.05)


@pytest.mark.parametrize("stages", [2, 4, 8])
@pytest.mark.parametrize("latency", [0, 1, 2])
def test_latency_costs_an_asynchronous_1f1b_what_it_costs_the_other(stages: int, latency: int) -> None:
    """Fact 3: the period is F+B+W+2(P-1)L/P, also without a flush, and twice the microbatches in flight restore it."""
    schedule = pipedream_2bw(4 * stages)
    measured = period(schedule, locked(schedule, stages), latency=latency, steps=4)
    assert measured == 3 + 2 * (stages - 1) * latency / stages
    if (stages, latency) == (8, 1):
        assert measured == 4.75
    twice = pipedream_2bw(4 * stages, ahead=ceil(2 * latency / 3))
    assert period(twice, locked(twice, stages), latency=latency, steps=4) == 3
    assert simulate(locked(twice, stages), steps=3).activations_held(0) == 1 + (stages - 1) * (
        1 + ceil(2 * latency / 3)
    )


@pytest.mark.parametrize("latency", [0, 1, 4])
def test_more_forwards_ahead_make_a_locked_pipeline_as_fast_as_gpipe_and_no_slower_than_1f1b(latency: int) -> None:
    spans = [
        simulate(locked(schedule, 4), links=latency).makespan
        for schedule in (gpipe(32), eager_one_f_one_b(32, ahead=ceil(2 * latency / 3)), one_f_one_b(32))
    ]
    assert spans[0] == spans[1] <= spans[2]
    assert (spans[1] < spans[2]) == (latency > 0)
    assert simulate(locked(eager_one_f_one_b(8, ahead=0), 4)).start == simulate(locked(one_f_one_b(8), 4)).start


def test_jitter_costs_those_who_wait_more() -> None:
    """Fact 4: P=8, 400 microbatches, the same draws: 3.60 and 3.11 at 0.2, 4.50 and 3.25 at 0.5; 3.0 is ideal."""
    for deviation, waiting, free in ((0.2, 3.60, 3.11), (0.5, 4.50, 3.25)):
        costs = jittered(UNIT_COSTS, deviation, seed=1)
        alternating = simulate(locked(one_f_one_b(400), 8), costs=costs).makespan / 400
        forward_only = simulate(unlocked(update_unlocked(8), 8), steps=400, costs=costs).makespan / 400
        assert 3.0 < forward_only < alternating
        assert alternating == pytest.approx(waiting, rel=0.06)
        assert forward_only == pytest.approx(free, rel=0.06)


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_a_target_is_as_late_as_two_hops_however_deep_the_pipeline(stages: int) -> None:
    """Fact 5: it comes from the next stage alone, after its F and S: F+2L behind, F the next one's forward pass."""
    timeline = simulate(unlocked(update_unlocked(4), stages), steps=12, links=2)
    source, own = timeline.end[Action(1, Kind.S if stages > 2 else Kind.B, 3)], timeline.end[Action(0, Kind.S, 3)]
    assert source + 2 - own == 1 + 2 * 2


@pytest.mark.parametrize("latency", [0, 1, 2, 3, 5])
def test_the_delay_that_it_takes_is_two_hops_in_steps_and_the_same_at_every_depth(latency: int) -> None:
    """Fact 5: d is about 1 + 2L/(F+B+W): the T of a batch comes so many steps late that no pipeline pays for L."""
    work, least = 3, []
    for stages in (2, 4, 8):
        late = (update_unlocked(delay) for delay in range(9))
        fast = (one for one in late if period(one, unlocked(one, stages), latency=latency, steps=64) == work)
        least.append(next(fast).lateness - 1)
    assert least == [ceil(2 * latency / work)] * 3


@pytest.mark.parametrize("parts", [1, 4])
def test_as_much_travels_as_in_a_plain_pipeline(parts: int) -> None:
    """Fact 6: h down and h up for each microbatch and cut, with or without synthesizers."""
    sent: list[set[Action]] = []
    for plan in (locked(gpipe(parts), 3), unlocked(update_unlocked(microbatches=parts), 3)):
        run, found = plan.run_of(4), set()
        for action in run:
            found |= {o for o in sg.dependencies(action, plan) if plan.ranks[o.stage] != plan.ranks[action.stage]}
        sent.append(found)
        assert len(found) == 4 * parts * 2 * 2
    downs = [{action for action in found if action.kind is Kind.F} for found in sent]
    assert downs[0] == downs[1]


@given(st.integers(2, 5), st.integers(2, 4), st.integers(1, 4), st.integers(1, 9), st.integers(0, 9))
def test_replicas_exchange_the_synthesizers_gradients_besides_the_stages_own(
    stages: int, replicas: int, steps: int, own: int, synthesizers: int
) -> None:
    """Fact 6: |SG parameters| more in each stage's exchange. The first stage is never held up by anything else."""
    plan = unlocked(update_unlocked(), stages)

    def ends(exchanged: int) -> list[float]:
        timelines = simulate_replicas(
            plan, [UNIT_COSTS] * replicas, steps=steps, exchange=lambda stage: own + exchanged * (stage < stages - 1)
        )
        return [one.end[Action(0, Kind.U, steps - 1)] for one in timelines]

    assert ends(synthesizers) == [before + steps * synthesizers for before in ends(0)]
    assert ends(0) == [steps * (3 + own)] * replicas


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.lists(st.integers(0, 5), min_size=5, max_size=5))
def test_unequal_stages_run_at_the_pace_of_the_slowest_synthesizers_counted(stage: list[int], more: list[int]) -> None:
    """Fact 7: max(c_k + S_k); the last stage has no synthesizer."""
    last = len(stage) - 1

    def cost(action: Action) -> float:
        k, kind, _ = action
        return {Kind.F: stage[k], Kind.B: 2 * stage[k], Kind.S: 2 * stage[k] + more[k]}.get(kind, 0)

    schedule = update_unlocked(4)
    pace = max(3 * c + (more[k] if k < last else 0) for k, c in enumerate(stage))
    assert period(schedule, unlocked(schedule, len(stage)), steps=40, costs=cost) == pace
    drained = pipedream_2bw(len(stage))
    assert period(drained, locked(drained, len(stage)), steps=20, costs=cost) == pytest.approx(3 * max(stage))


# ---- replicas, links -------------------------------------------------------------------------------------------------


def test_replicas_wait_for_the_slowest_of_them_and_for_the_exchange() -> None:
    plan = locked(gpipe(2), 2)
    slow = {kind: 2 * cost for kind, cost in UNIT_COSTS.items()}
    timelines = simulate_replicas(plan, [UNIT_COSTS, slow], exchange=lambda stage: 10 + stage)
    for stage in range(2):
        update = Action(stage, Kind.U, 1)
        assert [one.start[update] for one in timelines] == [timelines[1].end[Action(stage, Kind.B, 1)] + 10 + stage] * 2
    (alone,) = simulate_replicas(plan, [slow])
    assert alone == simulate(plan, costs=slow)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_equal_replicas_are_as_fast_as_one_and_its_exchange(
    stages: int, steps: int, replicas: int, exchange: int
) -> None:
    plan = locked(backprop(), stages)
    timelines = simulate_replicas(plan, [UNIT_COSTS] * replicas, steps=steps, exchange=exchange)
    waits = exchange if replicas > 1 else 0
    assert {one.makespan for one in timelines} == {simulate(plan, steps=steps).makespan + steps * waits}


def test_messages_go_one_after_the_other() -> None:
    """Two forwards of 1 make two messages of 3: the second leaves when the first has, and each arrives 5 later."""
    timeline = simulate(locked(gpipe(2), 2), links=Link(latency=5, bandwidth=10), sizes=30)
    assert timeline.start[Action(1, Kind.F, 0)] == 1 + 3 + 5
    assert timeline.start[Action(1, Kind.F, 1)] == 1 + 3 + 3 + 5


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 4), st.sampled_from([1, 2, 4, 8]))
def test_more_latency_or_a_narrower_link_is_never_faster(stages: int, parts: int, latency: int, width: int) -> None:
    for plan in (locked(one_f_one_b(parts), stages), unlocked(update_unlocked(1), stages)):

        def played(link: Link, plan: Plan = plan) -> Timeline:
            return simulate(plan, steps=3, links=link, sizes=4)

        base = played(Link(latency, width))
        for worse in (Link(latency + 1, width), Link(latency, width / 2)):
            assert all(played(worse).end[action] >= end for action, end in base.end.items())
        assert played(Link(latency)).end == simulate(plan, steps=3, links=latency).end


# ---- what can be run, and what cannot --------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [zero_bubble(4), interleaved(4, ranks=2), eager_one_f_one_b(4)])
def test_those_that_hold_one_version_are_locked_and_can_be_run(schedule: Schedule) -> None:
    assert locks(locked(schedule, 4)) == ALL
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    plain, (x, y) = deepcopy(model), (randn(8, 4), randint(0, 4, (8,)))
    net = sg.decouple(
        model, at=["0", "1", "2"], sample=(x, y), loss=nn.functional.cross_entropy, synthesizer=None,
        optimizer=lambda parameters: optim.SGD(parameters, lr=1.0), schedule=schedule,
    )  # fmt: skip
    optimizer = optim.SGD(plain.parameters(), lr=1.0)
    for _ in range(3):
        net.step(x, target=y)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()
        optimizer.step()
    for own, true in zip(model.parameters(), plain.parameters(), strict=True):
        assert_close(own, true)  # sums over microbatches, in another order


def test_what_needs_two_versions_of_the_weights_is_refused_with_the_reason() -> None:
    x, y = randn(8, 4), randint(0, 4, (8,))
    with pytest.raises(ScheduleError, match=r"pipedream_2bw\(4\): .* 2 versions of its weights.* simulate it"):
        sg.decouple(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), at=["0"], sample=(x, y), synthesizer=None,
            loss=nn.functional.cross_entropy, optimizer=lambda parameters: optim.SGD(parameters, lr=1.0),
            schedule=pipedream_2bw(4),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: interleaved(3, ranks=2), "use 2, 4 and so on"),
        (lambda: interleaved(2, ranks=0), "groups of"),
        (lambda: locked(interleaved(2, ranks=2), 3).actions(0), "multiple of the 2 ranks"),
        (lambda: zero_bubble(0), "at least 1"),
        (lambda: pipedream_2bw(0), "at least 1"),
        (lambda: locked(pipedream_2bw(3), 4).actions(0), "4 microbatches are under way"),
        (lambda: eager_one_f_one_b(4, ahead=-1), "ahead of 0 or more"),
    ],
)
def test_bad_sizes_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        build()
