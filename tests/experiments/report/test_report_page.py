import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import pytest

from synthgrad.core.errors import SynthgradError
from synthgrad.core.events import Evaluated, Event, Failed, Finished, Probed, Started, StepDone, encode
from synthgrad.experiments.methods import METHODS, Method
from synthgrad.experiments.report import gantt, page, write_report
from synthgrad.experiments.report.curves import valid_panel
from synthgrad.experiments.report.run import read_run
from synthgrad.experiments.results import Result, encode_result

STEPS = 12
CUTS = ("layer1", "layer2")
LOCKS = {"bp": ("forward", "update", "backward"), "zero": ("forward",), "cdni": ("forward",), "unlock": ()}
ALL = tuple(LOCKS)
VOID = {"meta", "br", "link"}


def cell_events(method: str, seed: int, *, until: int = STEPS, loss: float = 1.0) -> list[Event]:
    """A cell as the runner would tell it, up to a step."""
    synthetic = method not in ("bp", "zero")
    events: list[Event] = [Started({"steps": STEPS}, LOCKS.get(method, ()))]
    for step in range(1, until + 1):
        figures = {cut: {"cosine": 0.1 * place - 0.05, "norm_ratio": 1.0} for place, cut in enumerate(CUTS)}
        events.append(StepDone(step, loss / step + seed / 100, figures if synthetic else {}))
        if step % 4 == 0 and method != "bp":
            both = {
                cut: {"cosine": 0.2, "norm_ratio": 1.0, "parameter_cosine": 0.3, "parameter_norm_ratio": 1.0}
                for cut in CUTS
            }
            events.append(Probed(step, both))
        if step % 6 == 0:
            events.append(Evaluated(step, "valid", 0.5, 0.3 / step))
    return events


def ended(method: str, seed: int) -> Result:
    figures = {
        cut: {"cosine": 0.2, "norm_ratio": 1.0, "parameter_cosine": 0.3, "parameter_norm_ratio": 1.0} for cut in CUTS
    }
    own = figures if method != "bp" else {}
    milliseconds = 1.0 if method == "bp" else 3.0
    error = {"bp": 0.01, "zero": 0.09}.get(method, 0.02) + seed / 1000
    return Result(
        method,
        seed,
        STEPS,
        test_error=error,
        test_loss=1.0 + 10 * error,
        ms_per_step=milliseconds,
        locks=LOCKS.get(method, ()),
        alignment=own,
    )


def make(
    folder: Path,
    cells: dict[tuple[str, int], list[Event]],
    results: list[Result],
    status: str = "finished",
    data: str | None = None,
) -> Path:
    folder.mkdir()
    lines = [encode(event, method=method, seed=seed) for (method, seed), events in cells.items() for event in events]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "results.jsonl").write_text("".join(f"{encode_result(one)}\n" for one in results), encoding="utf-8")
    methods = list(dict.fromkeys(method for method, _ in cells))
    (folder / "run.toml").write_text(
        f'status = "{status}"\ncommand = "synthgrad compare --x <y> & z"\n\n[comparison]\n'
        f"methods = {json.dumps(methods)}\nlayers = 2\n{'' if data is None else f'data = {json.dumps(data)}'}\n\n"
        f'[versions]\ntorch = "2.13.0"\n',
        encoding="utf-8",
    )
    return folder


def whole(folder: Path, methods: tuple[str, ...] = ALL, seeds: int = 2, data: str | None = None) -> Path:
    where = [(method, seed) for method in methods for seed in range(seeds)]
    cells = {
        (method, seed): [*cell_events(method, seed), Evaluated(STEPS, "test", 0.1, 0.05), Finished(STEPS, 1.0)]
        for method, seed in where
    }
    return make(folder, cells, [ended(method, seed) for method, seed in where], data=data)


class Checker(HTMLParser):
    """Every element is closed in turn; keeps the text, and the attributes by element."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said.append(data)


def checked(folder: Path) -> Checker:
    """The page, after the checks that hold for every page."""
    path = write_report(folder)
    assert path == folder / "report.html"
    assert not (folder / "report.html.partial").exists()
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    for tag, attributes in checker.seen:
        assert tag not in ("script", "img", "iframe", "link", "object")
        assert not {"src", "href", "srcset"} & attributes.keys(), tag
    assert "@import" not in text
    assert not [found for found in re.findall(r"url\((.*?)\)", text) if not found.startswith("#")]
    assert set(re.findall(r"https?://[^\"' ]*", text)) <= {"http://www.w3.org/2000/svg"}  # a name, not a request
    assert "nan" not in re.sub(r">[^<]*<", "><", text.lower())
    ids = [attributes["id"] for _, attributes in checker.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {name[5:-1] for name in re.findall(r"url\(#.*?\)", text)} <= set(ids)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    return checker


def text_of(folder: Path) -> str:
    return "".join(checked(folder).said)


def test_a_whole_run_is_all_there(tmp_path: Path) -> None:
    folder = whole(tmp_path / "first")
    said = text_of(folder)
    for method in ALL:
        assert said.count(method) >= 4
    for schedule in ("backprop()", "update_unlocked(delay=0)", "forward_unlocked(delay=0)"):
        assert schedule in said
    assert "cdni has the lowest test error: 2.05\N{NO-BREAK SPACE}%, against 1.05\N{NO-BREAK SPACE}% of" in said
    assert "+1.00 ± 0.00 points" in said and "cannot tell" not in said
    assert "the mean cosine of the two is 0.20" in said
    assert "3.0 ms, 3.0 times that of bp" in said
    assert "synthgrad compare --x <y> & z" in said and "2.13.0" in said
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count('class="band') == 8  # four methods, two panels
    for reason in ("forward", "update", "backward", "target"):
        assert text.count(f'fill="url(#wait-{reason})"') > 1  # one is in the legend


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = whole(tmp_path / "first")
    before = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == before
    folder.rename(tmp_path / ".first.partial")  # as it is called while the run goes on
    assert write_report(tmp_path / ".first.partial").read_bytes() == before


def test_one_seed_has_no_band_and_claims_little(tmp_path: Path) -> None:
    folder = whole(tmp_path / "one", seeds=1)
    assert "from one seed, which tells little" in text_of(folder)
    assert 'class="band' not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("methods", [("bp",), ("cdni",), ("zero",), ("bp", "zero")])
def test_any_choice_of_methods_has_its_page(tmp_path: Path, methods: tuple[str, ...]) -> None:
    said = text_of(whole(tmp_path / "few", methods))
    assert all(method in said for method in methods)
    assert "None" not in said


def test_an_unfinished_run_shows_how_far_it_came(tmp_path: Path) -> None:
    folder = make(tmp_path / "cut", {("bp", 0): cell_events("bp", 0, until=7)}, [], "unfinished")
    with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "StepDone", "method": "bp", "se')
    toml = folder / "run.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace('["bp"]', '["bp", "dni"]'), encoding="utf-8")
    said = text_of(folder)
    assert "Cut short: bp, seed 0, at step 7 of 12." in said
    assert "Not started: dni." in said
    assert "1 line of the run's files could not be read" in said
    assert "there is no test error yet" in said


def test_a_run_of_which_nothing_happened_has_a_page(tmp_path: Path) -> None:
    assert "nothing measured" in text_of(make(tmp_path / "none", {}, [], "unfinished"))


def test_a_failed_cell_is_shown(tmp_path: Path) -> None:
    reason = "the loss is nan <after> step 6; lower --lr"
    cells = {
        ("bp", 0): [*cell_events("bp", 0), Finished(STEPS, 1.0)],
        ("cdni", 0): [*cell_events("cdni", 0, until=6), StepDone(7, float("nan"), {}), Failed(6, reason)],
    }
    failed = Result("cdni", 0, 6, locks=("forward",), failed=reason)
    folder = make(tmp_path / "failed", cells, [ended("bp", 0), failed])
    said = text_of(folder)
    assert f"cdni, seed 0, failed after step 6: {reason}" in said
    assert "(1 failed)" in said
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count('class="cross') == 2


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    nothing = float("nan")
    events: list[Event] = [
        Started({"steps": 2}),
        StepDone(1, nothing, {"layer1": {"cosine": nothing, "norm_ratio": nothing}}),
        StepDone(2, float("inf"), {"layer1": {"cosine": nothing, "norm_ratio": nothing}}),
        Probed(2, {"layer1": {"cosine": nothing, "norm_ratio": 1.0}}),
        Evaluated(2, "valid", nothing, nothing),
        Evaluated(2, "test", nothing, nothing),
        Finished(2, 1.0),
    ]
    folder = make(tmp_path / "odd", {("cdni", 0): events}, [])
    checked(folder)
    (cell,) = read_run(folder).cells
    assert (cell.losses, cell.valid, cell.test) == ([], [], None)


def test_an_error_of_zero_is_drawn_on_a_logarithmic_scale(tmp_path: Path) -> None:
    errors = [Evaluated(step, "valid", 0.1, error) for step, error in enumerate((0.9, 0.01, 0.0), start=1)]
    checked(make(tmp_path / "zero", {("bp", 0): [Started({"steps": 3}), *errors]}, []))


def test_names_and_titles_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    title = 'sees <everything> & "more"'
    odd = Method("cdni", title, METHODS["cdni"].schedule, METHODS["cdni"].synthesizer)
    for module in (page, gantt):
        monkeypatch.setattr(module, "METHODS", MappingProxyType({**METHODS, "cdni": odd}))
    folder = whole(tmp_path / "a<b>&c", ("bp", "cdni", "<i>&"), seeds=1)
    said = text_of(folder)
    assert title in said and "a<b>&c" in said
    assert "No schedule is known for <i>&." in said
    assert "<i>" not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("missing", ["run.toml", "events.jsonl"])
def test_a_folder_that_is_no_runs_is_refused(tmp_path: Path, missing: str) -> None:
    folder = whole(tmp_path / "run", ("bp",), seeds=1)
    (folder / missing).unlink()
    with pytest.raises(SynthgradError, match=f"has no {re.escape(missing)}; expected the folder of a run"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_results_are_told_by_the_events_where_none_were_kept(tmp_path: Path) -> None:
    folder = whole(tmp_path / "run", ("bp",), seeds=1)
    (folder / "results.jsonl").unlink()
    assert "5.00" in text_of(folder)


def test_a_run_on_text_is_told_by_its_loss(tmp_path: Path) -> None:
    folder = whole(tmp_path / "text", data="text")
    said = text_of(folder)
    space = "\N{NO-BREAK SPACE}"
    assert f"cdni has the lowest test loss: 1.205{space}nats, against 1.105{space}nats of" in said
    assert f"+0.100 ± 0.000 nats (95{space}%, 2 seeds)" in said
    assert f"without any gradient (zero) it is 1.905{space}nats" in said
    assert "test loss (nats)" in said and "Test loss: of the plain network" in said
    assert "1.105 ± 0.007" in said
    assert "validation loss (nats)" in said
    assert "error" not in said.lower() and " points (" not in said


def test_the_validation_panel_shows_the_figure_that_counts(tmp_path: Path) -> None:
    images, text = (read_run(whole(tmp_path / data, ("bp",), 1, data)) for data in ("digits", "text"))
    assert [cell.valid for cell in images.cells] == [[(6, 0.3 / 6), (12, 0.3 / 12)]]
    assert [cell.valid for cell in text.cells] == [[(6, 0.5), (12, 0.5)]]
    assert "%" in valid_panel(images) and "validation error<" in valid_panel(images)
    assert "%" not in valid_panel(text) and "validation loss (nats)<" in valid_panel(text)


@pytest.mark.parametrize(
    ("data", "sentence"), [("digits", "error is 5.00\N{NO-BREAK SPACE}%"), ("text", "loss is 0.100")]
)
def test_the_events_tell_the_figure_that_counts(tmp_path: Path, data: str, sentence: str) -> None:
    folder = whole(tmp_path / "run", ("bp",), seeds=1, data=data)
    (folder / "results.jsonl").unlink()
    assert f"The test {sentence}" in text_of(folder)


def test_an_unfinished_run_on_text_has_no_loss_yet(tmp_path: Path) -> None:
    said = text_of(make(tmp_path / "none", {}, [], "unfinished", "text"))
    assert "there is no test loss yet" in said and "test loss (nats)" in said
    assert "error" not in said.lower()


def test_charts_of_methods_that_look_alike_are_one() -> None:
    drawn = gantt.charts(["bp", "zero", "dni", "cdni", "unlock", "unknown"], 3)
    assert [one.methods for one in drawn] == [("bp",), ("zero", "dni", "cdni"), ("unlock",)]
    assert drawn[0].timeline.makespan == 3 * (3 * (1 + 2) + 0.5)  # three steps, three stages, then stage 0's update
