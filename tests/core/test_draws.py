"""Random numbers by key: the same for whoever draws them, and no trace in the script's own stream."""

import torch
from torch import Tensor

from synthgrad.core.draws import Draws, common_stream


def drawn(draws: Draws, what: str = "F", microbatch: int = 0) -> list[float]:
    with draws.of(what, microbatch):
        return torch.rand(4).tolist()


def test_the_key_decides_and_each_part_of_it_counts() -> None:
    torch.manual_seed(0)
    first = drawn(Draws(0, 1), "F", 2)
    torch.manual_seed(5)
    torch.rand(100)
    again = Draws(0, 1)
    drawn(again, "S", 7)
    assert drawn(again, "F", 2) == first
    others = [drawn(Draws(1, 1), "F", 2), drawn(Draws(0, 2), "F", 2), drawn(again, "P", 2), drawn(again, "F", 3)]
    assert all(other != first for other in others) and len({tuple(other) for other in others}) == 4


def test_the_scripts_stream_goes_on_and_keeps_its_seed() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3).tolist()
    torch.manual_seed(3)
    draws = Draws(0, 0)
    for microbatch in range(3):
        drawn(draws, "F", microbatch)
        with draws.of("U", microbatch):
            pass
    assert torch.rand(3).tolist() == expected and torch.initial_seed() == 3


def test_what_draws_within_something_else_leaves_its_stream_alone() -> None:
    """As the answer within T: the rest of T draws the same, whether it is asked for there or not."""
    draws = Draws(0, 0)
    with draws.of("T", 4):
        alone = torch.rand(3)
    with draws.of("T", 4):
        inner = drawn(draws, "answer", 4)
        beside = torch.rand(3)
    assert torch.equal(alone, beside) and inner == drawn(Draws(0, 0), "answer", 4)


def test_what_has_not_drawn_at_first_is_not_looked_at_again() -> None:
    draws = Draws(0, 0)
    with draws.of("F", 0):
        pass
    torch.manual_seed(1)
    expected = torch.rand(4).tolist()
    torch.manual_seed(1)
    assert drawn(draws, "F", 1) == expected  # the script's stream: nothing is swapped


def test_what_begins_to_draw_later_is_noticed_and_the_scripts_stream_put_back() -> None:
    draws = Draws(0, 0)
    with draws.of("F", 0):
        pass
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with common_stream([draws]):
        drawn(draws, "F", 1)
    assert torch.equal(torch.get_rng_state(), before)
    with common_stream([draws]):
        assert drawn(draws, "F", 2) == drawn(Draws(0, 0), "F", 2)


def test_an_error_on_the_way_leaves_the_scripts_stream_too() -> None:
    draws = Draws(0, 0)
    before: Tensor = torch.get_rng_state()
    try:
        with common_stream([draws]), draws.of("F", 0):
            torch.rand(3)
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(torch.get_rng_state(), before)
