"""`report.html`: a run's folder as one page that needs nothing else: tables, curves, strips, Gantt charts."""

import os
from pathlib import Path

from synthgrad.experiments.report.page import assemble
from synthgrad.experiments.report.record import ReportError, described, settings_of
from synthgrad.experiments.report.recurrent_page import assemble_recurrent
from synthgrad.experiments.report.recurrent_run import read_recurrent_run
from synthgrad.experiments.report.run import read_run

__all__ = ["ReportError", "write_report"]


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, from what the folder holds; a report that is there is replaced.

    Args:
        folder: of a run, finished or not.

    Returns:
        Where the report is.

    Raises:
        ReportError: the folder is no run's, or cannot be written to.
        SettingsError: its `run.toml` is broken.
    """
    text = _page(folder)
    target, draft = folder / "report.html", folder / "report.html.partial"
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        os.replace(draft, target)
    except OSError as error:
        raise ReportError(f"{target}: cannot be written ({error.strerror}); make the folder writable") from None
    return target


def _page(folder: Path) -> str:
    """The page that suits what was compared: in time, where the settings name a task; else in depth."""
    if "task" in settings_of(described(folder)):
        return assemble_recurrent(read_recurrent_run(folder))
    return assemble(read_run(folder))
