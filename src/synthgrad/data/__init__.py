"""Data sets, read from what is shipped with the package or from their public layouts."""

from synthgrad.data.addition import addition
from synthgrad.data.cifar10 import cifar10
from synthgrad.data.copy_stream import CopyStream, Window
from synthgrad.data.copying import Copying, Sequences
from synthgrad.data.curriculum import Curriculum
from synthgrad.data.digit_stream import DigitStream, DigitWindow
from synthgrad.data.digits import digits, load_digits
from synthgrad.data.idx import idx_folder, read_idx
from synthgrad.data.mnist import mnist
from synthgrad.data.ptb import ptb
from synthgrad.data.split import DataError, Split
from synthgrad.data.text import Characters, characters, encode, lanes, text, vocabulary

__all__ = [
    "Characters",
    "CopyStream",
    "Copying",
    "Curriculum",
    "DataError",
    "DigitStream",
    "DigitWindow",
    "Sequences",
    "Split",
    "Window",
    "addition",
    "characters",
    "cifar10",
    "digits",
    "encode",
    "idx_folder",
    "lanes",
    "load_digits",
    "mnist",
    "ptb",
    "read_idx",
    "text",
    "vocabulary",
]
