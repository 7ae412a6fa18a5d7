"""One script, one process or several: the same model comes out."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "02_one_process_per_stage.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
REPLICAS = SCRIPT.with_name("09_stages_times_data.py")


def printed(*launcher: str, script: Path = SCRIPT) -> list[str]:
    command = [sys.executable, *launcher, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_prints_the_same_error_from_one_process_and_from_two() -> None:
    alone, together = printed(), printed(*TORCHRUN)
    assert len(alone) == len(together) == 11  # ten epochs, and the error: once
    assert alone[-1] == together[-1]
    assert alone[-1].startswith("test error") and float(alone[-1].split()[2]) < 4


def test_two_stages_on_four_processes_choose_their_cut_together_and_learn() -> None:
    lines = printed(*TORCHRUN[:-1], "4", script=REPLICAS)
    assert [line.split()[0] for line in lines] == ["epoch"] * 6 + ["test"]  # once, not four times
    losses = [float(line.split()[-1]) for line in lines[:-1]]
    assert losses[-1] < losses[0] / 2 and float(lines[-1].split()[2]) < 8


RESTART = SCRIPT.with_name("04_restart.py")
KILLED = """
import os, runpy, signal, sys
import synthgrad as sg

save = sg.Decoupled.save
def struck(net, folder, **given):
    done = save(net, folder, **given)
    if net.engine.stages[0].index and given["extra"] == 3 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return done
sg.Decoupled.save = struck
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_torchrun_starts_a_killed_run_anew_and_it_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED.replace("sys.argv[1],", f"{str(RESTART)!r},"), encoding="utf-8")
    command = [sys.executable, *TORCHRUN, "--max-restarts", "1", str(tmp_path / "killed.py"), str(tmp_path / "run")]
    apart = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=apart)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr or "Signal 9" in done.stderr  # one was killed, in truth
    alone = subprocess.run(
        [sys.executable, str(RESTART), str(tmp_path / "alone")], capture_output=True, text=True, timeout=90, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["0", "1", "2", "3", "4", "5"]
    assert lines[-1] == alone.stdout.splitlines()[-1] and lines[-1].startswith("test error")
