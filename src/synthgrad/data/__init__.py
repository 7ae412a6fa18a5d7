"""Data sets, read from what is shipped with the package or from their public layouts."""

from synthgrad.data.digits import Split, digits, load_digits

__all__ = ["Split", "digits", "load_digits"]
