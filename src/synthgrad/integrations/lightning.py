"""Lightning: a decoupled net as a `LightningModule`, in manual optimization, since each stage has its own optimizer."""

from typing import Any

import torch
from torch import Tensor

from synthgrad.core.batch import Batch, Context, arguments
from synthgrad.core.errors import SynthgradError
from synthgrad.decoupled import Decoupled
from synthgrad.integrations.state import Idle, NetState, expect_one_process
from synthgrad.training.trainer import Metric, error_rate, expect_decoupled, parted

try:
    from lightning.pytorch import LightningModule
except ImportError:
    from pytorch_lightning import LightningModule

__all__ = ["DecoupledModule"]


class DecoupledModule(LightningModule):  # pyrefly: ignore
    """Trains what `decouple` returns: `Trainer().fit(DecoupledModule(net), loader)`.

    Batches are the model's positional arguments and, last, the target. Logged are `train_loss`, the agreement at each
    cut, and for validation and test `valid_loss`, `valid_error`, `test_loss`, `test_error`.

    What differs from a module of your own:

        optimizers, learning rates    belong to `decouple`, for each stage its own
        Trainer(gradient_clip_val=, accumulate_grad_batches=)    refused by Lightning; clip in the optimizer given to
            `decouple`, accumulate with `update_unlocked(microbatches=)`
        trainer.global_step, max_steps    count batches, as in automatic optimization
        precision    "bf16-mixed"; not "16-mixed", whose scaled gradients the synthesizers would take for true ones
        several devices    one process for each stage, by torchrun and `net.step`; not by Lightning's strategies

    Checkpoints of Lightning hold all that it takes to go on; pending lessons are learned when one is written.

    Args:
        net: made by `decouple`.
        metric: `metric(output, target)` for validation and test; by default the share of wrong classes.

    Raises:
        SynthgradError: the net is not decoupled.
    """

    def __init__(self, net: Decoupled, *, metric: Metric = error_rate) -> None:
        expect_decoupled(net, "DecoupledModule")
        super().__init__()
        self.automatic_optimization = False
        self.net, self.metric = net, metric

    def forward(self, *inputs: Any) -> Any:
        """The plain model's output."""
        return self.net(*inputs)

    def setup(self, stage: str) -> None:
        """Raise `SynthgradError` where this trainer cannot train the net."""
        expect_one_process(self.trainer.world_size, "Lightning")
        if self.trainer.precision in ("16-mixed", "16-true"):
            raise SynthgradError(
                f"Lightning: got precision={self.trainer.precision!r}, whose gradients need a scale that the stages "
                f"cannot share; use 'bf16-mixed', or sg.Interface in a module of your own, which takes scale="
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One that counts the batches; those that learn are the stages' own."""
        return Idle()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Every stage learns from a batch; the loss, a scalar."""
        inputs, target = parted(batch)
        step = self.net.step(*inputs, target=target)
        self.optimizers().step()  # pyrefly: ignore
        self.log("train_loss", step.loss, prog_bar=True, batch_size=1)
        for cut, agreement in step.agreement.items():
            self.log(f"agreement/{cut}", agreement.cosine, batch_size=1)
        return step.loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The plain model on a batch."""
        self._try(batch, "valid")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """The plain model on a batch."""
        self._try(batch, "test")

    def _try(self, batch: Any, split: str) -> None:
        inputs, target = parted(batch)
        criterion = self.net.stages[-1].loss
        assert criterion is not None
        whole = Batch.of(inputs, target, Context(), criterion)
        positional, keywords = arguments(inputs)
        output = self.net(*positional, **keywords)
        self.log(f"{split}_loss", criterion(output, whole), prog_bar=True, batch_size=whole.count)
        self.log(f"{split}_error", self.metric(output, target).float().mean(), prog_bar=True, batch_size=whole.rows)

    def on_train_end(self) -> None:
        """Late lessons are learned before anybody uses the net."""
        with self.trainer.precision_plugin.forward_context():
            self.net.flush()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the stages' optimizers, and all else that is not in the `state_dict`, into the checkpoint."""
        with self.trainer.precision_plugin.forward_context():
            checkpoint["synthgrad"] = NetState(self.net).state_dict()
        checkpoint["state_dict"] = self.state_dict()  # again: the last lessons have just been learned

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the checkpoint; see `NetState`."""
        NetState(self.net).load_state_dict(checkpoint["synthgrad"])
