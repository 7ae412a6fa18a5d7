"""skorch: decoupled training as a scikit-learn classifier, so that grid search finds the synthesizer."""

from collections.abc import Sequence
from typing import Any

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping, LRScheduler
from skorch.dataset import unpack_data
from skorch.utils import to_tensor

from synthgrad.core.errors import SynthgradError
from synthgrad.decoupled import decouple
from synthgrad.integrations.state import Idle

__all__ = ["DecoupledClassifier"]


class DecoupledClassifier(NeuralNetClassifier):
    """As `skorch.NeuralNetClassifier`, with a module that learns in stages; predicting, it is the plain module.

    The module's output are logits (the criterion is cross-entropy, if none is given). `optimizer`, `lr` and
    `optimizer__...` hold for every stage and synthesizer; `decoupled_` is the net that `decouple` makes, of the first
    batch, when training begins.

    What differs: learning rates change by `lr_schedule`, not by skorch's `LRScheduler`, and skorch does not clip
    gradients: both callbacks are refused, as are groups of parameters. Scores on the training set need
    `use_caching=False`, since stages do not hand out the output they trained on. A pickled classifier predicts, and
    learns anew; schedules cannot be pickled, so with `schedule=` neither can it, nor grid search use several processes.

    Args:
        *args: see skorch; the first is the module.
        at: where to cut it.
        synthesizer: see `decouple`; any of its arguments can be searched over.
        schedule: likewise.
        lr_schedule: likewise.
        mixing: likewise.
        criterion: its class; see skorch.
        **kwargs: likewise.
    """

    def __init__(
        self,
        *args: Any,
        at: Sequence[str],
        synthesizer: Any = "auto",
        schedule: Any = None,
        lr_schedule: Any = None,
        mixing: float = 1.0,
        criterion: Any = torch.nn.CrossEntropyLoss,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, criterion=criterion, **kwargs)
        self.at, self.synthesizer, self.schedule = at, synthesizer, schedule
        self.lr_schedule, self.mixing = lr_schedule, mixing

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> "DecoupledClassifier":
        """Each stage gets its own when training begins: there is none for the whole."""
        self.decoupled_: Any = None
        self.optimizer_ = Idle()
        self.optimizer_.param_groups = []  # filled when the stages are there: `set_params(lr=...)` acts on them
        return self

    def on_train_begin(self, net: Any, *args: Any, **kwargs: Any) -> None:
        """Raise `SynthgradError` where a callback would act on an optimizer that is not there, and do nothing."""
        if useless := [name for name, one in self.callbacks_ if isinstance(one, GradientNormClipping | LRScheduler)]:
            raise SynthgradError(
                f"DecoupledClassifier: got the callback {useless[0]}, which acts on one optimizer for the whole; each "
                f"stage has its own: give lr_schedule=, or clip in the optimizer that is given as optimizer="
            )
        super().on_train_begin(net, *args, **kwargs)

    def train_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """Every stage learns from a batch. Raises `SynthgradError` where it is more than an array and its labels."""
        inputs, target = (to_tensor(part, device=self.device) for part in unpack_data(batch))
        if not isinstance(inputs, torch.Tensor) or fit_params:
            got = f"fit parameters {sorted(fit_params)}" if fit_params else type(inputs).__name__
            raise SynthgradError(f"DecoupledClassifier: got {got}, expected a batch that is one array X; use decouple")
        net = self.decoupled_
        if net is None:
            net = vars(self)["decoupled_"] = self._decoupled(inputs, target)  # skorch lets modules be set only before
            learners = [learner for stage in net.stages for learner in stage.learners]
            optimizers = [learner.optimizer for learner in learners if learner.optimizer is not None]
            self.optimizer_.param_groups = [group for one in optimizers for group in one.param_groups]
        self._set_training(True)
        return {"loss": net.step(inputs, target=target).loss, "y_pred": None}

    def on_train_end(self, net: Any, *args: Any, **kwargs: Any) -> None:
        """Late lessons are learned before anybody predicts."""
        if self.decoupled_ is not None:
            self.decoupled_.flush()
        super().on_train_end(net, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"decoupled_": None}

    def _decoupled(self, inputs: torch.Tensor, target: torch.Tensor) -> Any:
        settings: dict[str, Any] = self.get_params_for("optimizer")
        if "param_groups" in settings:
            raise SynthgradError(
                "DecoupledClassifier: got optimizer__param_groups, which name parameters of several stages; give a "
                "function of a stage's parameters as optimizer="
            )
        settings = {"lr": self.lr, **settings}
        return decouple(
            self.module_,
            at=self.at,
            sample=(inputs, target),
            loss=self.criterion_,
            synthesizer=self.synthesizer,
            optimizer=lambda parameters: self.optimizer(parameters, **settings),
            schedule=self.schedule,
            lr_schedule=self.lr_schedule,
            mixing=self.mixing,
        )
