"""Where numbers come from: versions and hardware. No dates, so that the same run leaves the same file."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["hardware", "versions"]

CPU_INFO = Path("/proc/cpuinfo")


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    return {"python": platform.python_version()} | {name: _version(name) for name in ("torch", "numpy", "synthgrad")}


def hardware(threads: int) -> dict[str, str | int]:
    """The processor, its cores that this process may use, and the threads that torch was given."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": _cpu(), "cores": allowed, "threads": threads}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _cpu() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
