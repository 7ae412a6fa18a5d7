"""Models of the paper, as plain PyTorch modules that know nothing of synthetic gradients."""

from synthgrad.models.fully_connected import fully_connected, layer_names

__all__ = ["fully_connected", "layer_names"]
