"""What a training and a comparison are: settings, read and written without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from synthgrad.experiments.datasets import DataSet, data_set_named
from synthgrad.experiments.methods import METHODS, method_named
from synthgrad.experiments.names import SettingsError
from synthgrad.experiments.networks import NETWORKS, chosen_cuts, network_named
from synthgrad.experiments.settings import Settings, check_above_zero, check_number, names_in

__all__ = ["Comparison", "SettingsError", "StreamTraining", "Training"]

DIGITS = "digits"


@dataclass(frozen=True)
class Training(Settings):
    """What is trained on what, and how. The defaults are for the digits; see `suited_to`.

    Attributes:
        data: digits, shipped with the package; mnist; idx, any folder in MNIST's layout; cifar10; or text, any file.
        data_dir: where the data's files are; idx and text need it, mnist and cifar10 find a usual place.
        download: fetch mnist if it is not there.
        valid: how many training images to hold out, to choose settings with; of the digits a tenth, of text 5 %.
        model: fully-connected, convolutional, residual or transformer.
        layers: hidden layers, or blocks.
        hidden: features of each hidden layer of the fully connected model, and of the transformer.
        channels: channels of the convolutional model's hidden layers, of the residual one's first; the paper has 64.
        heads: attention heads of the transformer.
        context: characters that the transformer sees at once.
        cuts: cut after which layers: all; a number of them, placed evenly; or names, such as layer1,layer3.
        epochs: passes over the training part.
        steps: how many batches to train on, instead of whole epochs; 0 for those.
        batch_size: examples in a batch; an epoch's last ones that fill no batch are left out.
        lr: learning rate of the network (AdamW), falling to 0 along a cosine.
        warm_up: over how many steps the learning rate rises before that.
        weight_decay: of the network, decoupled (AdamW).
        synthesizer_lr: learning rate of all synthesizers (Adam).
        synthesizer_decay: let it rise and fall as the network's; else it is constant.
        rank: rank of the linear synthesizers; 0 is full.
        probes: how many times in a run the alignment is measured, on validation images, 512 at most.
        threads: threads of torch.
        device: where to train: cpu, cuda, cuda:1, mps.
    """

    CHOICE: ClassVar[str] = "data"

    data: str = DIGITS
    data_dir: Path | None = None
    download: bool = False
    valid: int = 5000
    model: str = "fully-connected"
    layers: int = 4
    hidden: int = 256
    channels: int = 16
    heads: int = 4
    context: int = 64
    cuts: str = "all"
    epochs: int = 20
    steps: int = 0
    batch_size: int = 64
    lr: float = 1e-3
    warm_up: int = 0
    weight_decay: float = 0.0
    synthesizer_lr: float = 3e-3
    synthesizer_decay: bool = False
    rank: int = 0
    probes: int = 15
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.data_set.check(self.data_dir, self.download)
        if network_named(self.model).tokens != self.data_set.tokens:
            fitting = [name for name, network in NETWORKS.items() if network.tokens == self.data_set.tokens]
            raise SettingsError(f"model {self.model} does not take {self.data_set.name}; use {' or '.join(fitting)}")
        for name in ("layers", "hidden", "channels", "heads", "context", "valid", "epochs", "probes", "threads"):
            check_number(name, getattr(self, name), at_least=1)
        for name in ("rank", "steps", "warm_up"):
            check_number(name, getattr(self, name), at_least=0)
        if self.data_set.tokens and self.hidden % self.heads:
            raise SettingsError(f"hidden is {self.hidden}: expected a multiple of heads, {self.heads}")
        if not 0.0 <= self.weight_decay < 1.0:
            raise SettingsError(f"weight_decay is {self.weight_decay}: expected a number from 0 to 1, such as 0.01")
        # BatchNorm has no variance to learn from in a batch of one.
        check_number("batch_size", self.batch_size, at_least=2, at_most=self.data_set.largest_batch)
        for name in ("lr", "synthesizer_lr"):
            check_above_zero(name, getattr(self, name))
        chosen_cuts(self.cuts, self.layers)

    @property
    def data_set(self) -> DataSet:
        """What `data` names."""
        return data_set_named(vars(self)["data"])  # as an attribute it would look like the one of torch's tensors

    @property
    def cut_names(self) -> list[str]:
        """The layers to cut after."""
        return chosen_cuts(self.cuts, self.layers)

    @classmethod
    def defaults_for(cls, choice: str) -> Mapping[str, Any]:
        """The defaults that suit a data set. Raises `UnknownNameError` if there is none of this name."""
        return data_set_named(choice).defaults


@dataclass(frozen=True)
class StreamTraining(Training):
    """Two nets at two speeds on a stream of digits; it has no use for a training's cuts, layers, epochs and probes.

    `steps` are stretches of T^2 digits, `batch_size` lanes, `hidden` the units of both nets.

    Attributes:
        period: T, in digits.
    """

    period: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("period", "steps"):
            check_number(name, getattr(self, name), at_least=1)


@dataclass(frozen=True)
class Comparison(Training):
    """The same network, initial weights and batches, trained by each method.

    Attributes:
        methods: which methods, out of bp, zero, dni, cdni, unlock, logistic, sobolev, critic, local, local-block,
            critic-block, predsim, dfa, stale, staged; separated by commas or blanks.
        seeds: how many seeds, of weights and batches; on the digits, seed s tests on fold s of five, so that five
            seeds test on every image.
    """

    methods: tuple[str, ...] = ("bp", "zero", "dni", "cdni", "unlock")
    seeds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        names = names_in(self.methods, METHODS)
        for name in names:
            method_named(name)
        object.__setattr__(self, "methods", tuple(dict.fromkeys(names)))
        check_number("seeds", self.seeds, at_least=1)
