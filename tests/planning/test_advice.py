"""What is said of made-up models, where it is known what is right."""

from dataclasses import replace

import pytest

from synthgrad.core.errors import LinkError, PlanningError
from synthgrad.planning.advice import Advice, advise
from synthgrad.planning.balance import Segment
from synthgrad.planning.options import Family, Option


def segments(
    count: int = 8,
    *,
    synthesis: float = 0.0,
    boundary: float = 1e6,
    parameters: float = 1e6,
    prediction: float | None = None,
) -> list[Segment]:
    """Equal ones, of 3 seconds each: F=B=W."""
    return [
        Segment(
            f"layer{i}", 1.0, 2.0, 1.0, 1.0,
            synthesis=synthesis, boundary=boundary, parameters=parameters, activation=64e6, synthesizer=1e5,
            prediction=prediction, input_lesson=prediction or 0.0, predictor=1e5 * (i + 1),
        )
        for i in range(count)
    ]  # fmt: skip


def named(advice: Advice, name: str) -> Option:
    return next(option for option in advice.options if option.name == name)


def test_on_free_links_every_step_takes_what_the_closed_forms_say() -> None:
    advice = advise(segments(synthesis=0.6), devices=4, microbatches=16)
    work = 2 * 3.0  # two segments a stage
    expected = {
        "plain back-propagation": (24.0, 0.0),
        "gpipe(16)": (work * 19 / 16, 3 / 19),
        "one_f_one_b(16)": (work * 19 / 16, 3 / 19),
        "zero_bubble(16)": (work * 17 / 16, 1 / 17),
        "interleaved(16, ranks=4)": (work * 35 / 32, 3 / 35),
        "pipedream_2bw(16)": (work, 0.0),
        "update_unlocked(delay=0)": (work + 0.6, 1 - (4 * work + 3 * 0.6) / (4 * (work + 0.6))),
    }
    for name, (seconds, idle) in expected.items():
        option = named(advice, name)
        assert option.seconds == pytest.approx(seconds, rel=1e-9), name
        assert option.idle == pytest.approx(idle, abs=1e-9), name
    assert named(advice, "update_unlocked(delay=0)").extra == pytest.approx(1.8 / 24)


def test_the_complete_unlock_pays_for_a_second_forward_pass_and_its_input_synthesizers() -> None:
    advice = advise(segments(synthesis=0.6, prediction=0.3), devices=4, microbatches=16)
    option = named(advice, "forward_unlocked(delay=0)")
    assert option.family is Family.UNLOCKED and option.predicts_inputs
    pace = 2 * 3.0 + 0.6 + 2.0 + 0.6  # F again, and twice 0.3: what P and Q take longer
    assert option.seconds == pytest.approx(pace)
    assert option.extra == pytest.approx((3 * 0.6 + 3 * (2.0 + 0.6)) / 24)
    plain = named(advice, "update_unlocked(delay=0)")
    assert option.traffic == plain.traffic == 1e6
    # Behind a cut: the input synthesizer with its averages, and what it predicted, until it learns from the real one.
    more = [mine - its for mine, its in zip(option.memories, plain.memories, strict=True)]
    assert more == pytest.approx([0.0, 4 * 2e5 + 1e6, 4 * 4e5 + 1e6, 4 * 6e5 + 1e6])
    assert not any("No row for the complete unlock" in one for one in advice.words())
    without = advise(segments(synthesis=0.6), devices=4, microbatches=16)
    assert not any(one.predicts_inputs for one in without.options)
    assert any("No row for the complete unlock" in one for one in without.words())


def test_the_complete_unlock_bears_latency_as_the_update_unlock_does() -> None:
    advice = advise(segments(synthesis=0.6, prediction=0.3), 4, 16, ["30s"])
    option = next(one for one in advice.options if one.predicts_inputs)
    assert option.seconds == pytest.approx(9.2) and option.name != "forward_unlocked(delay=0)"


def test_the_stages_of_an_option_are_those_between_its_cuts() -> None:
    advice = advise(segments(synthesis=0.6), devices=4, microbatches=16)
    option = named(advice, "gpipe(16)")
    stages = advice.stages(option)
    assert [one.name for one in stages] == ["layer1", "layer3", "layer5", "layer7"] and len(option.memories) == 4
    assert {one.forward for one in stages} == {2.0}


def test_memory_and_traffic_are_those_of_the_table() -> None:
    advice = advise(segments(), devices=4, microbatches=16)
    weights = 2e6  # of a stage
    part = 2 * 64e6 / 16  # a stage's activations of one microbatch
    expected = {
        "gpipe(16)": 16 * part + 4 * weights,
        "one_f_one_b(16)": 4 * part + 4 * weights,
        "zero_bubble(16)": 4 * part + 4 * weights,
        "pipedream_2bw(16)": 4 * part + 5 * weights,  # two versions
        "update_unlocked(delay=0, microbatches=16)": part + 1e6 + 4 * weights + 4e5,  # all its boundaries wait
    }
    for name, size in expected.items():
        assert named(advice, name).memory == pytest.approx(size), name
        assert named(advice, name).traffic == pytest.approx(1e6), name
    assert named(advice, "interleaved(16, ranks=4)").traffic == pytest.approx(2e6)
    assert named(advice, "data parallel").traffic == pytest.approx(2 * 3 / 4 * 8e6)


def test_the_break_even_is_said_in_words() -> None:
    said = advise(segments(synthesis=0.6), devices=4, microbatches=16).words()[0]
    assert "4 stages and 16 microbatches" in said and "less than 18.8 % of a stage" in said
    assert "10.0 % of the slowest" in said and "the bar is 6.2 %" in said and "one 0 %" in said


def test_plain_back_propagation_is_said_to_be_better_where_links_are_slow_and_synthesizers_dear() -> None:
    advice = advise(segments(synthesis=30.0, boundary=1e9), 2, 4, ["1MBps,60s"])
    assert advice.fastest.family is Family.ALONE
    assert any("Plain back-propagation on one device is the better choice" in one for one in advice.words())


def test_data_parallelism_is_said_to_be_better_for_small_models_on_fast_links() -> None:
    advice = advise(segments(synthesis=1.0, parameters=1e3), 4, 16, ["10GBps"])
    assert advice.fastest.family is Family.REPLICAS
    assert any("Data parallelism is the better choice" in one for one in advice.words())


def test_an_asynchronous_pipeline_is_said_to_be_better_wherever_it_is_as_fast() -> None:
    words = advise(segments(synthesis=0.6, parameters=1e12), 4, 16, ["1GBps"]).words()
    assert any("An asynchronous pipeline is the better choice" in one and "simulates it only" in one for one in words)


def test_decoupling_wins_over_slow_links_and_the_call_says_how() -> None:
    advice = advise(segments(synthesis=0.3, parameters=1e12), 4, 4, ["100s"])
    assert advice.decoupled is not None and advice.fastest is advice.decoupled
    assert advice.taken.family is Family.UNLOCKED
    call = advice.call()
    assert f"at={list(advice.taken.cuts)!r}" in call and "schedule=sg.update_unlocked(delay=" in call
    assert advice.command == "torchrun --nproc-per-node 4 train.py"
    locked = advise(segments(synthesis=30.0), devices=4, microbatches=16)
    assert "synthesizer=None" in locked.call() and "schedule=sg.zero_bubble(16)" in locked.call()


def test_the_call_names_what_the_measurement_was_given() -> None:
    given = ("synthesizer", "input_synthesizer")
    advice = advise(segments(synthesis=0.3, prediction=0.1), 4, 4, given=given)
    (complete,) = (one for one in advice.options if one.predicts_inputs)
    call = replace(advice, options=(complete,)).call()
    assert "    synthesizer=synthesizer,\n    input_synthesizer=input_synthesizer,\n" in call
    chosen = replace(advice, options=(complete,), given=()).call()
    assert "    input_synthesizer=sg.MLPInputSynthesizer,\n" in chosen and "    synthesizer=" not in chosen


def test_one_device_is_told_to_stay_as_it_is() -> None:
    advice = advise(segments(), devices=1, microbatches=1)
    assert [option.family for option in advice.options] == [Family.ALONE] and "One device" in advice.words()[0]
    assert (advice.call(), advice.command) == ("", "python train.py")


@pytest.mark.parametrize(("devices", "microbatches"), [(0, 4), (2, 0), (9, 9)])
def test_bad_numbers_are_refused(devices: int, microbatches: int) -> None:
    with pytest.raises(PlanningError, match="expected"):
        advise(segments(), devices, microbatches)
    with pytest.raises(LinkError, match="0 to 1"):
        advise(segments(), 2, 4, ["0-2=1ms"])


# ---- stages that are data parallel -----------------------------------------------------------------------------------


def shared(advice: Advice, family: Family) -> Option:
    """The one with data-parallel stages."""
    (found,) = (option for option in advice.of(family) if option.replicas > 1)
    return found


def test_data_parallel_stages_take_what_the_closed_forms_say() -> None:
    advice = advise(segments(synthesis=0.6), devices=4, microbatches=16)
    stage = 4 * 3.0 / 2  # four segments on half the rows
    expected = {
        Family.LOCKED: ("zero_bubble(8)", stage * (8 + 1 / 3) / 8, (1 / 3) / (8 + 1 / 3)),
        Family.STALE: ("pipedream_2bw(8)", stage, 0.0),
        Family.UNLOCKED: ("update_unlocked(delay=0)", stage + 0.3, 1 - (2 * stage + 0.3) / (2 * (stage + 0.3))),
    }
    for family, (name, seconds, idle) in expected.items():
        option = shared(advice, family)
        assert (option.name, option.replicas, option.cuts) == (name, 2, ("layer3",))
        assert option.title == f"{name}, 2 stages × 2"
        assert option.seconds == pytest.approx(seconds, rel=1e-9) and option.idle == pytest.approx(idle, abs=1e-9)
    unlocked = shared(advice, Family.UNLOCKED)
    assert unlocked.memory == pytest.approx(4 * 64e6 / 2 + 1e6 / 2 + 4 * 4e6 + 4e5)
    assert unlocked.traffic == pytest.approx(2 * (1 - 1 / 2) * (4e6 + 1e5))  # more than half a boundary
    assert unlocked.extra == pytest.approx(0.3 / (2 * stage))
    assert not any(option.replicas > 1 for option in advise(segments(), 3, 6).options)  # of 3 devices there are none


@pytest.mark.parametrize(("devices", "places"), [(4, 2), (6, 2), (8, 2)])
def test_their_gradients_are_waited_for(devices: int, places: int) -> None:
    """The ring takes 2(R-1)/R of a stage's gradients, the synthesizer's included, over the bandwidth; and so does U."""
    advice = advise(segments(24, synthesis=0.6, boundary=1.0, parameters=1e6), devices, devices, ["100MBps"])
    replicas = devices // places
    stage = 24 // places * 3.0 / replicas + 0.6 / replicas
    exchange = 2 * (replicas - 1) / replicas * (24 // places * 1e6 + 1e5) / 100e6
    one = shared(advice, Family.UNLOCKED)
    assert one.replicas == replicas and one.seconds == pytest.approx(stage + exchange, rel=1e-6)


def test_the_slowest_replicas_link_counts_and_one_between_no_neighbors_does_not() -> None:
    """Devices 0 and 1 hold the first stage, 2 and 3 the second; so 0-2 and 1-3 are pipelines, 0-1 and 2-3 rings."""

    def seconds(*links: str) -> float:
        return shared(advise(segments(synthesis=0.6), 4, 4, links), Family.LOCKED).seconds

    free = seconds()
    assert seconds("0-3=2s") == seconds("1-2=2s") == free
    assert seconds("0-2=2s") == seconds("1-3=2s") > free
    assert seconds("0-1=2s") == pytest.approx(free + 2 * 2)  # both hops of a ring of two
    assert free < seconds("2-3=2s") < free + 2 * 2  # the first stage is still at work then


def test_where_data_parallel_stages_are_faster_the_words_say_so_and_the_call_cuts_less() -> None:
    advice = advise(segments(synthesis=2.0), devices=4, microbatches=8)
    assert advice.taken is shared(advice, Family.LOCKED)
    words = " ".join(advice.words())
    assert "Locked, fewer stages are the better choice, each data parallel on 2 devices: 2 of them take" in words
    assert "Decoupled, fewer stages are the better choice" in words
    assert "at=['layer3']" in advice.call() and "schedule=sg.zero_bubble(4)" in advice.call()
    assert advice.command == "torchrun --nproc-per-node 4 train.py"
    heavy = advise(segments(synthesis=0.6, parameters=1e12), 4, 8, ["1GBps"])
    assert heavy.taken.replicas == 1 and "fewer stages" not in " ".join(heavy.words())
