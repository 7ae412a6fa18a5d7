"""What a builder promises, read off the actions that it lists: exact delay, nothing lost, nothing drawn twice."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind
from synthgrad.core.combined import eager
from synthgrad.core.errors import ScheduleError
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, from_text, sporadic, update_unlocked

STAGES = st.integers(1, 5)
PARTS = st.integers(1, 3)
DELAYS = st.integers(0, 3)
SEEDS = st.integers(0, 50)
SHARES = st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0])

EXACT: st.SearchStrategy[Schedule] = st.one_of(
    st.builds(backprop, teach=st.booleans()),
    st.builds(gpipe, PARTS),
    st.builds(one_f_one_b, PARTS),
)
DELAYED: st.SearchStrategy[Schedule] = st.one_of(
    st.builds(update_unlocked, DELAYS, microbatches=PARTS),
    st.builds(forward_unlocked, DELAYS, microbatches=PARTS),
    st.builds(sporadic, SHARES, SEEDS, delay=DELAYS),
)
BUILT = EXACT | DELAYED
LATE = (Kind.T, Kind.Q)


def run_of(schedule: Schedule, stages: int, steps: int) -> list[Action]:
    whole = [action for step in range(steps) for action in schedule.actions(stages, step)]
    return whole + list(schedule.flush(stages, steps))


def programs(actions: list[Action], stages: int) -> list[list[Action]]:
    return [[action for action in actions if action.stage == stage] for stage in range(stages)]


def order_of(actions: list[Action], kinds: tuple[Kind, ...]) -> list[list[Action]]:
    wanted = [action for action in actions if action.kind in kinds]
    return programs(wanted, 1 + max((action.stage for action in wanted), default=0))


# ---- what a step holds -----------------------------------------------------------------------------------------------


@given(EXACT, STAGES, st.integers(0, 4))
def test_back_propagation_runs_each_microbatch_forward_and_backward_once_and_updates_once(
    schedule: Schedule, stages: int, step: int
) -> None:
    parts = range(step * schedule.microbatches, (step + 1) * schedule.microbatches)
    expected = [Action(stage, kind, part) for stage in range(stages) for kind in (Kind.F, Kind.B) for part in parts]
    expected += [Action(stage, Kind.U, parts[-1]) for stage in range(stages)]
    actions = [action for action in schedule.actions(stages, step) if action.kind is not Kind.T]
    assert Counter(actions) == Counter(expected)
    assert not schedule.flush(stages, step)


@given(STAGES, st.integers(0, 4))
def test_teaching_adds_one_lesson_for_each_synthesizer_and_changes_nothing_else(stages: int, step: int) -> None:
    taught, plain = (backprop(teach=teach).actions(stages, step) for teach in (True, False))
    assert [action for action in taught if action.kind is not Kind.T] == list(plain)
    lessons = [action for action in taught if action.kind is Kind.T]
    assert lessons == [Action(stage, Kind.T, step) for stage in range(stages - 1)]


@given(DELAYS, PARTS, STAGES, st.integers(1, 5))
def test_an_update_unlocked_run_holds_each_action_of_each_microbatch_once(
    delay: int, parts: int, stages: int, steps: int
) -> None:
    expected: Counter[Action] = Counter()
    for stage in range(stages):
        kinds = (Kind.F, Kind.B) if stage == stages - 1 else (Kind.F, Kind.S, Kind.T)
        expected.update(Action(stage, kind, part) for kind in kinds for part in range(steps * parts))
        expected.update(Action(stage, Kind.U, step * parts + parts - 1) for step in range(steps))
    assert Counter(run_of(update_unlocked(delay, microbatches=parts), stages, steps)) == expected


@given(DELAYS, PARTS, STAGES, st.integers(1, 5))
def test_a_forward_unlocked_run_adds_prediction_and_its_lesson_at_every_stage_but_the_first(
    delay: int, parts: int, stages: int, steps: int
) -> None:
    unlocked = Counter(run_of(forward_unlocked(delay, microbatches=parts), stages, steps))
    added = unlocked - Counter(run_of(update_unlocked(delay, microbatches=parts), stages, steps))
    inner, kinds = range(1, stages), (Kind.P, Kind.Q)
    assert added == Counter(Action(k, kind, part) for k in inner for kind in kinds for part in range(steps * parts))
    assert sum(unlocked.values()) - sum(added.values()) == steps * (stages * (2 * parts + 1) + parts * (stages - 1))


@given(PARTS, STAGES)
def test_one_f_one_b_runs_stages_minus_k_forwards_ahead_and_then_alternates(more: int, stages: int) -> None:
    schedule = one_f_one_b(stages + more)
    for stage, program in enumerate(programs(list(schedule.actions(stages, 0)), stages)):
        ahead = stages - stage
        letters = "".join(action.kind for action in program)
        assert letters == "F" * ahead + "BF" * (schedule.microbatches - ahead) + "B" * ahead + "U"


@given(BUILT, STAGES, st.integers(0, 4), st.booleans())
def test_the_real_input_is_passed_from_stage_to_stage_in_order(
    schedule: Schedule, stages: int, step: int, at_once: bool
) -> None:
    actions = (eager(schedule) if at_once else schedule).actions(stages, step)
    for part in range(step * schedule.microbatches, (step + 1) * schedule.microbatches):
        chain = [action.stage for action in actions if action.kind is Kind.F and action.microbatch == part]
        assert chain == list(range(stages))


# ---- the delay is exact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda schedule: schedule, eager], ids=["written", "eager"])
@pytest.mark.parametrize(("user", "lesson"), [(Kind.S, Kind.T), (Kind.P, Kind.Q)])
@given(DELAYS, PARTS, st.integers(2, 4), st.sampled_from(["update", "forward", "sporadic"]), SEEDS)
def test_a_prediction_stands_after_the_lesson_delay_plus_one_steps_ago_and_before_the_next(
    form: Callable[[Schedule], Schedule],
    user: Kind,
    lesson: Kind,
    delay: int,
    parts: int,
    stages: int,
    who: str,
    seed: int,
) -> None:
    """S(k,t) after all T(k,t-d-1) and before any T(k,t-d); P and Q likewise. Read in the stage's own program."""
    schedule = {
        "update": update_unlocked(delay, microbatches=parts),
        "forward": forward_unlocked(delay, microbatches=parts),
        "sporadic": sporadic(0.7, seed, delay=delay),
    }[who]
    actions = run_of(form(schedule), stages, delay + 5)
    for program in programs(actions, stages):
        lessons = [action for action in program if action.kind is lesson]
        for place, prediction in enumerate(program):
            if prediction.kind is user:
                known = schedule.step_of(prediction) - delay - 1
                before = [action for action in program[:place] if action.kind is lesson]
                assert before == [action for action in lessons if schedule.step_of(action) <= known]


@given(DELAYS, PARTS, st.integers(2, 4), st.sampled_from([update_unlocked, forward_unlocked]), st.integers(0, 6))
def test_the_written_lesson_stands_right_between_forward_and_the_prediction_that_may_know_it(
    delay: int, parts: int, stages: int, builder: Callable[..., Schedule], step: int
) -> None:
    schedule = builder(delay, microbatches=parts)
    for program in programs(list(schedule.actions(stages, step)), stages)[:-1]:
        learns = next(action for action in program if action.kind in (Kind.P, Kind.F))
        lessons = [action for action in program if action.kind is Kind.T]
        place = program.index(learns) + 1
        if program[0].kind is not Kind.Q:
            assert program[0] == learns
        assert learns.microbatch == step * parts
        assert program[place : place + len(lessons)] == lessons
        assert program[place + len(lessons)] == Action(learns.stage, Kind.S, step * parts)
        behind = step - 1 - delay
        assert [lesson.microbatch for lesson in lessons] == list(
            range(max(0, behind * parts), max(0, behind + 1) * parts)
        )


@given(DELAYS, SHARES, SEEDS, st.integers(2, 4), st.integers(0, 6))
def test_a_sporadic_lesson_too_stands_after_the_next_forward(
    delay: int, p: float, seed: int, stages: int, step: int
) -> None:
    for program in programs(list(sporadic(p, seed, delay=delay).actions(stages, step)), stages):
        assert program[0].kind is Kind.F
        assert all(action.microbatch == step - 1 - delay for action in program if action.kind is Kind.T)


# ---- eager -----------------------------------------------------------------------------------------------------------


@given(BUILT, STAGES, st.integers(0, 7))
def test_eager_holds_the_same_actions_over_a_whole_run(schedule: Schedule, stages: int, steps: int) -> None:
    assert Counter(run_of(eager(schedule), stages, steps)) == Counter(run_of(schedule, stages, steps))


@pytest.mark.parametrize(
    "kinds", [(Kind.S, Kind.B, Kind.T), (Kind.P, Kind.Q), (Kind.F, Kind.P, Kind.S, Kind.B, Kind.U)], ids=str
)
@given(BUILT, STAGES, st.integers(0, 7))
def test_eager_keeps_the_order_of_all_that_touches_one_synthesizer_or_the_weights(
    kinds: tuple[Kind, ...], schedule: Schedule, stages: int, steps: int
) -> None:
    assert order_of(run_of(eager(schedule), stages, steps), kinds) == order_of(run_of(schedule, stages, steps), kinds)


@given(DELAYED, STAGES, st.integers(0, 5))
def test_eager_lets_no_lesson_wait_that_could_be_given(schedule: Schedule, stages: int, step: int) -> None:
    """T stands at the head, or right behind (lessons apart) what holds it back: target, or use of its synthesizer."""
    actions = eager(schedule).actions(stages, step)
    for place, action in enumerate(actions):
        before = [other for other in actions[:place] if other.kind not in LATE]
        if action.kind is Kind.T and before:
            stage, kind, microbatch = before[-1]
            its_target = stage == action.stage + 1 and microbatch == action.microbatch and kind in (Kind.S, Kind.B)
            assert its_target or (stage == action.stage and kind is not Kind.U)


@given(DELAYS, PARTS, st.sampled_from([update_unlocked, forward_unlocked]), STAGES)
def test_eager_leaves_delay_steps_pending_instead_of_delay_plus_one(
    delay: int, parts: int, builder: Callable[..., Schedule], stages: int
) -> None:
    schedule, lessons = builder(delay, microbatches=parts), (stages - 1) * parts
    kinds = 1 if builder is update_unlocked else 2
    assert len(schedule.flush(stages, 6)) == (delay + 1) * lessons * kinds
    assert len(eager(schedule).flush(stages, 6)) == delay * lessons * kinds


@given(DELAYS, PARTS, st.sampled_from([update_unlocked, forward_unlocked]), st.integers(2, 4), st.booleans())
def test_lateness_is_how_many_steps_after_its_own_the_latest_lesson_falls(
    delay: int, parts: int, builder: Callable[..., Schedule], stages: int, at_once: bool
) -> None:
    schedule = builder(delay, microbatches=parts)
    form = eager(schedule) if at_once else schedule
    ages = {9 - form.step_of(action) for action in form.actions(stages, 9)}
    assert max(ages) == form.lateness == delay + (not at_once)


# ---- flush -----------------------------------------------------------------------------------------------------------


@given(DELAYED, STAGES, st.integers(0, 7), st.booleans())
def test_a_run_with_its_flush_holds_every_lesson_once(
    schedule: Schedule, stages: int, steps: int, at_once: bool
) -> None:
    form = eager(schedule) if at_once else schedule
    late = Counter(action for action in run_of(form, stages, steps) if action.kind in LATE)
    endless = [action for step in range(steps + schedule.lateness) for action in schedule.actions(stages, step)]
    assert late == Counter(a for a in endless if a.kind in LATE and a.microbatch < steps * schedule.microbatches)
    assert set(late.values()) <= {1}


@given(DELAYED, STAGES, st.integers(0, 5), st.booleans())
def test_a_flush_holds_nothing_but_lessons_of_past_steps(
    schedule: Schedule, stages: int, step: int, at_once: bool
) -> None:
    form = eager(schedule) if at_once else schedule
    for action in form.flush(stages, step):
        assert action.kind in LATE and 0 <= schedule.step_of(action) < step


@given(BUILT, STAGES, st.integers(0, 4), st.integers(0, 5), st.booleans())
def test_after_a_flush_nothing_older_than_it_reappears_and_nothing_is_lost(
    schedule: Schedule, stages: int, since: int, more: int, at_once: bool
) -> None:
    form, end = eager(schedule) if at_once else schedule, since + more
    after = [action for step in range(since, end) for action in form.actions(stages, step, since=since)]
    after += form.flush(stages, end, since=since)
    assert all(form.step_of(action) >= since for action in after)
    assert Counter(run_of(form, stages, since) + after) == Counter(run_of(form, stages, end))


@given(BUILT, STAGES, st.integers(0, 5))
def test_a_second_flush_at_the_same_step_is_empty(schedule: Schedule, stages: int, step: int) -> None:
    assert schedule.flush(stages, step, since=step) == ()


# ---- a schedule is a pure function of the step -----------------------------------------------------------------------


@given(BUILT, STAGES, st.permutations(range(6)), st.booleans())
def test_the_actions_of_a_step_do_not_depend_on_what_was_asked_before(
    schedule: Schedule, stages: int, asked: list[int], at_once: bool
) -> None:
    form = eager(schedule) if at_once else schedule
    in_order = {step: form.actions(stages, step) for step in range(6)}
    assert {step: form.actions(stages, step) for step in asked} == in_order


@given(BUILT, STAGES, st.integers(0, 4), st.integers(1, 3), st.booleans())
def test_a_schedule_that_says_it_repeats_does(
    schedule: Schedule, stages: int, step: int, later: int, at_once: bool
) -> None:
    form = eager(schedule) if at_once else schedule
    assert bool(form.period) == (not schedule.name.startswith("sporadic"))
    if form.period:
        later *= form.period
        shift = later * schedule.microbatches
        moved = [action._replace(microbatch=action.microbatch + shift) for action in form.order(stages, step)]
        assert form.order(stages, step + later) == moved


@given(st.builds(sporadic, SHARES, SEEDS, delay=DELAYS), STAGES)
def test_two_sporadic_schedules_of_one_seed_are_the_same(schedule: Schedule, stages: int) -> None:
    name = schedule.name.removesuffix(")").split("seed=")
    p, seed = float(name[0].removeprefix("sporadic(").rstrip(", ")), int(name[1].split(",")[0])
    assert sporadic(p, seed, delay=schedule.lateness - 1).text(stages, 5) == schedule.text(stages, 5)


def test_another_seed_draws_other_stages_and_another_order() -> None:
    runs = [run_of(sporadic(0.5, seed), 3, 8) for seed in range(10)]
    assert len({tuple(sorted(run)) for run in runs}) == 10  # who takes part
    orders = [run_of(sporadic(1.0, seed), 3, 8) for seed in range(10)]
    assert len(set(map(tuple, orders))) == 10


# ---- sporadic --------------------------------------------------------------------------------------------------------


@given(STAGES, SEEDS, st.integers(1, 6))
def test_at_probability_zero_sporadic_only_runs_forward(stages: int, seed: int, steps: int) -> None:
    expected = [Action(stage, Kind.F, step) for step in range(steps) for stage in range(stages)]
    assert run_of(sporadic(0.0, seed), stages, steps) == expected


@given(STAGES, SEEDS, DELAYS, st.integers(1, 6))
def test_at_probability_one_every_stage_does_what_it_does_in_update_unlocked(
    stages: int, seed: int, delay: int, steps: int
) -> None:
    drawn = run_of(sporadic(1.0, seed, delay=delay), stages, steps)
    assert programs(drawn, stages) == programs(run_of(update_unlocked(delay), stages, steps), stages)


@given(SHARES, SEEDS, DELAYS, st.integers(2, 5))
def test_a_skipped_stage_runs_forward_and_nothing_else_and_nobody_learns_from_it(
    p: float, seed: int, delay: int, stages: int
) -> None:
    schedule, steps = sporadic(p, seed, delay=delay), 6
    done = set(run_of(schedule, stages, steps))
    for step in range(steps):
        for stage in range(stages):
            kinds = {kind for kind in Kind if Action(stage, kind, step) in done} - {Kind.T}
            learns = {Kind.F, Kind.B if stage == stages - 1 else Kind.S, Kind.U}
            assert kinds in ({Kind.F}, learns)
            assert stage == 0 or (Action(stage - 1, Kind.T, step) in done) == (kinds == learns)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_stages_take_part_about_as_often_as_asked_for_and_independently(p: float) -> None:
    """The draws are fixed by the seed, so the bound, five standard deviations, holds for ever or never."""
    steps, stages = 2000, 3
    schedule = sporadic(p, seed=1)
    took = [
        {a.microbatch for a in schedule_actions(schedule, stages, steps) if a[:2] == (k, Kind.U)} for k in range(stages)
    ]
    bound = 5 * (p * (1 - p) / steps) ** 0.5
    for part in took:
        assert abs(len(part) / steps - p) < bound
    for one, other in pairwise(took):
        both = p * p
        assert abs(len(one & other) / steps - both) < 5 * (both * (1 - both) / steps) ** 0.5


def schedule_actions(schedule: Schedule, stages: int, steps: int) -> list[Action]:
    return [action for step in range(steps) for action in schedule.actions(stages, step)]


def test_the_sporadic_order_is_drawn_among_all_orders_that_pass_the_input_on() -> None:
    """Two stages with programs F S U and F B U: of 20 interleavings those with 0F before 1F, which are 10."""
    orders = set()
    for seed in range(400):
        orders.add("".join(f"{a.stage}{a.kind}" for a in sporadic(1.0, seed).actions(2, 0)))
    assert len(orders) == 10


# ---- names and refusals ----------------------------------------------------------------------------------------------


@given(
    st.one_of(
        EXACT,
        st.builds(update_unlocked, DELAYS, microbatches=PARTS),
        st.builds(forward_unlocked, DELAYS, microbatches=PARTS),
        st.builds(sporadic, SHARES, SEEDS),
    )
)
def test_a_schedule_is_called_what_builds_it(schedule: Schedule) -> None:
    rebuilt = eval(schedule.name)  # the names that the builders above write
    assert rebuilt.text(3, 4) == schedule.text(3, 4)


def test_a_sporadic_schedule_with_a_delay_is_called_what_builds_it() -> None:
    schedule = sporadic(0.9, seed=3, delay=2)
    assert eval(schedule.name).text(3, 5) == schedule.text(3, 5)


def test_a_written_schedule_of_several_microbatches_is_called_what_builds_it() -> None:
    schedule = from_text("0F0 0F1 0B0 0B1 0U1", microbatches=2)
    assert eval(schedule.name).text(1, 3) == schedule.text(1, 3)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: gpipe(0), "gpipe: microbatches=0"),
        (lambda: one_f_one_b(-1), "one_f_one_b: microbatches=-1"),
        (lambda: update_unlocked(-1), "update_unlocked: delay=-1"),
        (lambda: update_unlocked(microbatches=0), "update_unlocked: microbatches=0"),
        (lambda: forward_unlocked(-2), "forward_unlocked: delay=-2"),
        (lambda: forward_unlocked(microbatches=0), "forward_unlocked: microbatches=0"),
        (lambda: sporadic(1.5), "sporadic: p=1.5"),
        (lambda: sporadic(-0.1), "sporadic: p=-0.1"),
        (lambda: sporadic(float("nan")), "sporadic: p=nan"),
        (lambda: sporadic(0.5, delay=-1), "sporadic: delay=-1"),
        (lambda: from_text("0F0 0X0"), "0X0"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(build: Callable[[], Schedule], named: str) -> None:
    with pytest.raises(ScheduleError, match=named):
        build()


# ---- schedules of one's own ------------------------------------------------------------------------------------------


@given(BUILT.filter(lambda schedule: schedule.lateness == 0), STAGES, st.integers(0, 5))
def test_a_schedule_written_down_from_its_first_step_is_the_same_schedule(
    schedule: Schedule, stages: int, step: int
) -> None:
    written = from_text(schedule.text(stages), microbatches=schedule.microbatches)
    assert written.actions(stages, step) == schedule.actions(stages, step)


def test_a_written_schedule_is_for_as_many_stages_as_it_names() -> None:
    with pytest.raises(ScheduleError, match="names 2 stages, got a model of 3"):
        from_text("0F0 1F0 1B0 0B0 0U0 1U0").actions(3, 0)


@given(BUILT, st.integers(0, 30))
def test_microbatches_are_counted_through_the_whole_run(schedule: Schedule, part: int) -> None:
    action = Action(0, Kind.F, part)
    assert action in schedule.actions(2, schedule.step_of(action))
    assert schedule.ends_step(action) == (schedule.step_of(Action(0, Kind.F, part + 1)) > schedule.step_of(action))
