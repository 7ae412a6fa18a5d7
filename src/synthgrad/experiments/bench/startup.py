"""`startup`: what it takes until something happens; in fresh processes, since a second import costs nothing."""

import subprocess
import sys
from statistics import median

from synthgrad.experiments.bench.measurement import interleaved

__all__ = ["run"]

# Not only the package: also what `decouple` brings, which is imported when it is first used.
IMPORTS = """
import time
start = time.perf_counter()
import torch
between = time.perf_counter()
import synthgrad
synthgrad.decouple
print(between - start, time.perf_counter() - between)
"""


def run(rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds: of `import torch`, of `import synthgrad` beyond it, of `synthgrad --help`; and ratios to the first."""
    torch_s, ours_s = zip(*(_imports() for _ in range(rounds)), strict=True)
    help_ms = interleaved({"help": _help}, rounds, warm_up=1)["help"]
    figures = {
        "import_torch_s": median(torch_s),
        "import_synthgrad_beyond_torch_s": median(ours_s),
        "help_s": help_ms / 1e3,
    }
    return {"import_synthgrad_over_torch": median(ours_s) / median(torch_s)}, figures


def _imports() -> tuple[float, float]:
    said = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
    first, second = map(float, said.split())
    return first, second


def _help() -> None:
    subprocess.run([sys.executable, "-m", "synthgrad.cli.main", "--help"], capture_output=True, check=True)
