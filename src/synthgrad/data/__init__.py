"""Data sets, read from what is shipped with the package or from their public layouts."""

from synthgrad.data.addition import addition
from synthgrad.data.cifar10 import cifar10
from synthgrad.data.digits import digits, load_digits
from synthgrad.data.idx import idx_folder, read_idx
from synthgrad.data.mnist import mnist
from synthgrad.data.split import DataError, Split
from synthgrad.data.text import text, vocabulary

__all__ = [
    "DataError",
    "Split",
    "addition",
    "cifar10",
    "digits",
    "idx_folder",
    "load_digits",
    "mnist",
    "read_idx",
    "text",
    "vocabulary",
]
