from collections.abc import Sequence

import pytest

from synthgrad.experiments.names import SettingsError, UnknownNameError
from synthgrad.experiments.networks import NETWORKS, Network, chosen_cuts, layers_of, network_named
from synthgrad.experiments.spec import Training
from synthgrad.models import layer_names


@pytest.mark.parametrize(
    ("cuts", "numbers"),
    [
        ("all", [1, 2, 3, 4]),
        ("1", [2]),
        ("2", [1, 3]),
        ("3", [1, 2, 3]),
        ("4", [1, 2, 3, 4]),
        ("layer4", [4]),
        ("layer3,layer1", [1, 3]),
        ("layer3 layer1, layer3", [1, 3]),
    ],
)
def test_cuts_are_all_a_number_or_names(cuts: str, numbers: Sequence[int]) -> None:
    assert chosen_cuts(cuts, 4) == [f"layer{number}" for number in numbers]


@pytest.mark.parametrize("layers", range(1, 13))
def test_so_many_cuts_are_so_many_and_lie_evenly(layers: int) -> None:
    for count in range(1, layers + 1):
        places = [0, *(int(name.removeprefix("layer")) for name in chosen_cuts(str(count), layers)), layers + 1]
        lengths = [after - before for before, after in zip(places, places[1:], strict=False)]
        assert len(places) == count + 2
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("cuts", "message"),
    [
        ("layr3", "'layr3'.*did you mean 'layer3'"),
        ("output", "no layer 'output'"),
        ("0", "expected 1 to 4"),
        ("5", "expected 1 to 4"),
        (",", "got none"),
    ],
)
def test_cuts_that_are_none_are_refused_with_a_remedy(cuts: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        chosen_cuts(cuts, 4)


def test_an_unknown_network_is_told_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="model 'convolution': unknown; did you mean 'convolutional'"):
        network_named("convolution")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_network_has_the_layers_that_cuts_are_named_by(network: Network) -> None:
    model = network.build(Training(layers=3), (64,) if network.flat else (1, 8, 8), 10)
    assert layer_names(model) == layers_of(3)
