"""What a plan accepts and refuses, against the definitions; and `readers`, the inverse of `dependencies`.

`fault_free` below is those definitions once more, over positions in the whole list instead of one action at a time.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthgrad.core.actions import Action, Kind, format_actions, parse_actions
from synthgrad.core.combined import eager
from synthgrad.core.errors import ScheduleError
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.plan import Declaration, Plan, dependencies, line_of, readers, validate
from synthgrad.core.schedules import Schedule, backprop, forward_unlocked, from_text, sporadic, update_unlocked

NONE = Declaration(synthesizer=False, feedback=frozenset())
OUTPUT_ERROR = Declaration(needs=frozenset({"error"}), feedback=frozenset())
DELAYS = st.integers(0, 3)
PARTS = st.integers(1, 3)
BACKPROP = "0F0 1F0 2F0 2B0 1B0 0B0 0U0 1U0 2U0"
UNLOCKED = "0F0 0S0 0U0 1F0 1S0 1U0 2F0 2B0 1T0 0T0 2U0"


def declared(schedule: Schedule, stages: int) -> tuple[Declaration, ...]:
    """What the stages of a decoupled model would declare for this schedule."""
    predicts = any(action.kind is Kind.P for action in schedule.actions(stages, 0))
    inner = [Declaration(input_synthesizer=predicts and stage > 0) for stage in range(stages - 1)]
    return (*inner, Declaration(False, feedback=frozenset(), input_synthesizer=predicts and stages > 1))


@st.composite
def plans(draw: st.DrawFn, most: int = 6) -> Plan:
    """A builder's schedule, in either form, on 1 to `most` stages."""
    schedule = draw(
        st.one_of(
            st.builds(backprop, teach=st.booleans()),
            st.builds(gpipe, PARTS),
            st.builds(one_f_one_b, st.integers(1, 7)),
            st.builds(update_unlocked, DELAYS, microbatches=PARTS),
            st.builds(forward_unlocked, DELAYS, microbatches=PARTS),
            st.builds(sporadic, st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 50), delay=DELAYS),
        )
    )
    stages = draw(st.integers(1, most))
    return Plan(eager(schedule) if draw(st.booleans()) else schedule, declared(schedule, stages))


def written(text: str, stages: Iterable[Declaration] | None = None, *, microbatches: int = 1) -> Plan:
    """A schedule of one's own; by default for stages that all have a synthesizer, but for the last."""
    last = max(action.stage for action in parse_actions(text))
    declarations = (*[Declaration()] * last, NONE) if stages is None else tuple(stages)
    # Not from_text, which refuses a text that names another number of stages before `validate` sees it.
    schedule = from_text(text, microbatches=microbatches)
    order = schedule.order
    named = len({action.stage for action in parse_actions(text)})
    return Plan(replace(schedule, order=lambda stages, step: order(named, step)), declarations)


def refusal(plan: Plan) -> tuple[str, str]:
    """The action that `validate` marks with ^^^ in the text that it quotes, and the message's first line."""
    with pytest.raises(ScheduleError) as raised:
        validate(plan)
    lines = str(raised.value).split("\n")
    assert len(lines) == 3, f"no line of actions with a marker under it: {raised.value}"
    said, quoted, marker = lines
    found = re.fullmatch(r"( *)(\^+)", marker)
    assert found, f"no marker: {marker!r}"
    return quoted[found.start(2) : found.end(2)], said


# ---- every builder is valid ------------------------------------------------------------------------------------------


@given(plans())
def test_every_builder_validates_in_either_form(plan: Plan) -> None:
    validate(plan)


@given(plans(4), st.integers(0, 5))
def test_every_builder_validates_for_any_number_of_steps(plan: Plan, steps: int) -> None:
    validate(plan, steps)


@given(plans(4), st.randoms(use_true_random=False))
def test_any_other_order_that_respects_the_programs_and_what_they_wait_for_is_valid(plan: Plan, random: Random) -> None:
    schedule = plan.schedule

    def order(stages: int, step: int) -> list[Action]:
        left, mixed = list(schedule.order(stages, step)), []
        while left:
            heads = {action.stage: action for action in reversed(left)}  # the first of each stage
            waits = {a: dependencies(a, plan) if a.microbatch >= 0 else () for a in heads.values()}
            ready = [action for action in heads.values() if not set(waits[action]) & set(left)]
            mixed.append(random.choice(ready))
            left.remove(mixed[-1])
        return mixed

    drawn = {step: order(len(plan.stages), step) for step in range(8)}
    validate(Plan(replace(schedule, order=lambda stages, step: drawn[step], period=0), plan.stages), steps=3)


@pytest.mark.parametrize(
    "text",
    [
        "0F0 0B0 0U0",
        "0F0 1F0 1B0 0B0",  # nobody updates
        "0F0 1F0 1I0 0I0 0W0 1W0 0U0 1U0",  # the halves of B
        "0F0 1F0 1B0 1U0 0S0 0T0 0U0",  # T before U
        "0F0 1F0 1B0 0T0 0S0 1U0 0U0",  # T before S: the lesson of this very batch
        "0F0 1F0 1B0 1U0",  # stage 0 is skipped
        "0F0 0S0 0U0 1F0 1B0 1U0",  # nobody learns from the target
    ],
)
def test_what_can_be_executed_is_not_refused(text: str) -> None:
    validate(written(text))


def test_two_updates_in_a_step_are_valid_where_no_microbatch_spans_one() -> None:
    validate(written("0F0 0B0 0U0 0F1 0B1 0U1", microbatches=2))


def test_a_gradient_may_wait_for_the_next_steps_update() -> None:
    def order(stages: int, step: int) -> list[Action]:
        return [*parse_actions(f"0F{step} 0B{step}"), *([Action(0, Kind.U, step)] if step % 2 else [])]

    validate(Plan(Schedule("every other", order, period=0), (NONE,)), steps=4)


# ---- what is refused, and how ----------------------------------------------------------------------------------------

PREDICTING = (Declaration(), Declaration(False, feedback=frozenset(), input_synthesizer=True))


@pytest.mark.parametrize(
    ("text", "culprit", "why"),
    [
        # an F is left out
        ("0F0 2F0 2B0 1B0 0B0 0U0 1U0 2U0", "2F0", "before 1F0"),
        ("0F0 1F0 2B0 1B0 0B0 0U0 1U0 2U0", "2B0", "before 2F0"),
        ("1F0 2F0 2B0 1B0 0B0 0U0 1U0 2U0", "1F0", "before 0F0"),
        # too early
        ("0F0 1F0 2B0 2F0 1B0 0B0 0U0 1U0 2U0", "2B0", "before 2F0"),
        ("0F0 1F0 2F0 1B0 2B0 0B0 0U0 1U0 2U0", "1B0", "before 2B0"),
        ("0S0 0F0 0U0 1F0 1B0 1U0", "0S0", "before 0F0"),
        ("0F0 0S0 0T0 0U0 1F0 1B0 1U0", "0T0", "before 1B0"),
        ("0F0 1F0 1B0 0W0 0I0 0U0 1U0", "0W0", "before 0I0"),
        # twice
        ("0F0 1F0 2F0 0F0 2B0 1B0 0B0 0U0 1U0 2U0", "0F0", "twice"),
        ("0F0 1F0 2F0 2B0 1B0 1B0 0B0 0U0 1U0 2U0", "1B0", "twice"),
        ("0F0 0S0 0U0 1F0 1B0 0T0 0T0 1U0", "0T0", "twice"),
        # not this stage's to do
        ("0F0 1F0 2F0 2S0 1B0 0B0 0U0 1U0 2U0", "2S0", "is the last"),
        ("0F0 1F0 1B0 1T0 0B0 0U0 1U0", "1T0", "no synthesizer to teach"),
        ("0F0 1P0 1B0 0B0 0U0 1U0", "1P0", "no input synthesizer"),
        ("0F0 1F0 1Q0 1B0 0B0 0U0 1U0", "1Q0", "no input synthesizer"),
        # updates
        ("0F0 0U0 1F0 1B0 1U0", "0U0", "no gradient to use"),
        ("0U0 0F0 0S0 1F0 1B0 1U0", "0U0", "no gradient to use"),
        ("0F0 1F0 1B0 0I0 0U0 0W0 1U0", "0U0", "no gradient to use"),
        ("0F0 0S0 0U0 0U1 1F0 1B0 1U0", "0U1", ""),
        # steps
        ("0F0 1F1 1B0 0B0 0U0 1U0", "1F1", "belongs to step 1"),
        ("0F0 1F0 1B0 0B0 0U1 1U0", "0U1", "belongs to step 1"),
        ("0F0 0S0 0U0 1F0 1B0 1U0 0T1", "0T1", "comes -1 steps after"),
    ],
)
def test_a_fault_is_named_and_marked(text: str, culprit: str, why: str) -> None:
    marked, said = refusal(written(text))
    assert marked == culprit and said.startswith(f"{culprit}: ") and why in said


@pytest.mark.parametrize(
    ("text", "stages", "culprit", "why"),
    [
        ("0F0 0S0 0U0 1F0 1B0 1U0", (NONE, NONE), "0S0", "has no synthesizer"),
        ("0F0 1F0 1B0 0B0 0T0 0U0 1U0", (NONE, NONE), "0T0", "no synthesizer to teach"),
        (BACKPROP, (Declaration(), NONE), "2F0", "stages 0 to 1"),
        ("0F0 1F0 1B0 0B0 0U0 1U0", PREDICTING, "1B0", "1P0"),
        ("0F0 0S0 0U0 1Q0 1B0 1P0 1U0 1F0", PREDICTING, "1B0", "before 1P0"),
        ("1Q0 0F0 0S0 0U0 1P0 1B0 1U0 1F0", PREDICTING, "1Q0", "before 0F0"),
        ("0F0 0S0 0U0 1F0 1B0 1U0", (OUTPUT_ERROR, NONE), "0S0", "before 1F0"),
        ("0F0 1F0 1S0 0B0 0U0 1U0", (Declaration(), Declaration()), "1S0", "is the last"),
        ("0F0 1F0 1B0 1T0 0B0 0U0 1U0", (Declaration(), Declaration()), "1T0", "no synthesizer to teach"),
        ("0T0 0F0 0S0 0U0 1F0 1B0 1U0", (Declaration(feedback=frozenset()), NONE), "0T0", "before 0F0"),
    ],
)
def test_a_fault_against_what_a_stage_declares_is_named_and_marked(
    text: str, stages: tuple[Declaration, ...], culprit: str, why: str
) -> None:
    marked, said = refusal(written(text, stages))
    assert marked == culprit and said.startswith(f"{culprit}: ") and why in said


def test_an_update_uses_up_the_gradients_so_the_next_needs_its_own() -> None:
    marked, said = refusal(written("0F0 0F1 0B0 0B1 0U0 0U1", microbatches=2))
    assert marked == "0U1" and "no gradient to use" in said


def test_a_lesson_without_feedback_waits_for_nobody() -> None:
    validate(written("0F0 0S0 0T0 0U0 1F0 1B0 1U0", (Declaration(feedback=frozenset()), NONE)))


def test_a_lesson_behind_the_one_that_ends_its_step_is_refused() -> None:
    forward, lessons = "0F0 0S0 0F1 0S1 0U1 1F0 1B0 1F1 1B1 1U1", ("0T0 0T1", "0T1 0T0")
    stages = (Declaration(), NONE)
    validate(written(f"{forward} {lessons[0]}", stages, microbatches=2))
    marked, said = refusal(written(f"{forward} {lessons[1]}", stages, microbatches=2))
    assert marked == "0T0" and "stands behind 0T1, after which the step's lessons are over" in said


def test_an_action_that_comes_a_step_too_late_is_refused_unless_it_is_a_lesson() -> None:
    def order(stages: int, step: int) -> list[Action]:
        return [*parse_actions(f"0F{step} 0S{step} 0U{step}"), *(parse_actions(f"1F{step - 1}") if step else [])]

    marked, said = refusal(Plan(Schedule("late forward", order, lateness=1, period=0), (Declaration(), NONE)))
    assert marked == "1F0" and "belongs to step 0, and stands in step 1; only T and Q may come late" in said


def test_a_lesson_later_than_the_schedule_says_is_refused() -> None:
    late = update_unlocked(2)
    marked, said = refusal(Plan(replace(late, lateness=2), (Declaration(), NONE)))
    assert marked == "0T0" and "comes 3 steps after its batch; expected 0 to 2" in said


def test_a_fault_of_a_later_step_is_found() -> None:
    def order(stages: int, step: int) -> list[Action]:
        return list(parse_actions(f"0F{step} 0B{step} 0U{step}" if step < 2 else f"0B{step} 0F{step} 0U{step}"))

    schedule = Schedule("breaks in step 2", order, period=0)
    validate(Plan(schedule, (NONE,)), steps=2)
    with pytest.raises(ScheduleError, match="0B2: stands before 0F2"):
        validate(Plan(schedule, (NONE,)), steps=3)


@pytest.mark.parametrize("text", ["0F0 1F0 2F0 2B0 0B0 0U0 2U0", "0F0 1F0 2F0 2B0 2U0 0S0 0T0 0U0"])
def test_a_gradient_that_nobody_makes_is_named_and_marked(text: str) -> None:
    marked, said = refusal(written(text))
    assert marked in ("0B0", "0T0") and "1S0 or 1B0" in said


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("0F0 0F1 0B0 0U0 0B1 0U1", "0U0"),
        ("0F0 0F1 0B0 0I1 0U1 0W1", "0U1"),
        ("0F0 0F1 0B0 0U1 0B1", "0U1"),
    ],
)
def test_no_update_stands_between_a_forward_pass_and_its_backward_pass(text: str, culprit: str) -> None:
    """Of any microbatch: autograd would find the weights changed under a graph that is still to be used."""
    assert refusal(written(text, microbatches=2))[0] == culprit


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("0F0 1F0 1B0 0S0 0B0 0U0 1U0", "0B0"),
        ("0F0 1F0 1B0 0B0 0I0 0W0 0U0 1U0", "0I0"),
        ("0F0 1F0 1B0 0I0 0S0 0W0 0U0 1U0", "0S0"),
    ],
)
def test_a_microbatch_is_back_propagated_once(text: str, culprit: str) -> None:
    """The first of S, B and I frees the graph; and who waits for the gradient must know which of them makes it."""
    assert refusal(written(text))[0] == culprit


# ---- validation refuses what the definitions refuse, and nothing else ------------------------------------------------


def fault_free(actions: list[Action], stages: tuple[Declaration, ...]) -> bool:
    """Whether the actions of one step can be executed as listed; every stage but the last declares a synthesizer."""
    place = {action: position for position, action in enumerate(actions)}
    if len(place) < len(actions):
        return False
    last = len(stages) - 1
    uses = {kind: [a for a in actions if a.kind is kind] for kind in Kind}
    needed: list[tuple[Action, Action]] = []
    for stage, kind, part in actions:
        action = Action(stage, kind, part)
        if stage > last or kind in (Kind.P, Kind.Q) or (stage == last and kind in (Kind.S, Kind.T)):
            return False
        if kind is Kind.F and stage > 0:
            needed.append((Action(stage - 1, Kind.F, part), action))
        if kind in (Kind.S, Kind.B, Kind.I, Kind.T):
            needed.append((Action(stage, Kind.F, part), action))
        if kind is Kind.W:
            needed.append((Action(stage, Kind.I, part), action))
        if kind in (Kind.B, Kind.I, Kind.T) and stage < last:
            makers = [Action(stage + 1, maker, part) for maker in (Kind.S, Kind.B, Kind.I)]
            made = [maker for maker in makers if maker in place]
            if not made:
                return False
            needed.append((made[0], action))
    if any(one not in place or place[one] > place[other] for one, other in needed):
        return False
    for stage in range(last + 1):
        updates = [place[a] for a in uses[Kind.U] if a.stage == stage]
        gradients = [place[a] for k in (Kind.S, Kind.B, Kind.W) for a in uses[k] if a.stage == stage]
        if any(not any(b < g < u for g in gradients) for b, u in zip([-1, *updates], updates, strict=False)):
            return False
        for kind in (Kind.S, Kind.B, Kind.I, Kind.W):
            for action in (a for a in uses[kind] if a.stage == stage):
                if any(place[Action(stage, Kind.F, action.microbatch)] < u < place[action] for u in updates):
                    return False
    for part in {a.microbatch for a in actions}:
        for stage in range(last + 1):
            if sum(Action(stage, k, part) in place for k in (Kind.S, Kind.B, Kind.I)) > 1:
                return False
    return True


TEXTS = [
    (1, BACKPROP),
    (1, UNLOCKED),
    (1, "0F0 1F0 1I0 0I0 0W0 1W0 0U0 1U0"),
    (1, "0F0 1F0 1B0 0T0 0S0 1U0 0U0"),
]
PARTED = [
    (2, "0F0 1F0 0F1 1F1 1B0 0B0 1B1 0B1 0U1 1U1"),
    (2, "0F0 0S0 0F1 0S1 0U1 1F0 1B0 0T0 1F1 1B1 0T1 1U1"),
    (2, "0F0 0S0 0U0 0F1 0S1 0U1 1F0 1B0 0T0 1U0 1F1 1B1 0T1 1U1"),
    (2, "0F0 0F1 1F0 1F1 1I0 1I1 0B0 1W0 0B1 1W1 0U1 1U1"),
]


@st.composite
def mutants(draw: st.DrawFn, kinds: str, texts: list[tuple[int, str]]) -> tuple[int, list[Action], int]:
    """A valid text with one or two changes: an action dropped, doubled, moved, swapped or put in anew."""
    microbatches, text = draw(st.sampled_from(texts))
    actions = list(parse_actions(text))
    last = max(action.stage for action in actions)
    for _ in range(draw(st.integers(1, 2))):
        place, other = (draw(st.integers(0, len(actions) - 1)) for _ in range(2))
        change = draw(st.sampled_from(kinds))
        if change == "d":  # drop
            del actions[place]
        elif change == "2":  # double
            actions.insert(other, actions[place])
        elif change == "m":  # move
            actions.insert(other, actions.pop(place))
        else:  # put in a new one
            stage, part = draw(st.integers(0, last)), draw(st.integers(0, microbatches - 1))
            actions.insert(other, Action(stage, draw(st.sampled_from(Kind)), part))
    return microbatches, actions, last


def check_against_the_definitions(mutant: tuple[int, list[Action], int]) -> None:
    microbatches, actions, last = mutant
    stages = (*[Declaration()] * last, NONE)
    schedule = from_text(format_actions(actions), microbatches=microbatches)
    named = len({action.stage for action in actions})
    order = schedule.order
    plan = Plan(replace(schedule, order=lambda stages, step: order(named, step)), stages)
    if fault_free(actions, stages):
        validate(plan)
    else:
        with pytest.raises(ScheduleError):
            validate(plan)


@settings(max_examples=300)
@given(mutants("d2m", TEXTS))
def test_a_changed_schedule_is_refused_exactly_where_the_definitions_refuse_it(
    mutant: tuple[int, list[Action], int],
) -> None:
    check_against_the_definitions(mutant)


@settings(max_examples=300)
@given(mutants("d2mnn", TEXTS + PARTED))
def test_a_schedule_changed_in_any_way_is_refused_exactly_where_the_definitions_refuse_it(
    mutant: tuple[int, list[Action], int],
) -> None:
    check_against_the_definitions(mutant)


# ---- dependencies and readers ----------------------------------------------------------------------------------------


HALVES = written("0F0 1F0 2F0 2I0 1I0 0I0 0T0 1T0 2W0 1W0 0W0 0U0 1U0 2U0")


@given(plans(4) | st.just(HALVES), st.booleans(), st.booleans())
def test_readers_are_the_inverse_of_dependencies_over_the_whole_run(plan: Plan, error: bool, learns: bool) -> None:
    if error or not learns:
        needs, feedback = frozenset({"error"} if error else ()), frozenset({"gradient"} if learns else ())
        inner = [replace(stage, needs=needs, feedback=feedback) for stage in plan.stages[:-1]]
        plan = Plan(plan.schedule, (*inner, plan.stages[-1]))
    actions = plan.run_of(plan.schedule.lateness + 2)
    waits = {(made, reader) for reader in actions for made in dependencies(reader, plan)}
    reads = {(made, reader) for made in actions for reader in readers(made, plan)}
    assert waits == reads


@given(plans(4) | st.just(HALVES), st.integers(0, 6), st.integers(0, 6))
def test_the_lines_of_a_step_are_its_actions_with_what_they_wait_for_and_who_waits_for_them(
    plan: Plan, step: int, since: int
) -> None:
    expected = [line_of(action, plan) for action in plan.actions(step, since=since)]
    assert plan.lines(step, since=since) == expected
    for action, sources, after in expected:
        assert sources == dependencies(action, plan) and after == readers(action, plan)


def test_the_lines_of_a_schedule_whose_steps_differ_are_its_actions_or_it_is_refused() -> None:
    """Back-propagation in step 0, to warm up, and unlocked from then on; nothing said about `repeats`."""

    def order(stages: int, step: int) -> list[Action]:
        first, later = "0F{t} 1F{t} 1B{t} 0B{t} 0U{t} 1U{t}", "0F{t} 0S{t} 0U{t} 1F{t} 1B{t} 1U{t} 0T{t}"
        return list(parse_actions((later if step else first).format(t=step)))

    plan = Plan(Schedule("warm-up", order), (Declaration(), NONE))
    try:
        validate(plan)
    except ScheduleError:
        return
    assert [line.action for line in plan.lines(1)] == list(plan.actions(1))


@given(plans(4))
def test_readers_name_each_reader_once_and_dependencies_only_what_is_in_the_plan(plan: Plan) -> None:
    actions = plan.run_of(plan.schedule.lateness + 2)
    for action in actions:
        assert len(set(readers(action, plan))) == len(readers(action, plan))
        assert set(dependencies(action, plan)) <= set(actions)
        assert all(other.stage != action.stage for other in dependencies(action, plan))


@pytest.mark.parametrize(
    ("action", "waits"),
    [
        ("0F0", ""), ("1F0", "0F0"), ("2F0", "1F0"), ("1P0", ""), ("0S0", ""), ("1S0", ""), ("2B0", ""),
        ("0T0", "1S0"), ("1T0", "2B0"), ("1Q0", "0F0"), ("2Q0", "1F0"), ("0U0", ""), ("1U0", ""),
    ],
)  # fmt: skip
def test_what_waits_for_what_is_as_the_table_of_letters_says(action: str, waits: str) -> None:
    plan = Plan(forward_unlocked(), declared(forward_unlocked(), 3))
    assert format_actions(dependencies(Action.parse(action), plan)) == waits


def test_backward_and_its_halves_wait_for_whichever_makes_the_gradient_above() -> None:
    def waits(text: str, action: str) -> str:
        return format_actions(dependencies(Action.parse(action), written(text)))

    assert waits("0F0 1F0 2F0 2B0 1S0 0B0 0U0 1U0 2U0", "0B0") == "1S0"
    assert waits("0F0 1F0 2F0 2B0 1I0 0I0 0W0 1W0 0U0 1U0 2U0", "0I0") == "1I0"
    assert waits("0F0 1F0 2F0 2B0 1I0 0I0 0W0 1W0 0U0 1U0 2U0", "0W0") == ""


def test_a_synthesizer_that_needs_the_outputs_error_waits_for_the_last_forward_pass() -> None:
    plan = written("0F0 1F0 2F0 2B0 2U0 0S0 0U0 1S0 1U0", (OUTPUT_ERROR, Declaration(), NONE))
    assert format_actions(dependencies(Action.parse("0S0"), plan)) == "2F0"
    assert dependencies(Action.parse("1S0"), plan) == ()
    assert format_actions(readers(Action.parse("2F0"), plan)) == "0S0"


# ---- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_of_no_stages_or_with_another_number_of_ranks_is_refused() -> None:
    with pytest.raises(ScheduleError, match="no stages"):
        Plan(backprop(), ())
    with pytest.raises(ScheduleError, match="1 ranks for 2 stages"):
        Plan(backprop(), (Declaration(), NONE), (0,))


def test_every_stage_has_a_rank_of_its_own_unless_told() -> None:
    assert Plan(backprop(), (NONE,) * 3).ranks == (0, 1, 2)
    assert Plan(backprop(), (NONE,) * 3, (0, 0, 1)).ranks == (0, 0, 1)


@given(plans(4))
def test_the_kinds_of_a_microbatch_are_all_that_the_run_does_with_it(plan: Plan) -> None:
    steps = plan.schedule.lateness + 2
    actions = set(plan.run_of(steps))
    for stage in range(len(plan.stages)):
        for part in range(steps * plan.schedule.microbatches):
            assert plan.kinds(stage, part) == {kind for kind in Kind if Action(stage, kind, part) in actions}
