"""Models of the paper and two of today's, as plain PyTorch modules that know nothing of synthetic gradients."""

from synthgrad.models.chain import layer_names
from synthgrad.models.convolutional import convolutional
from synthgrad.models.fully_connected import fully_connected
from synthgrad.models.lstm import Recurrent
from synthgrad.models.residual import residual
from synthgrad.models.transformer import transformer

__all__ = ["Recurrent", "convolutional", "fully_connected", "layer_names", "residual", "transformer"]
