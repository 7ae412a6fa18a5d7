"""synthgrad: layers of a PyTorch network that train without waiting for each other.

    net = sg.decouple(model, at=["layer2"], sample=(x, y), loss=F.cross_entropy, optimizer=..., synthesizer=...)
    net.step(x, target=y)

Synthetic gradients, Jaderberg et al. 2016, arXiv:1608.05343. The whole method on one page: `examples/whole_idea.py`.

The public names are listed in `__init__.pyi`, which editors and type checkers read as well. Each is imported when it is
first used, so that `synthgrad --help` need not wait for torch.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_LISTED = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
_HOMES = {name.name: node.module for node in _LISTED if isinstance(node, ast.ImportFrom) for name in node.names}

__all__ = sorted(_HOMES)  # pyrefly: ignore


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'synthgrad' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    value = import_module(f"{home}.{name}") if home == __name__ else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
