"""What enters a step. Legend: B batch, T time, V classes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from synthgrad import Context, ContextError, Loss, ShapeError, SynthgradError
from synthgrad.core.batch import Batch


def mean_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(output, target)


def row_losses(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean(1)


def batch_of(rows: int, loss: Loss | None = None) -> Batch:
    inputs = (torch.arange(rows * 2.0).view(rows, 2),)
    labels, index = torch.arange(rows) % 3, torch.arange(rows)
    return Batch.of(inputs, torch.arange(rows * 3.0).view(rows, 3), Context(labels, index), loss or Loss(mean_loss))


# ---- one batch -------------------------------------------------------------------------------------------------------


def test_the_count_is_the_number_of_rows_of_the_first_tensor() -> None:
    batch = Batch.of(({"mask": torch.ones(5, 3), "scale": 2.0}, torch.tensor(1.0)), None, Context(), Loss(mean_loss))
    assert (batch.rows, batch.step_rows, batch.count) == (5, 5, 5)


@pytest.mark.parametrize("inputs", [(), (1.0, "text"), (torch.tensor(3.0),), (torch.ones(0, 4),)])
def test_a_batch_without_a_row_is_refused(inputs: tuple[Any, ...]) -> None:
    with pytest.raises(ShapeError, match="no example.*at least one row"):
        Batch.of(inputs, None, Context(), Loss(mean_loss))


@pytest.mark.parametrize("name", ["target", "labels", "index"])
@pytest.mark.parametrize("shape", [(3,), (5, 4), ()])
def test_rows_that_disagree_are_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    values = {"target": torch.zeros(4), "labels": torch.zeros(4), "index": torch.zeros(4), name: torch.zeros(shape)}
    with pytest.raises(ShapeError) as caught:
        Batch.of((torch.ones(4, 2),), values["target"], Context(values["labels"], values["index"]), Loss(mean_loss))
    assert str(caught.value).startswith(name) and str(shape) in str(caught.value) and "4 rows" in str(caught.value)


# ---- microbatches ----------------------------------------------------------------------------------------------------


@given(rows=st.integers(1, 12), parts=st.integers(1, 12))
def test_the_parts_hold_every_row_once_in_order_and_differ_by_one_at_most(rows: int, parts: int) -> None:
    batch = batch_of(rows)
    if parts > rows:
        with pytest.raises(ShapeError, match=f"{rows} rows.*{parts} microbatches"):
            list(batch.split(parts))
        return
    split = list(batch.split(parts))
    assert len(split) == parts and max(p.rows for p in split) - min(p.rows for p in split) <= 1
    assert torch.equal(torch.cat([part.inputs[0] for part in split]), batch.inputs[0])
    assert torch.equal(torch.cat([part.target for part in split]), batch.target)
    for name in ("labels", "index"):
        assert torch.equal(torch.cat([getattr(part.context, name) for part in split]), getattr(batch.context, name))
    assert all(len(part.inputs[0]) == len(part.target) == part.rows for part in split)
    assert all((part.count, part.step_rows) == (rows, rows) for part in split)


def test_what_has_no_row_for_each_example_goes_to_every_part() -> None:
    shared, scale = torch.ones(3, 3), torch.tensor(2.0)
    inputs = (torch.randn(4, 2), {"shared": shared, "scale": scale, "name": "n"})
    for part in Batch.of(inputs, None, Context(), Loss(mean_loss)).split(2):
        assert part.inputs[0].shape == (2, 2)
        assert part.inputs[1]["shared"] is shared and part.inputs[1]["scale"] is scale


# ---- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [mean_loss, row_losses])
@given(rows=st.integers(1, 9), parts=st.integers(1, 9))
def test_the_shares_of_all_parts_add_up_to_the_mean_loss(function: Any, rows: int, parts: int) -> None:
    loss = Loss(function)
    batch = batch_of(rows, loss)
    output = torch.randn(rows, 3)
    expected = (output - batch.target).square().mean()
    shares = [loss(rows, part) for rows, part in _with_outputs(output, batch, min(parts, rows))]
    assert all(share.dim() == 0 for share in shares)
    # Sums of up to 9 numbers in another order.
    torch.testing.assert_close(torch.stack(shares).sum(), expected, rtol=1e-5, atol=1e-6)


def _with_outputs(output: Tensor, batch: Batch, parts: int) -> list[tuple[Tensor, Batch]]:
    split = list(batch.split(parts))
    return list(zip(output.split([part.rows for part in split]), split, strict=True))


def test_a_scalar_loss_of_a_whole_batch_is_left_exactly_as_it_is() -> None:
    loss = Loss(lambda output, target: output.sum() / 3)
    output = torch.randn(7, 3)
    assert torch.equal(loss(output, batch_of(7, loss)), output.sum() / 3)


def test_terms_for_each_token_are_counted_from_the_sample() -> None:
    loss = Loss(
        lambda output, target: functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    )
    output, target = torch.randn(2, 5, 4), torch.randint(0, 4, (2, 5))
    loss.measure(output, target, 2)
    assert loss.count(target, 2) == 10 and loss.count(torch.zeros(3, 5), 3) == 15
    batch = Batch.of((torch.ones(2, 5),), target, Context(), loss)
    assert batch.count == 10
    expected = functional.cross_entropy(output.flatten(0, 1), target.flatten())
    torch.testing.assert_close(loss(output, batch), expected, rtol=1e-6, atol=1e-6)


def test_another_number_of_terms_than_the_sample_showed_is_refused() -> None:
    loss = Loss(lambda output, target: (output - target).square()[:, :3])
    loss.measure(torch.zeros(2, 5), torch.zeros(2, 5), 2)
    with pytest.raises(ShapeError, match=r"target of shape \(2, 4\).*terms="):
        Batch.of((torch.ones(2, 4),), torch.zeros(2, 4), Context(), loss)
    batch = Batch.of((torch.ones(2, 5),), torch.zeros(2, 5), Context(), loss)
    with pytest.raises(ShapeError, match="got 4 terms for 2 rows, expected 6.*terms="):
        loss.function = lambda output, target: (output - target).square()[:, :2]
        loss(torch.zeros(2, 5), batch)


def test_terms_that_are_no_multiple_of_the_rows_are_refused_by_the_sample() -> None:
    loss = Loss(lambda output, target: output.flatten()[:5])
    with pytest.raises(ShapeError, match="5 terms for 2 rows.*terms="):
        loss.measure(torch.zeros(2, 4), None, 2)


def test_a_masked_mean_counts_its_terms_from_the_target() -> None:
    target = torch.tensor([[1, 2, -100], [3, -100, -100], [0, 0, 0], [1, -100, -100]])
    output = torch.randn(4, 3, 5)

    def masked(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=-100)

    loss = Loss(masked, terms=lambda target: int((target != -100).sum()))
    loss.measure(output, target, 4)
    batch = Batch.of((torch.ones(4, 3),), target, Context(), loss)
    assert batch.count == 7
    shares = [loss(rows, part) for rows, part in _with_outputs(output, batch, 2)]
    expected = masked(output, target)
    torch.testing.assert_close(torch.stack(shares).sum(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shares[0], masked(output[:2], target[:2]) * 3 / 7, rtol=1e-6, atol=1e-6)


def test_a_batch_without_a_loss_term_is_refused() -> None:
    loss = Loss(mean_loss, terms=lambda target: int((target >= 0).sum()))
    with pytest.raises(ShapeError, match="counted 0 terms in a batch of 3 rows"):
        Batch.of((torch.ones(3, 2),), torch.full((3,), -1), Context(), loss)


def test_a_microbatch_without_a_loss_term_adds_nothing() -> None:
    """Padding may fill a whole part, though not the whole batch."""

    def masked(output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target, ignore_index=-100, reduction="sum") / (target >= 0).sum().clamp(
            1
        )

    loss = Loss(masked, terms=lambda target: int((target >= 0).sum()))
    output, target = torch.randn(4, 3), torch.tensor([0, 1, -100, -100])
    batch = Batch.of((torch.ones(4, 2),), target, Context(), loss)
    shares = [loss(rows, part) for rows, part in _with_outputs(output, batch, 2)]
    torch.testing.assert_close(torch.stack(shares).sum(), masked(output, target), rtol=1e-6, atol=1e-6)


# ---- the context -----------------------------------------------------------------------------------------------------


def test_labels_in_range_are_given_as_they_are() -> None:
    labels = torch.tensor([0, 9, 3])
    assert Context(labels).class_labels(10, "me") is labels
    assert Context(labels).label_range == (0, 9)


def test_where_there_is_no_label_the_row_is_zeros() -> None:
    labels = torch.tensor([[1, -100], [-100, 0]])
    context = Context(labels)
    assert context.class_labels(2, "me") is labels
    assert context.label_range == (0, 1)
    expected = [[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]
    assert context.one_hot(2, torch.float32).tolist() == expected


def test_a_batch_may_have_no_label_at_all() -> None:
    context = Context(torch.full((3,), -100))
    context.class_labels(2, "me")
    assert not context.one_hot(2, torch.float32).any()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "expected labels as context, got none"),
        (torch.tensor([0.0, 1.0]), "expected class indices as labels, got torch.float32"),
        (torch.tensor([0, 3]), "expected labels from 0 to 2, got 0 to 3"),
        (torch.tensor([-1, 2]), "expected labels from 0 to 2, got -1 to 2"),
        (torch.tensor([[0, 1], [2, -99]]), "expected labels from 0 to 2, got -99 to 2"),
        (torch.tensor([[-100, -1], [2, 0]]), "expected labels from 0 to 2, got -1 to 2"),
        (torch.tensor([[-100, 3], [2, 0]]), "expected labels from 0 to 2, got 0 to 3"),
        (torch.tensor([[-101, -100], [2, 0]]), "expected labels from 0 to 2, got -101 to 2"),
    ],
    ids=["missing", "float", "too high", "too low", "per token", "below", "above", "beyond"],
)
def test_labels_that_are_no_classes_are_refused_with_range_and_remedy(labels: Tensor | None, words: str) -> None:
    with pytest.raises(ContextError) as caught:
        Context(labels).class_labels(3, "MySynthesizer")
    assert str(caught.value).startswith("MySynthesizer: ") and words in str(caught.value)
    assert "integers from 0 to 2" in str(caught.value)


def test_a_context_is_on_the_activations_device_copied_once_for_all_who_ask() -> None:
    labels, here, there = torch.tensor([2, 0]), torch.device("cpu"), torch.device("meta")
    context = Context(labels, torch.arange(2))
    assert context.on(here) is context and Context().on(there).labels is None
    moved = context.on(there)
    assert moved is context.on(there) and moved.error is None
    assert moved.labels is not None and moved.index is not None
    assert moved.labels.device == moved.index.device == there and context.labels is labels


@pytest.mark.parametrize(
    "function",
    [
        partial(functional.cross_entropy, reduction="sum"),
        lambda output, target: functional.nll_loss(output.log_softmax(1), target, reduction="sum") / 7,
    ],
    ids=["sum", "divided by a constant"],
)
def test_a_sum_over_examples_is_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(SynthgradError, match=r"a sum over examples, expected their mean; take reduction=\"mean\""):
        Loss(function).measure(torch.randn(6, 3), torch.arange(6) % 3, 6)


@pytest.mark.parametrize(
    "function",
    [
        functional.cross_entropy,
        lambda output, target: functional.cross_entropy(output, target, reduction="sum") / len(target),
        lambda output, target: output.sum() * 0.0,  # of which nobody can say what it is
        lambda output, target: functional.cross_entropy(output[:6], target[:6], reduction="sum"),
        lambda output, target: functional.cross_entropy(output.view(6, 3), target),  # cannot be tried
    ],
    ids=["mean", "sum over rows", "zero", "of six alone", "of six or none"],
)
def test_what_is_no_sum_over_examples_is_taken(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    loss = Loss(function)
    loss.measure(torch.randn(6, 3), torch.arange(6) % 3, 6)
    assert loss.count(torch.arange(6), 6) == 6
