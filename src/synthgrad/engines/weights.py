"""Plain weights in one safetensors file: the model's own names, for whoever knows nothing of stages."""

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from synthgrad.core.errors import CheckpointError
from synthgrad.engines.checkpoint import read_weights

__all__ = ["export", "write_weights"]


def export(source: nn.Module | str | Path, file: str | Path) -> None:
    """Write the plain model's weights and buffers to a safetensors file.

    Args:
        source: a decoupled model (with several processes, after `gather`, and on one of them), or any other; or the
            folder of its checkpoints: of those the newest, without the model, in one process.
        file: replaced in one go, if it is there.

    Raises:
        CheckpointError: the folder holds no whole checkpoint, or the file cannot be written.
    """
    if isinstance(source, nn.Module):
        state = source.state_dict()
        tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and not _ours(key)}
    else:
        tensors = read_weights(source)
    try:
        write_weights(tensors, Path(file))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written ({error}); name another file") from None


def _ours(key: str) -> bool:
    return key.startswith("synthgrad.")


def write_weights(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors, from whatever device, in one go: a reader finds the old file or the new one.

    Weights that are tied are written under each of their names.

    Raises:
        OSError: the file cannot be written; what was there stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    draft = path.with_name(f".{path.name}.partial")
    try:
        save_file(copies, draft, {"format": "pt", **(metadata or {})})
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise error if isinstance(error, OSError) else OSError(None, str(error)) from None
