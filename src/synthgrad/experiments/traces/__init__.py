"""Traces of real runs, read back: what waited for what, and for how long; as tables, pictures, and for Perfetto."""

from synthgrad.experiments.traces.reading import Trace, read_trace, trace_folders

__all__ = ["Trace", "read_trace", "trace_folders"]
