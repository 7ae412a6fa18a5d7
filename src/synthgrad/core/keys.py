"""The keys of a saved model: around the plain model, which keeps its own, stands what is saved under `synthgrad.*`."""

from typing import Any

from torch import nn

from synthgrad.core.errors import PartitionError

__all__ = ["expect_free_name", "keep_plain_keys"]

OURS = "synthgrad"  # the attribute of a wrapper that holds what stands at the cuts
PLAIN = "plain."  # the one that holds the model


def expect_free_name(model: nn.Module) -> None:
    """Raise `PartitionError` if the model has a member of our name."""
    if any(name == OURS or name.startswith(f"{OURS}.") for name in model.state_dict()):
        raise PartitionError(f"the model has a member {OURS!r}, under which its synthesizers are saved; rename it")


def keep_plain_keys(wrapper: nn.Module) -> None:
    """Save and load what is in `wrapper.plain` under the plain model's own keys."""
    wrapper.register_state_dict_post_hook(_without_prefix)
    wrapper.register_load_state_dict_pre_hook(_with_prefix)


def _without_prefix(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    for key in list(state):
        state[key.replace(prefix + PLAIN, prefix, 1) if key.startswith(prefix + PLAIN) else key] = state.pop(key)


def _with_prefix(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for key in list(state):
        if key.startswith(prefix) and not key.startswith(f"{prefix}{OURS}."):
            state[f"{prefix}{PLAIN}{key[len(prefix) :]}"] = state.pop(key)
