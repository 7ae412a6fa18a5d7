"""Benchmarks as commands: each measures ratios in one interleaved run, and says on what machine."""

from synthgrad.experiments.bench.measurement import BENCHMARKS, Measurement, interleaved, measure

__all__ = ["BENCHMARKS", "Measurement", "interleaved", "measure"]
