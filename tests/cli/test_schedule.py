import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

from synthgrad.cli.main import main
from synthgrad.cli.schedule import BUILDERS
from synthgrad.core.jitter import DISTRIBUTIONS, jittered
from synthgrad.core.pipelines import one_f_one_b
from synthgrad.core.plan import Declaration, Plan
from synthgrad.core.simulate import UNIT_COSTS, simulate

GOLDEN = Path(__file__).parents[1] / "golden"
LOCKED, FORWARD = "forward, update, backward", "forward"
WAITS = {
    "backprop": LOCKED,
    "gpipe": LOCKED,
    "one_f_one_b": LOCKED,
    "eager_one_f_one_b": LOCKED,
    "interleaved": LOCKED,
    "zero_bubble": LOCKED,
    "pipedream_2bw": LOCKED,
    "update_unlocked": FORWARD,
    "forward_unlocked": "nothing",
    "sporadic": FORWARD,
}


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["schedule", *arguments]) == 0
    return capsys.readouterr().out


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["schedule", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("name", BUILDERS)
def test_every_schedule_is_shown_with_its_locks(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = ["--ranks", "1"] if name == "interleaved" else []  # of which 3 stages are a multiple
    shown = said(capsys, "show", name, "--stages", "3", "--steps", "6", *ranks)
    assert re.findall(r"^stage (\d): (\d)F0", shown, re.MULTILINE)[0] == ("0", "0")
    assert len(re.findall(r"^stage \d: .* waits for ", shown, re.MULTILINE)) == 3
    assert shown.rstrip().splitlines()[-1].endswith(f" waits for {WAITS[name]}")


def test_what_is_shown_is_what_stands_in_the_golden_file(capsys: pytest.CaptureFixture[str]) -> None:
    heading, *golden = (GOLDEN / "update_unlocked_1.txt").read_text("utf-8").split("\n\n")[0].splitlines()
    assert "3 stages, 3 steps" in heading
    shown = said(capsys, "show", "update_unlocked", "--stages", "3", "--delay", "1", "--steps", "3")
    assert shown.split("\n\n")[0].splitlines() == golden


def test_a_schedule_of_ones_own_is_shown_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("0F0 0S0 0U0\n1F0 1B0 1U0\n0T0\n", "utf-8")
    assert "stage 0: 0F0 0S0 0U0 0T0 0F1" in said(capsys, "show", "--file", str(file))
    assert "Valid: 2 stages, waits for forward." in said(capsys, "check", "--file", str(file))
    assert "makespan    4 " in said(capsys, "simulate", "--file", str(file))


def test_a_text_that_cannot_be_executed_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    lines = complaint(capsys, "check", "0F0 1F0 0B0 1B0 0U0 1U0").splitlines()
    assert "0B0: stands before 1B0, which it needs" in lines[0]
    assert lines[1].index("0B0") == lines[2].index("^^^")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "gpip"), "did you mean 'gpipe'"),
        (("show",), "expected the name of a schedule or --file"),
        (("show", "backprop", "--file", "x"), "one of the two"),
        (("show", "--file", "/nowhere/at/all"), "cannot be read"),
        (("show", "backprop", "--delay", "1"), "takes no --delay"),
        (("show", "update_unlocked", "--delay", "-1"), "at least 0"),
        (("show", "sporadic", "--p", "2"), "between 0 and 1"),
        (("show", "backprop", "--stages", "0"), "stages is 0"),
        (("show", "backprop", "--steps", "0"), "steps is 0"),
        (("simulate", "backprop", "--latency", "-1"), "latency is -1"),
        (("simulate", "backprop", "--latency", "nan"), "latency is nan"),
        (("simulate", "backprop", "--jitter", "-1"), "jitter: deviation is -1"),
        (("simulate", "backprop", "--distribution", "cauchy"), "'cauchy': unknown; expected one of lognormal, uniform"),
        (("simulate", "backprop", "--jitter", "0.6", "--distribution", "uniform"), "at most 0.577 where it is uniform"),
        (("simulate", "interleaved", "--stages", "3"), "multiple of the 2 ranks"),
        (("simulate", "pipedream_2bw", "--stages", "9"), "9 microbatches are under way"),
        (("check", "0X0"), "with a letter out of"),
        (("check", ""), "expected a text"),
        (("check", "5F0"), "names 1 stages"),
    ],
)
def test_bad_input_is_told_in_one_message(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in " ".join(complaint(capsys, *arguments).split())


def test_simulation_says_how_long_how_idle_and_what_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(
        capsys, "simulate", "one_f_one_b", "--stages", "4", "--microbatches", "8", "--latency", "0.5", "--steps", "2"
    )
    timeline = simulate(Plan(one_f_one_b(8), (Declaration(synthesizer=False),) * 4), steps=2, links=0.5)
    assert f"makespan    {timeline.makespan:g} " in shown
    assert f"idle share  {100 * timeline.idle_share:.1f} %" in shown
    held = re.findall(r"^  stage (\d): (\d+)$", shown, re.MULTILINE)
    assert held == [(str(stage), str(timeline.activations_held(stage))) for stage in range(4)]


def test_jitter_is_drawn_as_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(one_f_one_b(8), (Declaration(synthesizer=False),) * 4)
    seen = set()
    for distribution in DISTRIBUTIONS:
        for seed in (0, 3):
            more = ["--jitter", "0.5", "--distribution", distribution, "--jitter-seed", str(seed)]
            shown = said(capsys, "simulate", "one_f_one_b", "--stages", "4", "--microbatches", "8", *more)
            costs = jittered(UNIT_COSTS, 0.5, seed, distribution=distribution)
            assert f"makespan    {simulate(plan, costs=costs).makespan:g} " in shown
            assert f"{distribution} jitter 0.5" in shown
            seen.add(re.search(r"makespan +(\S+)", shown)[1])  # type: ignore[index]
    assert len(seen) == 2 * len(DISTRIBUTIONS)


def test_neighbors_that_hold_as_much_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "  stages 0-99: 1\n" in said(capsys, "simulate", "update_unlocked", "--stages", "100", "--microbatches", "8")


def test_schedules_are_looked_at_without_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "synthgrad.cli.main", "schedule", "simulate", "backprop"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in re.findall(r"\|\s*([\w.]+)$", ran.stderr, re.MULTILINE)}
    assert "synthgrad" in imported and not {"torch", "numpy"} & imported


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_the_impact_of_locking_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "locking.svg"] + [tmp_path / "locking.png"] * (find_spec("resvg_py") is not None)
    said(capsys, "compare", "--stages", "2", "--microbatches", "4", "--out", *map(str, files))
    texts = [text.text for text in ElementTree.parse(files[0]).iter("{http://www.w3.org/2000/svg}text")]
    for word in ("number of stages", "GPipe", "1F1B", "interleaved", "zero bubble", "2BW", "unlocked", "100 %"):
        assert word in texts
    for file in files[1:]:
        assert file.read_bytes().startswith(b"\x89PNG")


def test_names_in_the_picture_do_not_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "locking.svg"
    said(capsys, "compare", "--stages", "2", "--microbatches", "4", "--out", str(file))
    boxes = []
    for text in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text"):
        x, y, size, words = float(text.get("x", 0)), float(text.get("y", 0)), float(text.get("font-size", 0)), text.text
        width = 0.58 * size * len(words or "")  # a wide sans-serif
        left = x - {"middle": width / 2, "end": width}.get(text.get("text-anchor", ""), 0.0)
        boxes.append((left, left + width, y - 0.75 * size, y + 0.2 * size, words))
    for place, (left, right, top, bottom, words) in enumerate(boxes):
        assert left >= 0 and right <= 1600 and top >= 0 and bottom <= 900, words
        for other in boxes[place + 1 :]:
            apart = right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
            assert apart, (words, other[4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "locking.jpg"), "ends in .svg or .png"),
        (("--out", "/nowhere/at/all.svg"), "no such folder"),
        (("--stages", "1"), "ranks is 1"),
        (("--stages", "3", "--microbatches", "4"), "multiple of the 3 ranks"),
        (("--synthesizer", "-1"), "synthesizer is -1"),
        (("--distribution", "cauchy"), "'cauchy': unknown"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_one_message(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(capsys, "compare", *arguments)
