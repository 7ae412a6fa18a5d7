"""The suites on images: what is trained for table 2, one cut alone, sporadic updates, and the complete unlock."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from synthgrad.core.schedules import sporadic, update_unlocked
from synthgrad.experiments.methods import METHODS, Method, Part
from synthgrad.experiments.spec import Training
from synthgrad.experiments.suites import claims, paper
from synthgrad.experiments.suites.suite import Entry, Suite

__all__ = ["single", "sporadic_updates", "table2", "unlock"]

PAPER_STEPS = 500_000
PROBABILITIES = (1.0, 0.5, 0.2, 0.1, 0.05)
SMALL_STEPS = 1712  # as many as the epochs of the small budget have

SMALL = (
    "Small budget, shorter than the paper's: {epochs} epochs of batches of 256, Adam 1e-3 falling to 0 along a cosine, "
    "synthesizers at {rate:g}; 55,000 images to learn from, choices made on 5,000 more, the test part used once."
)
SMALLER = (
    " Convolutional nets: 16 channels, 3 epochs. CIFAR-10: fully connected nets of 256 units, where the paper has "
    "1,000; 45,000 images to learn from; no augmentation."
)
FULL = (
    "As in the paper: 500,000 steps of batches of 256, Adam 3e-5 for all; but the rate of the network falls to 0 along "
    "a cosine, where the paper divides it by 10 after 300,000 and 400,000 steps, and 5,000 images are held out."
)
EPOCHS, RATE = 8, 3e-3  # of the small budget; of the synthesizers


def _training(budget: str, data: str = "mnist", **settings: object) -> Training:
    """Of a fully connected net, where the settings do not say otherwise; convolutional nets have their own sizes."""
    cifar = data == "cifar10"
    convolutional = settings.get("model") == "convolutional"
    sizes: dict[str, object] = {"model": "fully-connected", "cuts": "all", "batch_size": 256}
    if budget == "full":
        sizes |= {"hidden": 1000, "channels": 128} if cifar else {"hidden": 256, "channels": 64}
        sizes |= {"steps": PAPER_STEPS, "lr": 3e-5, "synthesizer_lr": 3e-5}
    else:
        sizes |= {"hidden": 256, "channels": 16, "epochs": 3 if convolutional else EPOCHS, "synthesizer_lr": RATE}
    return Training.suited_to(data, **sizes | settings)


def _entry(row: str, column: str, training: Training, method: Method) -> Entry:
    return Entry(row, column, training, method.name, lambda _seed: method)


# ---- table 2 ---------------------------------------------------------------------------------------------------------

_MAPS = {"layers": 2, "batch_norm": True}


def _papers(hidden: int = 1024, layers: int = 2) -> Mapping[str, Method]:
    """The paper's synthesizers, where they are others than ours of the same name."""
    deep = Part("MLPSynthesizer", {"hidden": hidden, "layers": layers, "batch_norm": True})
    linear, maps = Part("LinearSynthesizer", takes=("classes",)), Part("ConvSynthesizer", _MAPS, takes=("classes",))
    title = "with the paper's synthesizers"
    methods = (
        Method("dni-paper", f"dni {title}", update_unlocked, {1: deep, 3: Part("ConvSynthesizer", _MAPS)}),
        Method("cdni-paper", f"cdni {title}", update_unlocked, {1: linear, 3: maps}),
    )
    return {method.name.removesuffix("-paper"): method for method in methods}


def table2(budget: str) -> Suite:
    """A cut after every layer; fully connected and convolutional nets, MNIST and CIFAR-10."""
    nets = [(f"FCN {layers}", {"layers": layers}) for layers in (3, 4, 5, 6)]
    nets += [(f"CNN {layers}", {"layers": layers, "model": "convolutional"}) for layers in (3, 4)]
    data_sets = (("", "mnist", _papers()), ("CIFAR-10 ", "cifar10", _papers(hidden=4000, layers=1)))
    return Suite(
        "table2",
        "Table 2: a synthetic gradient after every layer",
        budget,
        _said(budget) + (SMALLER if budget == "small" else ""),
        tuple(
            _entry(prefix + row, column, _training(budget, data, **sizes), _chosen(budget, column, papers))
            for prefix, data, papers in data_sets
            for row, sizes in nets
            for column in ("bp", "zero", "dni", "cdni", *_solved(sizes), *claims.OURS)
        ),
        paper.TABLE_2,
        claims.table2,
    )


def _solved(sizes: Mapping[str, object]) -> tuple[str, ...]:
    """The linear synthesizers that are solved for: of rows alone."""
    return () if sizes.get("model") == "convolutional" else claims.SOLVED


def _chosen(budget: str, column: str, papers: Mapping[str, Method]) -> Method:
    return papers[column] if budget == "full" and column in papers else METHODS[column]


def _said(budget: str) -> str:
    return FULL if budget == "full" else SMALL.format(epochs=EPOCHS, rate=RATE)


# ---- one cut alone ---------------------------------------------------------------------------------------------------


def single(budget: str) -> Suite:
    """One cut in a net of six layers, at each depth."""
    whole = _entry("no cut", "bp", _training(budget, layers=6), METHODS["bp"])
    cut = (
        _entry(f"cut after layer {layer}", column, training, _chosen(budget, column, _papers()))
        for layer in range(1, 6)
        for training in [_training(budget, layers=6, cuts=f"layer{layer}")]
        for column in ("zero", "dni", "cdni")
    )
    return Suite(
        "single",
        "One synthetic gradient in a net of six layers, at each depth",
        budget,
        _said(budget),
        (whole, *cut),
        paper.SINGLE,
        claims.single,
    )


# ---- sporadic updates ------------------------------------------------------------------------------------------------


def sporadic_updates(budget: str) -> Suite:
    """Each layer learns from a batch with a probability alone, in random order."""
    once = PAPER_STEPS if budget == "full" else SMALL_STEPS
    entries = []
    for p in PROBABILITIES if budget == "full" else PROBABILITIES[:4]:
        for signal in ("cdni", "local"):
            sparse = _sporadic(METHODS[signal], p)
            for counted, steps in (("batches", once), ("updates", round(once / p))):
                if budget == "full" or steps <= 5 * once:
                    training = _training(budget, layers=4, steps=steps)
                    entries.append(Entry(f"p = {p:g}", f"{signal}, equal {counted}", training, *sparse))
    return Suite(
        "sporadic",
        "Sporadic updates: each layer learns from a batch with probability p, in random order",
        budget,
        f"FCN 4. Equal batches: {once:,} for all; equal updates: {once:,} / p batches. " + _said(budget),
        tuple(entries),
        paper.SPORADIC,
        claims.sporadic,
    )


def _sporadic(method: Method, p: float) -> tuple[str, Callable[[int], Method]]:
    """A method's name, and the method of a seed, which draws who learns."""
    name = f"{method.name}-sporadic-{p:g}"
    return name, lambda seed: replace(method, name=name, schedule=partial(sporadic, p, seed))


# ---- the complete unlock ---------------------------------------------------------------------------------------------


def unlock(budget: str) -> Suite:
    """Every layer learns on a predicted input, from a predicted gradient."""
    training = _training(budget, layers=4)
    complete, signal = METHODS["unlock"], METHODS["cdni"].synthesizer
    linear = replace(complete, name="unlock-cdni", title="unlock with the synthesizers of cdni", synthesizer=signal)
    both = "inputs and gradients predicted"
    return Suite(
        "unlock",
        "The complete unlock: inputs and gradients are predicted",
        budget,
        "FCN 4. Inputs are predicted by 512 hidden units; gradients as cdni and sobolev say, where the paper has one "
        "hidden layer. " + _said(budget),
        (
            _entry("back-propagation", "bp", training, METHODS["bp"]),
            _entry(both, "cdni", training, linear),
            _entry(both, "sobolev", training, complete),
        ),
        paper.UNLOCK,
        claims.unlock,
    )
