"""Traces of real runs, read back: what waited for what, and for how long; as tables, pictures, and for Perfetto."""

from synthgrad.experiments.traces.reading import Trace, read_trace

__all__ = ["Trace", "read_trace"]
