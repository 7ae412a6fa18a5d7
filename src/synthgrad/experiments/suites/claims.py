"""What a table shows, in sentences made from its figures: whether the paper's orders hold, and the bars are reached."""

from itertools import pairwise

from synthgrad.experiments.suites.suite import Table

__all__ = ["OURS", "SOLVED", "single", "sporadic", "table1", "table2", "two_speeds", "unlock"]

OURS = ("sobolev", "local-block")  # one of these is the best signal of ours: the held-out part says which
SOLVED = ("cdni-exact", "cdni-belief")  # cdni without an optimizer's lag, and with what a head believes besides

NEAR_BACKPROP = 0.2  # points
NEAR_ALL_UPDATES = 0.5  # points, of p = 0.2 to p = 1
UNLOCKED = 3.0  # percent


def table2(table: Table) -> list[str]:
    """Whether the signals come near back-propagation, and the paper's order holds."""
    said = [_near(table, row, column) for row in ("FCN 3", "FCN 4") for column in ("cdni", *SOLVED)]
    for row in ("FCN 5", "FCN 6"):
        best = table.chosen(row, ("dni", "cdni", *SOLVED, *OURS))
        said.append(_near(table, row, best, ", the best decoupled signal on the held-out part,") if best else "")
    for kind in ("FCN", "CNN", "CIFAR-10 FCN", "CIFAR-10 CNN"):
        rows = [row for row in table.rows if row.rpartition(" ")[0] == kind]
        said.append(_worst(table, kind, rows))
        if kind.endswith("FCN"):  # of the convolutional nets the paper has hardly any difference
            said.append(_behind(table, kind, rows))
    choices = {row: table.chosen(row, OURS) for row in table.rows}
    told = ", ".join(f"{row} {best}" for row, best in choices.items() if best)
    said.append(f"Of {' and '.join(OURS)} the better one on the held-out part: {told}." if told else "")
    return [one for one in said if one]


def _near(table: Table, row: str, column: str, what: str = "") -> str:
    ours, true = table.mean(row, column), table.mean(row, "bp")
    if ours is None or true is None:
        return ""
    gap = _shown(ours - true)
    return (
        f"{row}: {column}{what} is {gap:+.2f} points from back-propagation (to be within {NEAR_BACKPROP}): "
        f"{_verdict(gap <= NEAR_BACKPROP, table.seeds((row, column), (row, 'bp')))}."
    )


def _worst(table: Table, kind: str, rows: list[str]) -> str:
    """Whether the worst of the paper's four, which mostly is no back-propagation at all, is the worst of ours."""
    found: list[str] = []
    holds = True
    for row in rows:
        theirs = table.suite.paper[row].figures
        ours = {column: mean for column in theirs if (mean := table.mean(row, column)) is not None}
        if len(ours) == len(theirs):
            worst, expected = (max(figures, key=lambda column: figures[column]) for figures in (ours, theirs))
            found.append(f"{row} {worst}" + ("" if worst == expected else f" (in the paper {expected})"))
            holds = holds and worst == expected
    verdict = "holds" if holds else "does not hold"
    return f"{kind}: the paper's ordering {verdict}; the worst of its four: {', '.join(found)}." if found else ""


def _behind(table: Table, kind: str, rows: list[str]) -> str:
    """Whether dni falls behind back-propagation further, the deeper the net."""
    gaps = [
        (row, _of(table, row, "dni") - _of(table, row, "bp"))
        for row in rows
        if table.mean(row, "dni") is not None and table.mean(row, "bp") is not None
    ]
    if len(gaps) < 2:
        return ""
    grows = all(later > earlier for (_, earlier), (_, later) in pairwise(gaps))
    told = ", ".join(f"{row} {gap:+.2f}" for row, gap in gaps)
    holds = "holds: dni falls" if grows else "does not hold: dni does not fall"
    return f"{kind}: the paper's ordering by depth {holds} further behind back-propagation with every layer ({told})."


def single(table: Table) -> list[str]:
    """Whether a synthetic gradient is better than none, and is harder to make nearer to the loss."""
    cuts = [row for row in table.rows if table.mean(row, "zero") is not None]
    said = []
    for column in ("dni", "cdni"):
        known = [row for row in cuts if table.mean(row, column) is not None]
        if not known:
            continue
        worse = [row for row in known if _of(table, row, column) >= _of(table, row, "zero")]
        said.append(
            f"{column} is better than no gradient at every cut."
            if not worse
            else f"{column} is not better than no gradient at: {', '.join(worse)}."
        )
        first, last = known[0], known[-1]
        grows = _of(table, last, column) > _of(table, first, column)
        said.append(
            f"In the paper the synthetic gradient is worse the nearer to the loss it stands; of {column} that "
            f"{'holds' if grows else 'does not hold'}: {_of(table, first, column):.2f} % with the {first}, "
            f"{_of(table, last, column):.2f} % with the {last}."
        )
    return said


def sporadic(table: Table) -> list[str]:
    """Whether few updates do as well as many."""
    said = []
    for column in (one for one in table.columns if one.endswith("equal updates")):
        few, all_of_them = table.mean("p = 0.2", column), table.mean("p = 1", column)
        if few is not None and all_of_them is not None:
            gap = _shown(few - all_of_them)
            said.append(
                f"{column}: p = 0.2 is {gap:+.2f} points from p = 1 (to be within {NEAR_ALL_UPDATES}): "
                f"{_verdict(gap <= NEAR_ALL_UPDATES, table.seeds(('p = 0.2', column), ('p = 1', column)))}."
            )
    return said


def unlock(table: Table) -> list[str]:
    """Whether it learns the task."""
    row = "inputs and gradients predicted"
    known = ((column, table.mean(row, column)) for column in table.columns)
    return [
        f"{column}: {error:.2f} % (to be at most {UNLOCKED:g} %): "
        f"{_verdict(_shown(error) <= UNLOCKED, table.seeds((row, column)))}."
        for column, error in known
        if error is not None
    ]


def table1(table: Table) -> list[str]:
    """Whether a synthetic gradient at the window's end is better than none, row by row."""
    said = []
    for column in (one for one in table.columns if one != "bptt"):
        known = [row for row in table.rows if None not in (table.mean(row, column), table.mean(row, "bptt"))]
        if known:
            better = [row for row in known if _better(table, row, column)]
            said.append(
                f"{column} is better than truncated back-propagation with the same window in {len(better)} of "
                f"{len(known)} rows; in the paper dni is in all of them."
            )
    return said


def two_speeds(table: Table) -> list[str]:
    """Whether what a synthesizer says of the messages is better than nothing, and than waiting; row by row."""
    said = []
    for row in table.rows:
        for column in (one for one in table.columns if one not in ("bp", "zero")):
            ours = table.mean(row, column)
            others = {"nothing that comes back": "zero", "back-propagation through both nets": "bp"}
            theirs = {what: its for what, one in others.items() if (its := table.mean(row, one)) is not None}
            if ours is not None and len(theirs) == len(others):
                told = " and ".join(f"{_shown(ours - its):+.2f} points from {what}" for what, its in theirs.items())
                places = ((row, one) for one in (column, *others.values()))
                alone = ", by one seed alone" if table.seeds(*places) < 2 else ""
                said.append(f"{row}: {column} is {told}{alone}.")
    return said


def _better(table: Table, row: str, column: str) -> bool:
    ours, true = _of(table, row, column), _of(table, row, "bptt")
    fewer = table.figures[row, column].measure.unit == "bits"
    return ours < true if fewer else ours > true


def _of(table: Table, row: str, column: str) -> float:
    """A figure that is known to be there."""
    mean = table.mean(row, column)
    assert mean is not None
    return mean


def _shown(value: float) -> float:
    """As it is written, so that the verdict is on what one reads."""
    return round(value, 2)


def _verdict(reached: bool, seeds: int) -> str:
    return ("reached" if reached else "not reached") + (", by one seed alone" if seeds < 2 else "")
