"""What enters a step: a batch, its context for the synthesizers, and its parts.

Signals are per row, of the summed loss, so that neither the batch's size nor its split changes what is learned. What
travels between stages is the gradient of the step's *mean* loss, with the count of loss terms that it was divided by.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from synthgrad.core.boundary import back_propagate, cut
from synthgrad.core.errors import ContextError, ShapeError, SynthgradError

__all__ = ["IGNORED", "Batch", "Context", "Gradient", "Keywords", "Loss", "arguments", "call", "expect_sample"]

IGNORED = -100
"""A label that is none, as in `F.cross_entropy`: of padding, or of tokens that are not to be predicted."""


class Gradient(NamedTuple):
    """A gradient on its way: of the step's mean loss, and the count of loss terms in that mean.

    Attributes:
        values: dL/dh, the shape of the activation.
        count: the number of loss terms of the step; `values * count` is the gradient of the summed loss.
        output: the model's output, real or predicted, where a synthesizer on the way learns from it.
    """

    values: Tensor
    count: int
    output: Tensor | None = None


class Keywords(dict[str, Any]):
    """Keyword arguments of the model, as the last of a batch's inputs.

    >>> sample = (tokens, Keywords(attention_mask=mask), target)  # doctest: +SKIP
    """


pytree.register_pytree_node(
    Keywords,
    lambda given: (list(given.values()), list(given)),
    lambda values, names: Keywords(zip(names, values, strict=True)),
    serialized_type_name="synthgrad.Keywords",
)


def arguments(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch's inputs as positional and keyword arguments."""
    if inputs and isinstance(inputs[-1], Keywords):
        return inputs[:-1], dict(inputs[-1])
    return inputs, {}


def expect_sample(sample: Any) -> None:
    """Raise `ShapeError` where a sample is not the model's arguments and, last, the target."""
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        got = f"{len(sample)} values" if isinstance(sample, tuple | list) else f"a {type(sample).__name__}"
        raise ShapeError(f"sample: got {got}, expected a tuple of the model's arguments and, last, the target: (x, y)")


def call(model: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], **ours: Any) -> tuple[Any, ...]:
    """A batch's inputs, of arguments by place and by name.

    Args:
        model: is to take them.
        inputs: by place; last, if need be, `Keywords`.
        keywords: by name.
        ours: further arguments of our own, None where they were not given.

    Raises:
        SynthgradError: the model does not take one of the keywords; one is given twice; or one of ours may be meant for
            the model, which has an argument of that name and has not been given it.
    """
    named = [name for name, value in ours.items() if value is not None]
    if not keywords and not named:
        return inputs
    positional, before = arguments(inputs)
    if twice := keywords.keys() & before.keys():
        raise SynthgradError(f"{min(twice)}: given by name and in Keywords; give it once")
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind_partial(*positional, **before, **keywords)
    except TypeError as error:
        raise SynthgradError(
            f"the model does not take these arguments: {error}; its forward is {type(model).__name__}{signature}"
        ) from None
    if meant := [name for name in named if name in signature.parameters and name not in bound.arguments]:
        raise SynthgradError(
            f"{meant[0]}: is for the synthesizers here, and the model has an argument of that name; say what the model "
            f"is to have: behind the inputs, sg.Keywords({meant[0]}=...), or {meant[0]}=None in it"
        )
    return (*positional, Keywords(before | dict(keywords))) if keywords else inputs


@dataclass(frozen=True)
class Context:
    """What a synthesizer may look at besides the activation; each stage has it from the batch, except `error`.

    Attributes:
        labels: (B,) or (B, T) class indices, or any tensor of one's own with leading dimension B. An index of -100 is
            no label, as in `F.cross_entropy`.
        index: (B,) each example's number in the data set.
        error: gradient of the summed loss with respect to the model's output. Whoever needs it waits for it.
    """

    labels: Tensor | None = None
    index: Tensor | None = None
    error: Tensor | None = None

    def on(self, device: torch.device) -> "Context":
        """The same, where the activation is; what is somewhere else is copied once for all who ask."""
        given = (self.labels, self.index, self.error)
        if all(value is None or value.device == device for value in given):
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = Context(*(None if value is None else value.to(device) for value in given))
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> "dict[torch.device, Context]":
        return {}

    @cached_property
    def label_range(self) -> tuple[int, int]:
        """Smallest and largest label, (0, -1) where there is none; computed once a batch, however many ask."""
        assert self.labels is not None
        low, high = map(int, self.labels.aminmax())
        if low != IGNORED:
            return low, high
        labels = self.labels[self.labels != IGNORED]
        low, high = map(int, labels.aminmax()) if labels.numel() else (0, -1)
        return low, high

    def one_hot(self, classes: int, dtype: torch.dtype) -> Tensor:
        """The labels as rows of zeros with a one, (B, classes) or (B, T, classes); made once for all who ask.

        Where there is no label (-100), the row is all zeros.
        """
        if torch.compiler.is_compiling():  # which keeps what is made once by itself, and cannot look into ours
            return self._made_one_hot(classes, dtype)
        if (classes, dtype) not in self._one_hot:
            self._one_hot[classes, dtype] = self._made_one_hot(classes, dtype)
        return self._one_hot[classes, dtype]

    def _made_one_hot(self, classes: int, dtype: torch.dtype) -> Tensor:
        assert self.labels is not None
        made = torch.zeros(*self.labels.shape, classes, dtype=dtype, device=self.labels.device)
        labels = self.labels.unsqueeze(-1).long()
        given = labels != IGNORED
        return made.scatter_(-1, labels.where(given, 0), given.to(dtype))

    @cached_property
    def _one_hot(self) -> dict[tuple[int, torch.dtype], Tensor]:
        return {}

    def class_labels(self, classes: int, who: str) -> Tensor:
        """The labels as class indices below `classes`, or -100.

        Raises:
            ContextError: no labels, not of an integer type, or out of range.
        """
        labels, remedy = (
            self.labels,
            f"pass target= (or labels=) with integers from 0 to {classes - 1} ({IGNORED} where there is none), or "
            f"classes=None",
        )
        if labels is None:
            raise ContextError(f"{who}: expected labels as context, got none; {remedy}")
        if labels.dtype not in (torch.int64, torch.int32):
            raise ContextError(f"{who}: expected class indices as labels, got {labels.dtype}; {remedy}")
        if labels.device.type == "cpu" and labels.numel():  # elsewhere looking would stall the device
            low, high = self.label_range
            if low < 0 or high >= classes:
                raise ContextError(f"{who}: expected labels from 0 to {classes - 1}, got {low} to {high}; {remedy}")
        return labels


@dataclass(frozen=True)
class Batch:
    """A batch, or one microbatch of it.

    Attributes:
        inputs: the model's positional arguments.
        target: what the loss compares the output with.
        context: for the synthesizers.
        rows: number of examples here.
        step_rows: number of examples of the whole step.
        count: number of loss terms of the whole step.
    """

    inputs: tuple[Any, ...]
    target: Any
    context: Context
    rows: int
    step_rows: int
    count: int

    @classmethod
    def of(cls, inputs: tuple[Any, ...], target: Any, context: Context, loss: "Loss") -> "Batch":
        """The batch of a whole step.

        Raises:
            ShapeError: no tensor among the inputs, or target and context do not have one row for each example.
        """
        tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim() > 0]
        if not tensors or len(tensors[0]) == 0:
            raise ShapeError("the batch holds no example: expected a tensor with at least one row among the inputs")
        rows = len(tensors[0])
        for name, value in (("target", target), ("labels", context.labels), ("index", context.index)):
            if isinstance(value, Tensor) and (value.dim() == 0 or len(value) != rows):
                raise ShapeError(f"{name}: got shape {tuple(value.shape)}, expected {rows} rows as in the inputs")
        count = loss.count(target, rows)
        if count < 1:
            raise ShapeError(f"loss: counted {count} terms in a batch of {rows} rows, expected at least one")
        return cls(inputs, target, context, rows, rows, count)

    def split(self, parts: int) -> "Iterator[Batch]":
        """The microbatches, as equal as can be. Raises `ShapeError` where there are fewer rows than parts."""
        if parts == 1:
            yield self
            return
        if self.rows < parts:
            raise ShapeError(
                f"a batch of {self.rows} rows cannot be split into {parts} microbatches, those of all replicas; use "
                f"larger batches"
            )
        for part in range(parts):
            low, high = (self.rows * edge // parts for edge in (part, part + 1))

            def rows(leaf: Any, low: int = low, high: int = high) -> Any:
                whole = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == self.rows
                return leaf[low:high] if whole else leaf

            inputs, target = pytree.tree_map(rows, self.inputs), pytree.tree_map(rows, self.target)
            context = Context(rows(self.context.labels), rows(self.context.index))
            yield replace(self, inputs=inputs, target=target, context=context, rows=high - low)


class Loss:
    """The task's loss, and how many terms it is a mean of.

    Args:
        function: `function(output, target)`, either a scalar, taken as a mean, or the loss terms themselves (one for
            each example, say `F.cross_entropy` with `reduction="none"`; or one for each token).
        terms: `terms(target)`, the number of loss terms; needed where it is not proportional to the number of rows
            (padding, `ignore_index`). By default one for each row of a mean, else as many as the sample showed.

    Raises:
        SynthgradError: what is given is no function.
    """

    def __init__(self, function: Callable[[Any, Any], Tensor], *, terms: Callable[[Any], int] | None = None) -> None:
        if not callable(function) or isinstance(function, type):
            raise SynthgradError(f"loss: got {function!r}, expected a function of output and target, not a class")
        self.function = function
        self._terms = terms
        self._per_row = 1
        self._per_target = False  # one term for each element of the target, however many there are in a row
        self._sampled: torch.Size | None = None  # else the shape of a target's row, to which the number belongs

    def error(self, output: Tensor, batch: Batch) -> Tensor | None:
        """Gradient of the summed loss with respect to the output, of the output's shape."""
        with torch.enable_grad():
            leaf = cut(output)
            back_propagate(self(leaf, batch))
        return None if leaf.grad is None else leaf.grad * batch.count

    def measure(self, output: Any, target: Any, rows: int, *, sums: bool = False) -> None:
        """Learn from a sample how many loss terms each row has.

        Args:
            output: of the model.
            target: of the sample.
            rows: how many it has.
            sums: let the loss be a sum over the rows: where batches are all of one size, it only has another scale.

        Raises:
            ShapeError: that is no whole number.
            SynthgradError: the loss is a sum over the rows, and so weighs batches by their size.
        """
        value = self.function(output, target)
        if not sums and value.dim() == 0 and self._is_sum(value, output, target, rows):
            raise SynthgradError(
                f"loss: of the sample it is {float(value):.4g}, and twice that of the sample taken twice: a sum over "
                f'examples, expected their mean; take reduction="mean" (or "none"), or divide by the number of rows'
            )
        if value.dim() > 0 and self._terms is None:
            if value.numel() % rows:
                raise ShapeError(
                    f"loss: got {value.numel()} terms for {rows} rows, expected the same number for each row; "
                    f"give Loss(function, terms=...) that counts them from the target"
                )
            self._per_row = value.numel() // rows
            self._per_target = isinstance(target, Tensor) and value.numel() == target.numel()
            self._sampled = target.shape[1:] if isinstance(target, Tensor) and not self._per_target else None

    def _is_sum(self, value: Tensor, output: Any, target: Any, rows: int) -> bool:
        """Whether twice as many rows make twice as much; no, if that cannot be tried."""

        def doubled(one: Tensor) -> Tensor:
            return torch.cat([one, one]) if one.dim() > 0 and len(one) == rows else one

        with torch.no_grad(), suppress(Exception):  # the user's own function, which may know of the batch
            twice = self.function(*pytree.tree_map_only(Tensor, doubled, (output, target)))
            return bool(value.abs() > 0) and torch.allclose(twice, 2 * value)
        return False

    def count(self, target: Any, rows: int) -> int:
        """How many loss terms a batch has. Raises `ShapeError` where that cannot be known from the target."""
        if self._terms is not None:
            return int(self._terms(target))
        if self._sampled is not None and target.shape[1:] != self._sampled:
            raise ShapeError(
                f"loss: got a target of shape {tuple(target.shape)}, expected rows of {tuple(self._sampled)} as in the "
                f"sample, from which the loss terms were counted; give Loss(function, terms=...) that counts them"
            )
        return target.numel() if self._per_target else rows * self._per_row

    def __call__(self, output: Any, batch: Batch) -> Tensor:
        """The (micro)batch's share of the step's mean loss, a scalar: all shares add up to that mean.

        Raises:
            ShapeError: another number of loss terms than the count that the earlier stages have already used.
        """
        own = self.count(batch.target, batch.rows)
        value = self.function(output, batch.target)
        if own == 0:  # a microbatch of padding alone: its mean is NaN, its share is nothing
            return torch.stack([t.sum() * 0.0 for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]).sum()
        if value.dim() == 0:
            return value if own == batch.count else value * (own / batch.count)
        if self._terms is None and value.numel() != own:
            raise ShapeError(
                f"loss: got {value.numel()} terms for {batch.rows} rows, expected {own} as in the sample; "
                f"give Loss(function, terms=...) that counts them from the target"
            )
        return value.sum() / batch.count
