"""Every builder's schedule, as text that a person can read, held in the files beside this one.

A change of a file is a change of what is trained: read the difference against DESIGN.md, section 3. Written anew by

    python tests/golden/test_golden.py
"""

from pathlib import Path

import pytest

from synthgrad.core.combined import eager, teach_every, true_every, warm_up
from synthgrad.core.pipelines import gpipe, one_f_one_b
from synthgrad.core.schedules import Schedule, backprop, error_broadcast, forward_unlocked, sporadic, update_unlocked

HERE = Path(__file__).parent
STAGES = STEPS = 3

SCHEDULES: dict[str, Schedule] = {
    "backprop": backprop(),
    "backprop_teach": backprop(teach=True),
    "gpipe_3": gpipe(3),
    "one_f_one_b_4": one_f_one_b(4),
    "update_unlocked_0": update_unlocked(0),
    "update_unlocked_1": update_unlocked(1),
    "update_unlocked_microbatches_2": update_unlocked(microbatches=2),
    "forward_unlocked_0": forward_unlocked(0),
    "forward_unlocked_1": forward_unlocked(1),
    "error_broadcast": error_broadcast(),
    "error_broadcast_microbatches_2": error_broadcast(microbatches=2),
    "sporadic_seed_7": sporadic(0.5, seed=7),
    "warm_up_1": warm_up(1, update_unlocked()),
    "teach_every_2_delay_1": teach_every(2, update_unlocked(1)),
    "true_every_2_microbatches_2": true_every(2, update_unlocked(microbatches=2)),
}


def golden(schedule: Schedule) -> str:
    forms = [
        f"# {form.name}: {STAGES} stages, {STEPS} steps; a line each, and one more for what is left to flush\n"
        f"{form.text(STAGES, STEPS)}\n"
        for form in (schedule, eager(schedule))
    ]
    return "\n".join(forms)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_the_golden_one(name: str) -> None:
    assert golden(SCHEDULES[name]) == (HERE / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_belongs_to_a_schedule() -> None:
    assert {path.stem for path in HERE.glob("*.txt")} == set(SCHEDULES)


if __name__ == "__main__":
    for name, schedule in SCHEDULES.items():
        (HERE / f"{name}.txt").write_text(golden(schedule), encoding="utf-8", newline="\n")
