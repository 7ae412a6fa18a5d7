import re
import subprocess
import sys

import pytest

from synthgrad.cli.main import main


def test_help_and_version_do_without_torch() -> None:
    for argument in ("--help", "--version"):
        command = [sys.executable, "-X", "importtime", "-m", "synthgrad.cli.main", argument]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        imported = re.findall(r"\|\s*([\w.]+)$", ran.stderr, re.MULTILINE)
        assert "synthgrad.cli.compare" in imported or argument == "--version"
        assert [name for name in imported if name.split(".")[0] in ("torch", "numpy")] == []
        assert "synthgrad" in ran.stdout


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert "compare" in capsys.readouterr().out


def test_bad_input_is_one_message_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--methods", "cdn"]) == 2
    captured = capsys.readouterr()
    assert "did you mean 'cdni'" in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_an_unknown_option_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--seedz", "3"])
    assert ended.value.code == 2
