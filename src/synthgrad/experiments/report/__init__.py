"""`report.html`: a run's folder as one page that needs nothing else: tables, curves, strips, Gantt charts."""

import os
from pathlib import Path

from synthgrad.experiments.report.page import assemble
from synthgrad.experiments.report.run import ReportError, read_run

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
    text = assemble(read_run(folder))
    target, draft = folder / "report.html", folder / "report.html.partial"
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        os.replace(draft, target)
    except OSError as error:
        raise ReportError(f"{target}: cannot be written ({error.strerror}); make the folder writable") from None
    return target
