import pytest
import torch
from torch import nn

from synthgrad.core.boundary import back_propagate, back_propagate_to, cut


def test_a_cut_gives_the_same_values_as_a_leaf_without_past() -> None:
    activation = torch.randn(3, 4, requires_grad=True) * 2
    leaf = cut(activation)
    assert torch.equal(leaf, activation)
    assert leaf.is_leaf and leaf.requires_grad and leaf.grad_fn is None
    assert activation.grad_fn is not None  # the past itself is left as it is


def test_no_gradient_passes_a_cut() -> None:
    weight = torch.randn(4, requires_grad=True)
    leaf = cut(weight * 2)
    (leaf * 3).sum().backward()
    assert weight.grad is None
    assert torch.equal(leaf.grad if leaf.grad is not None else torch.empty(0), torch.full((4,), 3.0))


def test_a_cut_may_ask_for_no_gradient_and_copies_nothing() -> None:
    activation = torch.randn(3, requires_grad=True).exp()
    leaf = cut(activation, differentiable=False)
    assert not leaf.requires_grad
    assert leaf.data_ptr() == activation.data_ptr()


def test_gradients_accumulate_until_they_are_dropped() -> None:
    weight = torch.ones(2, requires_grad=True)
    back_propagate(weight * 3, torch.tensor([1.0, 2.0]))
    back_propagate((weight * weight).sum())
    assert weight.grad is not None and torch.equal(weight.grad, torch.tensor([3.0 + 2.0, 6.0 + 2.0]))


def test_an_output_with_nothing_to_train_below_is_passed_over() -> None:
    output = torch.ones(2)
    back_propagate(output, torch.ones(2))
    back_propagate_to([torch.ones(2, requires_grad=True)], output, torch.ones(2), keep=False)
    assert output.grad is None


def test_a_graph_is_used_up_unless_it_is_kept_for_the_other_half() -> None:
    x, linear = torch.randn(5, 3, requires_grad=True), nn.Linear(3, 2)
    output, gradient = linear(x), torch.randn(5, 2)
    back_propagate_to([x], output, gradient, keep=True)
    assert x.grad is not None and torch.equal(x.grad, gradient @ linear.weight)
    assert all(parameter.grad is None for parameter in linear.parameters())
    given = x.grad.clone()
    back_propagate_to(list(linear.parameters()), output, gradient, keep=False)
    assert linear.weight.grad is not None and torch.equal(x.grad, given)
    torch.testing.assert_close(linear.weight.grad, gradient.T @ x, rtol=1e-5, atol=1e-6)  # float32, sums of 5
    squared = x.square().sum()
    back_propagate(squared)
    with pytest.raises(RuntimeError):
        back_propagate(squared)


def test_leaves_that_ask_for_no_gradient_are_passed_over() -> None:
    frozen, trained = torch.ones(2), torch.ones(2, requires_grad=True)
    back_propagate_to([frozen, trained], frozen * trained, torch.ones(2), keep=False)
    assert frozen.grad is None and trained.grad is not None
    back_propagate_to([frozen], frozen * trained, torch.ones(2), keep=False)
    assert frozen.grad is None
