"""Data sets, read from what is shipped with the package or from their public layouts."""

from synthgrad.data.addition import addition
from synthgrad.data.digits import digits, load_digits
from synthgrad.data.idx import idx_folder, read_idx
from synthgrad.data.mnist import mnist
from synthgrad.data.split import DataError, Split

__all__ = ["DataError", "Split", "addition", "digits", "idx_folder", "load_digits", "mnist", "read_idx"]
