"""Accelerate: a decoupled net beside an `Accelerator` that places data, casts, tracks and checkpoints."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import AutocastKwargs

from synthgrad.core.errors import SynthgradError
from synthgrad.decoupled import Decoupled
from synthgrad.engines.local import Outcome
from synthgrad.integrations.state import NetState, expect_one_process
from synthgrad.training.trainer import expect_decoupled

__all__ = ["AcceleratedNet"]


class AcceleratedNet:
    """Trains what `decouple` returns on the accelerator's device and in its precision.

        net = AcceleratedNet(accelerator, sg.decouple(...))
        loader = accelerator.prepare(loader)
        for x, y in loader:
            net.step(x, target=y)
        accelerator.save_state(folder)

    Do not `prepare` the net or its optimizers: each stage has its own and steps when it is ready. Gradients never pass
    `accelerator.backward`; accumulate with `update_unlocked(microbatches=)`. A model with `sg.Interface` inside is an
    ordinary one: prepare it as always.

    Args:
        accelerator: its device is where the net goes; `save_state` and `load_state` take in all that the net has
            learned.
        net: made by `decouple`.

    Raises:
        SynthgradError: the net is not decoupled; several processes, float16, or gradient accumulation.
    """

    def __init__(self, accelerator: Accelerator, net: Decoupled) -> None:
        expect_decoupled(net, "AcceleratedNet")
        expect_one_process(accelerator.num_processes, "Accelerate")
        if accelerator.mixed_precision not in ("no", "bf16"):
            raise SynthgradError(
                f"Accelerate: got mixed_precision={accelerator.mixed_precision!r}, expected 'bf16' or 'no': other ones "
                f"scale gradients, which the stages cannot share; or use sg.Interface, which takes scale="
            )
        if accelerator.gradient_accumulation_steps > 1:
            raise SynthgradError(
                f"Accelerate: got gradient_accumulation_steps={accelerator.gradient_accumulation_steps}, expected 1; "
                f"give decouple(schedule=update_unlocked(microbatches=...)) larger batches instead"
            )
        self.accelerator = accelerator
        self.net = net.to(accelerator.device)
        self.state = NetState(net)
        accelerator.register_for_checkpointing(self)

    def step(self, *inputs: Any, target: Any, **given: Any) -> Outcome:
        """As `Decoupled.step`, in the accelerator's precision."""
        with self._autocast():
            return self.net.step(*inputs, target=target, **given)

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """The plain model's output, in the accelerator's precision."""
        with self._autocast():
            return self.net(*inputs, **kwargs)

    def flush(self) -> None:
        """As `Decoupled.flush`, in the accelerator's precision."""
        with self._autocast():
            self.net.flush()

    def state_dict(self) -> dict[str, Any]:
        """For the accelerator; see `NetState`."""
        with self._autocast():
            return self.state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """For the accelerator; see `NetState`."""
        self.state.load_state_dict(state)

    def _autocast(self) -> Any:
        # No cache: within one step a synthesizer may be updated, and would then answer with its old weights.
        return self.accelerator.autocast(AutocastKwargs(cache_enabled=False))
