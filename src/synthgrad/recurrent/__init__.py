"""Time instead of depth: recurrent nets that learn past their window. Imports from `core` only, never from engines."""

from synthgrad.recurrent.cut import TimeCut
from synthgrad.recurrent.truncated import TruncatedBPTT, Unrolled

__all__ = ["TimeCut", "TruncatedBPTT", "Unrolled"]
