"""`synthgrad bench` in a real process."""

import json
import subprocess
import sys
from pathlib import Path


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "synthgrad.cli.main", "bench", *arguments], capture_output=True, text=True
    )


def test_it_prints_ratios_and_writes_them_as_json(tmp_path: Path) -> None:
    done = bench("startup", "--rounds", "1", "--json", str(tmp_path / "b.json"))
    assert done.returncode == 0 and "import_synthgrad_over_torch" in done.stdout
    found = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert found["name"] == "startup" and found["command"].startswith("synthgrad bench startup")


def test_bad_input_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    for arguments, said in (
        (["stop"], "'stop'"),
        (["step", "--rounds", "0"], "rounds is 0"),
        (["startup", "--json", str(tmp_path / "none" / "b.json")], "cannot be written"),
    ):
        done = bench(*arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
