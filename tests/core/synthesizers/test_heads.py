"""What critics predict the output with. Legend: B batch, T time, D features, C channels, H height, W width."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from synthgrad import CriticSynthesizer, block_head, conv_head, linear_head, mlp_head, zero_head
from synthgrad.core.synthesizers import usual_head
from synthgrad.core.synthesizers.critic import HeadFactory
from synthgrad.models import convolutional

OUTPUTS = 5
FLAT, TIME, MAP = (6,), (7, 6), (4, 8, 8)
HEADS = {"usual": usual_head, "linear": linear_head, "zero": zero_head, "block": block_head}


def pooling_head(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return conv_head(shape, outputs, kernel=3, pool=True)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shape", [FLAT, TIME, MAP, (3, 1, 1), (3, 2, 9), (3, 7, 5)], ids=str)
def test_there_is_an_output_for_each_row_or_map(name: str, shape: tuple[int, ...]) -> None:
    rows = (3, shape[0]) if len(shape) == 2 else (3,)
    assert HEADS[name](shape, OUTPUTS)(torch.randn(3, *shape)).shape == (*rows, OUTPUTS)


@pytest.mark.parametrize("shape", [FLAT, TIME])
def test_of_rows_the_perceptron_too_has_an_output_for_each(shape: tuple[int, ...]) -> None:
    assert mlp_head(shape, OUTPUTS, hidden=3)(torch.randn(3, *shape)).shape == (3, *shape[:-1], OUTPUTS)


@pytest.mark.parametrize("head", [conv_head, pooling_head], ids=["strided", "pooling"])
@pytest.mark.parametrize(
    ("height", "width", "sides"),
    [(14, 14, [(7, 7), (4, 4), (2, 2)]), (5, 9, [(3, 5), (2, 3)]), (2, 9, []), (1, 1, [])],
    ids=str,
)
def test_layers_halve_the_map_until_a_side_is_two(
    head: HeadFactory, height: int, width: int, sides: list[tuple[int, int]]
) -> None:
    made, found = head((4, height, width), OUTPUTS), []
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.AvgPool2d):
            module.register_forward_hook(lambda _module, _inputs, output: found.append(tuple(output.shape[2:])))
    made(torch.randn(2, 4, height, width))
    assert sorted(set(found) - {(height, width)}, reverse=True) == sides


def test_the_block_head_goes_on_as_the_papers_convolutional_network() -> None:
    """With the weights of the layers behind the cut it is those layers."""
    model = convolutional(1, (28, 28), OUTPUTS, channels=4)
    model(torch.randn(8, 1, 28, 28))  # so that the statistics are not those of the start
    first, *rest = model.eval().children()
    behind, head = nn.Sequential(*rest), block_head((4, 14, 14), OUTPUTS).eval()
    weights = behind.state_dict().values()
    head.load_state_dict(dict(zip(head.state_dict(), weights, strict=True)))
    activation = first(torch.randn(3, 1, 28, 28))
    torch.testing.assert_close(head(activation), behind(activation), rtol=0, atol=0)


def test_the_usual_head_sees_what_pooling_would_lose() -> None:
    """Two boards of squares, of which one is the other's negative: averages over them are the same."""
    torch.manual_seed(0)
    board = torch.arange(8).add(torch.arange(8).unsqueeze(1)).remainder(2).float()
    images, labels = torch.stack([board, 1 - board]).unsqueeze(1), torch.tensor([0, 1])
    losses = []
    for head in (usual_head((1, 8, 8), 2), linear_head((1, 8, 8), 2)):
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(200):
            optimizer.zero_grad()
            loss = functional.cross_entropy(head(images), labels)
            loss.backward()
            optimizer.step()
        losses.append(float(functional.cross_entropy(head(images), labels).detach()))
    assert losses[0] < 0.2 < math.log(2) - 0.01 < losses[1]


def test_a_token_is_told_nothing_of_those_behind_it() -> None:
    head = block_head(TIME, OUTPUTS)
    tokens, other = torch.randn(2, *TIME), torch.randn(2, 3, TIME[1])
    changed = torch.cat([tokens[:, :4], other], 1)
    before, after = head(tokens), head(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()


def test_behind_tokens_the_block_head_starts_without_an_opinion_and_its_matrices_small() -> None:
    torch.manual_seed(0)
    head, labels = block_head((16, 128), 65), torch.randint(0, 65, (8, 16))
    loss = functional.cross_entropy(head(torch.randn(8, 16, 128)).flatten(0, 1), labels.flatten())
    assert abs(float(loss.detach()) - math.log(65)) < 0.05
    matrices = [parameter for parameter in head.parameters() if parameter.dim() > 1]
    assert len(matrices) == 5  # attention in and out, the perceptron's two, the output
    assert all(0.018 < float(matrix.detach().std()) < 0.022 for matrix in matrices)
    norms = [module for module in head.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 3 and all(bool((norm.weight == 1).all()) for norm in norms)


@pytest.mark.parametrize(("shape", "kind"), [(FLAT, nn.Linear), (TIME, nn.Linear), (MAP, nn.Conv2d)], ids=str)
def test_a_critic_that_is_given_no_head_takes_the_usual_one(shape: tuple[int, ...], kind: type[nn.Module]) -> None:
    modules = CriticSynthesizer(shape, classes=OUTPUTS).head.modules()
    assert isinstance(next(one for one in modules if isinstance(one, nn.Linear | nn.Conv2d)), kind)
