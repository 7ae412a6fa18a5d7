from pathlib import Path
from statistics import fmean

import pytest
from rich.console import Console

from synthgrad.experiments.recurrent.results import RecurrentResult, read_recurrent_results, recurrent_summaries
from synthgrad.experiments.recurrent.tables import recurrent_markdown, recurrent_table
from synthgrad.experiments.results import ResultsError, encode_result


def copied(method: str, seed: int, solved: int, unroll: int = 4, ms: float = 1.0) -> RecurrentResult:
    return RecurrentResult("copy", method, unroll, seed, 100, solved=solved, ms_per_step=ms)


CELLS = [
    copied("bptt-4", 0, 10),
    copied("bptt-4", 1, 8),
    copied("dni-4:lr=1e-4", 0, 18, ms=1.5),
    copied("dni-4:lr=1e-4", 1, 19, ms=1.5),
    copied("bptt-8", 0, 12, 8),
    copied("dni-8", 0, 6, 8),
    RecurrentResult("copy", "dni-8", 8, 1, 7, failed="the loss is nan"),
]


def test_methods_are_compared_at_the_same_window() -> None:
    plain, better, _, worse = recurrent_summaries(CELLS)
    assert (plain.ratio, plain.difference, plain.times) == (None, None, None)
    assert better.ratio == pytest.approx(18.5 / 9) and better.times == 1.5
    assert better.difference is not None and better.difference.mean == fmean([8, 11])
    assert worse.ratio == 0.5 and worse.failed == 1 and worse.score is not None and worse.score.n == 1


def test_of_text_no_ratio_is_told() -> None:
    cells = [
        RecurrentResult("text", name, 5, 0, 10, test_bits=bits) for name, bits in (("bptt-5", 2.0), ("dni-5", 1.9))
    ]
    _, ours = recurrent_summaries(cells)
    assert ours.ratio is None and ours.difference is not None and ours.difference.mean == pytest.approx(-0.1)
    assert "| dni-5 | 10 | 1.900 | -0.100 | - | - | - |" in recurrent_markdown([ours])


def test_results_are_the_same_when_read_back(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("".join(f"{encode_result(cell)}\n" for cell in CELLS), encoding="utf-8")
    assert read_recurrent_results(path) == CELLS


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: "), ('{"task": "copy"}', "no field 'method'"), ('{"tsak": "copy"}', "unknown field 'tsak'")],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(f"{encode_result(CELLS[0])}\n{line}\n", encoding="utf-8")
    with pytest.raises(ResultsError, match=f"all.jsonl, line 2: .*{message.removeprefix('line 2: ')}"):
        read_recurrent_results(path)


def drawn(what: object) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(what)
    console.file.close()
    return console.export_text()


def test_the_table_fits_into_80_columns() -> None:
    text = drawn(recurrent_table(recurrent_summaries(CELLS)))
    assert "18.5 ± 0.7" in text and "2.06" in text and "1.5 (1.5×)" in text and "(1 failed)" in text
    assert max(map(len, text.splitlines())) <= 80
