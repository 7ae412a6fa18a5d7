"""The plain model in a file: its own keys and nothing of ours, and beside them, as text, how it came about."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from synthgrad.engines.weights import write_weights
from synthgrad.experiments.provenance import versions
from synthgrad.experiments.results import Result
from synthgrad.experiments.spec import SettingsError

__all__ = ["save_plain"]


def save_plain(model: nn.Module, result: Result, path: Path) -> None:
    """Save a trained model, in one go: a reader finds the old file or the new one.

    Args:
        model: whose `state_dict` is saved, from whatever device.
        result: of its training; goes into the file's metadata as JSON under `result`, the settings under `settings`.
        path: the file.

    Raises:
        SettingsError: the file cannot be written.
    """
    kept: dict[str, Any] = asdict(result) | {"versions": versions()}
    settings = kept.pop("settings") | {"method": result.method, "seed": result.seed}
    metadata = {"settings": json.dumps(settings), "result": json.dumps(kept)}
    try:
        write_weights(model.state_dict(), path, metadata)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written to ({error.strerror}); name another file for --out") from None
