from pathlib import Path

import pytest

from synthgrad.cli.main import main

MODEL = """
import torch
from torch import nn

class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.a(x)
        return self.c(self.b(h) + h)

def build():
    return Skip(), (torch.randn(4, 8), torch.randint(0, 3, (4,))), nn.functional.cross_entropy
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "skipping.py"
    path.write_text(MODEL, "utf-8")
    return path


@pytest.mark.parametrize("at", ["a", "a,b", "b"])
def test_the_status_says_whether_it_can_be_cut(at: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{model}:build", "--at", at]) == int("b" in at)
    said = capsys.readouterr().out
    if at == "a":
        assert "can be cut so" in said and "float32 (4, 8)" in said and "CriticSynthesizer" in said
    else:
        assert "cannot be cut so" in said and "refused, not yet: b: the output of 'a' bypasses the cut at 'b'" in said


def test_a_file_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nowhere.py:build", "--at", "a"]) == 2
    assert "no such file" in capsys.readouterr().err
