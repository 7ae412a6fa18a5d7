import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.data import Copying, CopyStream, Curriculum, DataError

numbers = st.integers(1, 6)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(n=numbers, r=numbers, width=numbers, size=numbers, unroll=numbers)
def test_what_is_to_be_written_is_what_was_read(n: int, r: int, width: int, size: int, unroll: int) -> None:
    for task, repeats in ((Copying(width=width), 1), (Copying(repeats=True, width=width), r)):
        inputs, targets, mask = task.batch(n, repeats, size=size, generator=drawn(), multiple_of=unroll)
        assert inputs.shape[1] % unroll == 0 and inputs.shape[1] - task.length(n, repeats) in range(unroll)
        assert inputs.shape[2] == task.inputs and targets.shape[2] == task.outputs
        read = inputs[:, 1 : n + 1, :width]
        written = targets[mask].view(size, -1, task.outputs)[:, : n * repeats, :width]
        for k in range(repeats):
            assert torch.equal(written[:, k * n : (k + 1) * n], read)
        # Nothing counts before all has been read, and nothing behind the sequence's end.
        counted = mask[0].nonzero().flatten().tolist()
        assert counted == list(range(n + 2, task.length(n, repeats))) and bool((mask == mask[0]).all())
        assert not inputs[:, n + 2 :].any() and not targets[~mask].any()


def test_marks_stand_where_they_should() -> None:
    task = Copying(repeats=True, width=3)
    inputs, targets, mask = task.batch(2, 4, size=1, generator=drawn())
    assert inputs[0, :, 3].nonzero().tolist() == [[0]]  # start
    assert inputs[0, :, 4].nonzero().tolist() == [[3]] and inputs[0, 3, 4] == pytest.approx(0.4)  # R, in tens
    assert targets[0, :, 3].nonzero().tolist() == [[12]] and mask[0, 12]  # end
    assert Copying(width=3).batch(2, size=1, generator=drawn()).inputs[0, 3].tolist() == [0, 0, 0, 0, 1]


def test_the_same_seed_gives_the_same_and_padding_changes_no_character() -> None:
    task = Copying()
    one, two = (task.batch(5, size=3, generator=drawn(7), multiple_of=unroll) for unroll in (1, 8))
    other = task.batch(5, size=3, generator=drawn(8))
    assert torch.equal(one.inputs, two.inputs[:, :12]) and not torch.equal(one.inputs, other.inputs)
    assert 0.3 < one.inputs[:, 1:6, :8].mean() < 0.7


def test_the_published_figures_are_lengths_of_repeat_copy() -> None:
    curriculum, lengths = Curriculum(Copying(repeats=True), window=1), []
    while curriculum.n < 9:
        curriculum.see([0.0])
        lengths.append(curriculum.solved)
    assert {5, 7, 19, 23, 33, 39, 59, 67} <= set(lengths)
    assert Copying().solved(18) == 18 and Copying().length(18) == 38


@given(n=numbers, r=numbers)
def test_a_guess_costs_a_bit_and_knowledge_nothing(n: int, r: int) -> None:
    task = Copying(repeats=True, width=3)
    inputs, targets, mask = task.batch(n, r, size=2, generator=drawn(), multiple_of=4)
    guess = task.loss(torch.zeros_like(targets), targets, mask)
    known = task.loss(200 * (targets - 0.5), targets, mask)
    assert guess.shape == mask.shape and not guess[~mask].any()
    for row in range(2):
        assert task.bits(float(guess[row].sum()), n, r) == pytest.approx(1.0)
        assert task.bits(float(known[row].sum()), n, r) == pytest.approx(0.0, abs=1e-6)


def test_bits_are_those_of_the_probabilities() -> None:
    task = Copying(width=2)
    _, targets, mask = task.batch(1, size=1, generator=drawn())
    scores = torch.full_like(targets, math.log(3))  # a one has probability 3/4
    expected = sum(-math.log2(0.75 if digit else 0.25) for digit in targets[mask].flatten().tolist()) / 2
    assert task.bits(float(task.loss(scores, targets, mask).sum()), 1) == pytest.approx(expected)


def test_the_curriculum_advances_under_the_limit_alone() -> None:
    curriculum = Curriculum(Copying(), window=4)
    assert not curriculum.see([0.1, 0.1, 0.1]) and curriculum.n == 1  # too few
    assert not curriculum.see([0.3]) and curriculum.bits == pytest.approx(0.15)  # not below
    assert curriculum.see([0.1]) is False  # 0.1, 0.1, 0.3, 0.1: 0.15
    assert curriculum.see([0.05]) and (curriculum.n, curriculum.solved, curriculum.bits) == (2, 1, None)
    assert not curriculum.see([float("nan")] * 4) and curriculum.n == 2


def test_repeat_copy_grows_by_turns() -> None:
    curriculum, seen = Curriculum(Copying(repeats=True), window=1), []
    for _ in range(6):
        seen.append((curriculum.n, curriculum.r))
        curriculum.see([0.0])
    assert seen == [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (4, 3)]


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_hands_out_whole_sequences_lane_by_lane(seed: int) -> None:
    curriculum = Curriculum(Copying(width=3), window=8)
    stream, lanes = CopyStream(curriculum, 6, 4, seed=seed), 6
    parts: list[list[torch.Tensor]] = [[] for _ in range(lanes)]
    whole, late = 0, set()
    for _ in range(60):
        window = next(stream)
        for lane in range(lanes):
            assert bool(window.first[lane]) == (not parts[lane])
            parts[lane].append(torch.cat([window.inputs[lane], window.targets[lane]], dim=1))
            if window.left[lane] == 0:
                sequence, parts[lane] = torch.cat(parts[lane]), []
                if not sequence.any():  # a lane that is still to begin
                    late.add(lane)
                    continue
                n = int(sequence[:, 4].argmax()) - 1
                assert sequence[0, 3] == 1 and torch.equal(sequence[1 : n + 1, :3], sequence[n + 2 : 2 * n + 2, 5:])
                assert len(sequence) == -(-(2 * n + 2) // 4) * 4
                whole += 1
        stream.score(0.01 * window.mask.sum(1))
    assert whole > 30 and 0 < len(late) < lanes and curriculum.n > 2


def test_sequences_of_a_length_that_is_solved_already_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    curriculum, seen = Curriculum(Copying(width=3), window=3), []

    def see(scores: list[float], plain: Callable[[list[float]], bool] = curriculum.see) -> bool:
        seen.extend(scores)
        return plain(scores)

    monkeypatch.setattr(curriculum, "see", see)
    stream, lengths = CopyStream(curriculum, 4, 2, seed=1), [0, 0, 0, 0]
    passed_over = 0
    for _ in range(60):
        now, window = curriculum.n, next(stream)
        for lane in range(4):
            if window.first[lane]:
                lengths[lane] = now if window.inputs[lane, 0, 3] == 1 else 0
        ended = [lengths[lane] for lane in range(4) if window.left[lane] == 0 and lengths[lane]]
        seen.clear()
        stream.score(0.01 * window.mask.sum(1))
        assert len(seen) == ended.count(now)
        passed_over += len(ended) - ended.count(now)
    assert passed_over > 3


def test_what_is_told_beforehand_comes() -> None:
    curriculum = Curriculum(Copying(width=2), window=4, n=2)  # which fills two windows, without padding
    stream, unroll, ahead = CopyStream(curriculum, 5, 3, seed=2, ahead=7), 3, 7
    said = torch.full((5, 0, 2), 0.0)
    checked = 0
    for _ in range(30):
        window = next(stream)
        now = window.targets.masked_fill(~window.mask.unsqueeze(2), -1.0)  # (B, T, K)
        for lane in range(5):
            if not window.first[lane]:
                assert torch.equal(said[lane, :unroll], now[lane])
                checked += int(window.mask[lane].sum())
            rest = int(window.left[lane]) * unroll
            assert (window.coming[lane, rest:] == -1).all()  # of the next sequence nothing is told
        assert window.coming.shape == (5, ahead, 2)
        said = window.coming
    assert checked > 30
    with pytest.raises(DataError, match="ahead is -1, expected 0 steps or more"):
        CopyStream(curriculum, 5, 3, seed=2, ahead=-1)


def test_streams_of_a_seed_are_the_same() -> None:
    one, two, other = (CopyStream(Curriculum(Copying()), 3, 4, seed=seed) for seed in (5, 5, 6))
    same = [torch.equal(next(one).inputs, next(two).inputs) for _ in range(9)]
    assert all(same) and any(not torch.equal(next(two).inputs, next(other).inputs) for _ in range(9))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"n": 0}, "n is 0"), ({"n": 1, "size": 0}, "size is 0"), ({"n": 1, "r": 2}, "pass repeats=True")],
)
def test_impossible_sequences(given: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Copying().batch(**({"size": 2} | given), generator=drawn())  # type: ignore


def test_impossible_settings() -> None:
    with pytest.raises(DataError, match="width is 0, expected 1 or more"):
        Copying(width=0)
    with pytest.raises(DataError, match="limit is 0, expected a number of bits above 0"):
        Curriculum(Copying(), limit=0)
    with pytest.raises(DataError, match="window is 0, expected 1 sequence or more"):
        Curriculum(Copying(), window=0)
    with pytest.raises(DataError, match="got 2 lanes and windows of 0 steps"):
        CopyStream(Curriculum(Copying()), 2, 0, seed=0)
