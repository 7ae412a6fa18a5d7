"""Tables in pages are made from files, and only between their marks."""

import json
from pathlib import Path

import pytest

from synthgrad.experiments.pages import draw, fill, main
from synthgrad.experiments.recurrent.results import RecurrentResult
from synthgrad.experiments.results import Result, ResultsError, encode_result

PAGE = "before\n<!-- table: {name} -->\nstale\n<!-- end -->\nafter\n"


def test_a_comparison_becomes_its_summary_and_says_where_it_comes_from(tmp_path: Path) -> None:
    cells = [
        Result(
            method, seed, 10, test_error=error, ms_per_step=1.0, command="synthgrad compare", versions={"torch": "2"}
        )
        for method, error in (("bp", 0.01), ("cdni", 0.02))
        for seed in (0, 1)
    ]
    (tmp_path / "r.jsonl").write_text("".join(encode_result(cell) + "\n" for cell in cells), encoding="utf-8")
    filled = fill(PAGE.format(name="r.jsonl"), tmp_path)
    assert filled.startswith("before\n<!-- table: r.jsonl -->\n|") and filled.endswith("<!-- end -->\nafter\n")
    assert "stale" not in filled and "| cdni |" in filled and "2.00" in filled
    assert "2 seeds · `synthgrad compare` · torch 2" in filled
    assert fill(filled, tmp_path) == filled


def test_every_machine_and_version_is_named_once_whoever_comes_first(tmp_path: Path) -> None:
    machines = [{"cpu": "A", "cores": 2}, {"cpu": "B", "cores": 2}, {"cpu": "A", "cores": 2}, {"gpu": "C"}]
    cells = [
        Result("bp", seed, 10, test_error=0.1, hardware=hardware, versions={"torch": "2" if seed else "1"}, command="c")
        for seed, hardware in enumerate(machines)
    ]
    (tmp_path / "r.jsonl").write_text("".join(encode_result(cell) + "\n" for cell in cells), encoding="utf-8")
    filled = fill(PAGE.format(name="r.jsonl"), tmp_path)
    assert "4 seeds · `c` · torch 1; torch 2 · cpu A, cores 2; cpu B, cores 2; gpu C</sub>" in filled


def test_a_comparison_on_text_has_its_loss_in_the_page(tmp_path: Path) -> None:
    cell = Result("bp", 0, 10, test_error=0.5, test_loss=1.5, settings={"data": "text"})
    (tmp_path / "r.jsonl").write_text(encode_result(cell), encoding="utf-8")
    filled = fill(PAGE.format(name="r.jsonl"), tmp_path)
    assert "| test loss (nats) |" in filled and "| 1.500 |" in filled and "50.00" not in filled


def test_a_benchmark_becomes_a_table_of_its_ratios_and_figures(tmp_path: Path) -> None:
    found = {
        "ratios": {"a_over_b": 0.5},
        "figures": {"a_ms": 1.25, "a_seed_0_end_percent": 3.0, "a_seed_1_end_percent": None, "a_end_percent": 4.0},
        "machine": {"cores": 2},
        "command": "synthgrad bench",
    }
    (tmp_path / "b.json").write_text(json.dumps(found), encoding="utf-8")
    filled = fill(PAGE.format(name="b.json"), tmp_path)
    assert "| **a over b** | **0.500 ×** |\n| a (ms) | 1.250 |\n" in filled and "cores 2" in filled
    assert "| a end (%), seed by seed | 3.000, never |\n| a end (%) | 4.000 |\n" in filled


def test_a_count_and_comparisons_become_one_table_of_all_signals(tmp_path: Path) -> None:
    count = {
        "ratios": {"bp_flops_over_backprop": 1.0, "local_flops_over_backprop": 0.831},
        "figures": {"local_extra_parameters": 10280, "local_kib_back": 0.0},
        "machine": {},
        "command": "synthgrad bench signals",
    }
    (tmp_path / "c.json").write_text(json.dumps(count), encoding="utf-8")
    cosines = {"cosine": 0.25, "parameter_cosine": -0.5}
    local = Result("local", 0, 9, test_error=0.02, locks=("forward",), alignment={"layer1": cosines})
    images = [Result("bp", 0, 9, test_error=0.01, locks=("forward", "update")), local]
    text = [Result("dni", 0, 9, test_loss=2.5, settings={"data": "text"}), Result("dni", 1, 3, failed="NaN")]
    for name, cells in (("images", images), ("text", text)):
        (tmp_path / f"{name}.jsonl").write_text("".join(encode_result(cell) + "\n" for cell in cells))
    lines = fill(PAGE.format(name="c.json images.jsonl text.jsonl"), tmp_path).splitlines()
    head, bp, dni, row = (line.strip("| ").split(" | ") for line in (lines[2], *lines[4:7]))
    assert head[6:8] == ["images: error %", "text: loss (nats)"]
    assert [bp[0], dni[0], row[0]] == ["bp", "dni", "local"]
    assert row[2:] == ["forward", "10,280", "-17 %", "0", "2.00", "-", "-", "0.25", "-0.50"]
    assert dni[6:8] == ["-", "2.500 (1 failed)"] and bp[4:8] == ["+0 %", "-", "1.00", "-"]


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "b.json").write_text(content, encoding="utf-8")
    with pytest.raises(ResultsError, match="b.json"):
        fill(PAGE.format(name="b.json"), tmp_path)


def test_a_page_is_filled_in_place_and_one_without_tables_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing to fill\n", encoding="utf-8")
    assert main([str(page)]) == 0
    assert page.read_text(encoding="utf-8") == "nothing to fill\n"


def test_a_picture_of_comparisons_in_time_has_a_panel_for_each(tmp_path: Path) -> None:
    (tmp_path / "recurrent").mkdir()
    for name, curve in (("a", ((10, 1.0), (40, 2.0))), ("b", ((5, 1.0),))):
        cell = RecurrentResult("copy", "bptt-4", 4, 0, 50, solved=len(curve), curve=curve)
        (tmp_path / "recurrent" / f"{name}.jsonl").write_text(encode_result(cell), encoding="utf-8")
    page = "<!-- picture: recurrent/a.jsonl recurrent/b.jsonl -->\n![How they got on](both.svg)\n"
    ((file, picture),) = draw(page, tmp_path).items()
    assert file == tmp_path / "both.svg" and picture.count("longest solved (characters)</text>") == 2
