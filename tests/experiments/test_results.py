import math
from pathlib import Path

import pytest

from synthgrad.experiments.measures import ERROR, LOSS
from synthgrad.experiments.results import (
    Result,
    ResultsError,
    confidence,
    decode_result,
    encode_result,
    read_results,
    summarize,
    t_quantile,
)


def cell(method: str, seed: int, error: float, **more: object) -> Result:
    return Result(method, seed, 10, test_error=error, ms_per_step=2.0, locks=("forward",), **more)  # pyrefly: ignore


def test_a_result_reads_back_as_written() -> None:
    result = cell("cdni", 3, 0.1 + 0.2, agreement={"layer1": {"cosine": 1 / 3}}, settings={"methods": ["bp"]})
    assert decode_result(encode_result(result)) == result


def test_a_file_reads_back_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    results = [cell("bp", seed, 0.01) for seed in range(3)]
    path = tmp_path / "results.jsonl"
    path.write_text("\n\n".join(map(encode_result, results)), encoding="utf-8")
    assert read_results(path) == results


@pytest.mark.parametrize("broken", ["{", "[]", '{"method": "bp"}', '{"method": "bp", "seed": 0, "steps": 1, "x": 2}'])
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{encode_result(cell('bp', 0, 0.1))}\n\n{broken}\n", encoding="utf-8")
    with pytest.raises(ResultsError, match="results.jsonl, line 3: "):
        read_results(path)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read"):
        read_results(tmp_path / "none.jsonl")


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 29, 30, 31, 60, 1000])
def test_t_quantiles_enclose_95_percent_of_the_density(freedom: int) -> None:
    """Against the integral of the density: of Student's t, by Simpson's rule."""
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)

    def density(t: float) -> float:
        return math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))

    pieces = 4000
    width = t_quantile(freedom) / pieces
    weights = [1, *([4, 2] * (pieces // 2))[:-1], 1]
    half = width / 3 * sum(weight * density(width * number) for number, weight in enumerate(weights))
    assert 2 * half == pytest.approx(0.95, abs=2e-6)  # the table has seven digits, the expansion six


def test_no_degrees_of_freedom_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)


def test_a_shift_common_to_all_seeds_has_no_width() -> None:
    difference = confidence([0.25, 0.25, 0.25])
    assert (difference.mean, difference.half_width, difference.n) == (0.25, 0.0, 3)


def test_one_pair_has_no_interval() -> None:
    assert confidence([0.5]).half_width is None


def test_differences_are_paired_by_seed() -> None:
    # The seeds differ much, the methods by 1 % in each: the interval must see only the latter.
    results = [cell("bp", seed, error) for seed, error in enumerate([0.1, 0.5, 0.9])]
    results += [cell("dni", seed, error) for seed, error in reversed(list(enumerate([0.11, 0.51, 0.91])))]
    bp, dni = summarize(results)
    assert bp.difference is None and dni.difference is not None
    assert dni.difference.mean == pytest.approx(0.01)
    assert dni.difference.half_width == pytest.approx(0.0, abs=1e-12)
    assert dni.score is not None and dni.score.std == pytest.approx(0.4)


def test_failed_cells_are_counted_and_enter_nothing_else() -> None:
    results = [cell("bp", 0, 0.1), cell("bp", 1, 0.1), cell("dni", 0, 0.2), Result("dni", 1, 5, failed="NaN")]
    dni = summarize(results)[1]
    assert dni.failed == 1
    assert dni.score is not None and (dni.score.n, dni.score.std) == (1, None)
    assert dni.difference is not None and dni.difference.n == 1


def test_without_a_baseline_there_is_nothing_to_differ_from() -> None:
    (dni,) = summarize([cell("dni", 0, 0.2)])
    assert dni.difference is None and dni.times is None


def test_text_is_compared_by_its_loss() -> None:
    # By the error they would be the other way round.
    losses = {"bp": [1.5, 1.75], "dni": [1.75, 2.25]}
    results = [
        cell(method, seed, {"bp": 0.6, "dni": 0.5}[method], test_loss=loss, settings={"data": "text"})
        for method, own in losses.items()
        for seed, loss in enumerate(own)
    ]
    bp, dni = summarize(results)
    assert bp.measure == dni.measure == LOSS
    assert dni.score is not None and (dni.score.mean, dni.score.n) == (2.0, 2)
    assert dni.difference is not None and dni.difference.mean == 0.375


def test_a_cell_without_the_figure_that_counts_enters_no_score() -> None:
    (dni,) = summarize([cell("dni", 0, 0.2, settings={"data": "text"})])
    assert dni.score is None and dni.difference is None


def test_what_is_said_outright_counts_for_more_than_the_settings() -> None:
    (dni,) = summarize([cell("dni", 0, 0.2, settings={"data": "text"})], ERROR)
    assert dni.measure == ERROR and dni.score is not None


def test_nothing_comes_to_nothing() -> None:
    assert summarize([]) == []
