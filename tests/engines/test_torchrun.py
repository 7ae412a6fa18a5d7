"""One script, one process or several: the same model comes out."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "02_one_process_per_stage.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def printed(*launcher: str) -> list[str]:
    command = [sys.executable, *launcher, str(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_example_prints_the_same_error_from_one_process_and_from_two() -> None:
    alone, together = printed(), printed(*TORCHRUN)
    assert len(alone) == len(together) == 11  # ten epochs, and the error: once
    assert alone[-1] == together[-1]
    assert alone[-1].startswith("test error") and float(alone[-1].split()[2]) < 4
