"""Which synthesizer? scikit-learn's grid search asks, by cross-validation.

python examples/12_skorch.py          (pip install synthgrad[skorch])
"""

from functools import partial

import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

import synthgrad as sg
from synthgrad.data import digits
from synthgrad.integrations.skorch import DecoupledClassifier


class Network(nn.Sequential):
    def __init__(self, width: int = 256) -> None:
        layers = [nn.Sequential(nn.Linear(inputs, width), nn.ReLU()) for inputs in (64, width, width)]
        super().__init__(*layers, nn.Linear(width, 10))


CHOICES = {
    "zero": sg.ZeroSynthesizer,
    "linear": sg.LinearSynthesizer,
    "linear, sees the label": partial(sg.LinearSynthesizer, classes=10),
}


def main(epochs: int = 15) -> float:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = digits(fold=0)
    classifier = DecoupledClassifier(
        Network,
        at=["0", "1"],
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=64,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    search = GridSearchCV(classifier, {"synthesizer": list(CHOICES.values())}, cv=2, error_score="raise")
    search.fit(split.train_x.numpy(), split.train_y.numpy())
    for name, score in zip(CHOICES, search.cv_results_["mean_test_score"], strict=True):
        print(f"{name:24} error {100 * (1 - score):4.1f} % in cross-validation")
    error = 1 - search.score(split.test_x.numpy(), split.test_y.numpy())
    print(f"test error of the best {100 * error:.1f} %")
    return error


if __name__ == "__main__":
    main()
