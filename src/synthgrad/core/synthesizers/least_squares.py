"""The linear synthesizer without an optimizer's lag: it stands at the minimum of its loss after every step."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from synthgrad.core.batch import Context
from synthgrad.core.errors import ShapeError, SynthgradError
from synthgrad.core.synthesizers.contract import Answer, Feedback, Synthesizer, one_hot_for, squared_distance

__all__ = ["LeastSquaresSynthesizer"]


class LeastSquaresSynthesizer(Synthesizer):
    """g = W x, as `LinearSynthesizer`, but W is solved for in every step, not followed by an optimizer.

        x = [h; 1]                    without labels
        x = [h; onehot(y); 1]         with labels, belief=False: the paper's linear cDNI, arXiv:1608.05343, section 3.3
        x = [h; onehot(y); p; 1]      with labels: p = softmax(U h + u), what a linear head believes of the class

    After each step W is the ridge regression to the targets of the latest steps, of which the one s steps ago weighs
    decay^s:

        W = argmin  sum_s decay^s sum_rows |W x - g|^2  +  ridge * mean(x^2) * |W|^2

    with the mean over the features, and the sum over the same rows. So it lags behind a network that changes by its
    memory, about 1 / (1 - decay) steps, and has no learning rate. This is the exponentially weighted least squares of
    adaptive filters (S. Haykin, Adaptive Filter Theory); solved anew, by a Cholesky factorization, where the recursive
    form (RLS) would add up rounding errors. The targets are bootstrapped as ever.

    The gradient of a log-loss goes with p - y, which saturates; what is linear in h alone believes in a quadratic loss,
    which does not (Czarnecki et al. 2017, arXiv:1703.00522, section 4). The head learns the labels, by the
    `synthesizer_optimizer`, which has nothing else to train.

    With n features in x, a step takes 2 N n (n + D) operations for the sums over N rows, n^3 / 3 to factor, and 2 n^2 D
    to solve: more than a layer as wide as n. It holds 2 n (n + D) + n D numbers. Replicas send n (n + D).

    Args:
        shape: of the activation, without batch: (D,), or (T, D) with a row for each token.
        classes: the number of classes, if it sees the labels: (B,) or, for each token, (B, T).
        belief: with labels, see the head's belief too.
        decay: the share of what is remembered that stays at each step, from 0 (the last step alone) to below 1.
        ridge: pulls W towards zero, relative to the features' mean square; above 0.

    Raises:
        ShapeError: a map of channels (C, H, W), which has too many features to solve for.
        SynthgradError: decay is not from 0 to below 1, or ridge not above 0.
    """

    past: Tensor  # (n, n + D): sums over rows of x [x; g]^T, up to the last step
    lesson: Tensor  # likewise, of the step under way
    weight: Tensor  # (n, D), W transposed

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        classes: int | None = None,
        belief: bool = True,
        decay: float = 0.95,
        ridge: float = 1e-3,
    ) -> None:
        super().__init__()
        _expect_solvable(shape, decay, ridge)
        width = shape[-1]
        self.classes, self.decay, self.ridge = classes, decay, ridge
        self.needs = frozenset({"labels"}) if classes else frozenset()
        self.head = nn.Linear(width, classes) if classes and belief else None
        features = width + 1 + (classes or 0) * (2 if belief else 1)
        self.register_buffer("past", torch.zeros(features, features + width))
        self.register_buffer("lesson", torch.zeros(features, features + width))
        self.register_buffer("weight", torch.zeros(features, width))

    def forward(self, activation: Tensor, context: Context) -> Tensor:
        """The synthetic gradient, of the activation's shape."""
        return self.answer(activation, context).grad

    def answer(self, activation: Tensor, context: Context) -> Answer:
        """The synthetic gradient; with a head, as output what it believes. The activation's graph is left alone."""
        output = None if self.head is None else self.head(activation.detach())
        features = self._features(activation, output, context)
        return Answer((features @ self.weight).view(activation.shape), output)

    def learn(self, activation: Tensor, answer: Answer, context: Context, feedback: Feedback) -> Tensor | None:
        """Add up what came back. The loss is the head's, from the labels, plus the squared distance to the target.

        The distance has no graph: it is there to be looked at.
        """
        target = feedback.target_grad
        if target is None:
            return None
        self._add_up(self._features(activation, answer.output, context), target)
        distance = squared_distance(answer.grad.detach(), target)
        if self.classes is None or answer.output is None:
            return distance
        told = self._labels(activation, self.classes, context)
        return distance - (told * answer.output.log_softmax(-1)).sum()

    @torch.no_grad()
    def rehearse(self) -> Iterator[tuple[Tensor, int]]:
        """Solve for W, from this step's lessons and what is remembered; there are no further ones."""
        self.past.mul_(self.decay).add_(self.lesson)
        self.lesson.zero_()
        with torch.autocast(self.past.device.type, enabled=False):
            self._solve()
        return iter(())

    def sums(self) -> Sequence[Tensor]:
        """Those of the step under way."""
        return (self.lesson,)

    def forget(self) -> None:
        """Drop the lessons of the step under way; those before are of steps that ended well."""
        self.lesson.zero_()

    def check(self, context: Context) -> None:
        """Raise `ContextError` as `Synthesizer.check`, and `SynthgradError` if it has been moved to half precision."""
        super().check(context)
        if self.past.dtype not in (torch.float32, torch.float64):
            raise SynthgradError(
                f"LeastSquaresSynthesizer: got {self.past.dtype}, expected float32 or float64, in which sums of "
                f"squares can be solved for; leave the model in float32 under torch.autocast, or take LinearSynthesizer"
            )

    # ---- the regression ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _features(self, activation: Tensor, output: Tensor | None, context: Context) -> Tensor:
        """A row of x for each row of the activation, (N, n)."""
        parts = [activation, activation.new_ones(()).expand(*activation.shape[:-1], 1)]
        if self.classes is not None:
            parts.append(self._labels(activation, self.classes, context))
        if output is not None:
            parts.append(output.softmax(-1).to(activation.dtype))
        return torch.cat(parts, -1).flatten(0, -2)

    def _labels(self, activation: Tensor, classes: int, context: Context) -> Tensor:
        """One-hot, for each row of the activation: (B, classes) or (B, T, classes)."""
        one_hot = one_hot_for(activation, context, classes, activation.dtype)
        return one_hot if one_hot.dim() == activation.dim() else one_hot.unsqueeze(1).expand(*activation.shape[:-1], -1)

    @torch.no_grad()
    def _add_up(self, features: Tensor, target: Tensor) -> None:
        features = features.to(self.lesson.dtype)
        both = torch.cat([features, target.reshape(len(features), -1).to(features)], 1)
        with torch.autocast(features.device.type, enabled=False):  # sums of squares have no room in half precision
            self.lesson.add_(features.T @ both)

    def _solve(self) -> None:
        """W from the sums; where these tell nothing (no lesson yet), it stays as it is."""
        count = len(self.weight)
        moments, products = self.past.split([count, self.weight.shape[1]], 1)
        ridge = self.ridge * moments.diagonal().mean()
        factor, fault = torch.linalg.cholesky_ex(moments + ridge * torch.eye(count).to(moments))
        self.weight.copy_(torch.where(fault == 0, torch.cholesky_solve(products, factor), self.weight))


def _expect_solvable(shape: tuple[int, ...], decay: float, ridge: float) -> None:
    name = "LeastSquaresSynthesizer"
    if len(shape) not in (1, 2):
        raise ShapeError(
            f"{name}: got an activation of shape {tuple(shape)} without batch, expected (D,) or (T, D): what is solved "
            f"for grows with the square of a row's features; take ConvSynthesizer or CriticSynthesizer"
        )
    if not 0.0 <= decay < 1.0:
        raise SynthgradError(f"{name}: decay={decay}: expected 0 (the last step alone) or more, and less than 1")
    if not 0.0 < ridge < float("inf"):
        raise SynthgradError(
            f"{name}: ridge={ridge}: expected a number above 0, such as 1e-3: nothing else tells what units mean that "
            f"never fire"
        )
