"""Metrics of regression: functions of targets and predictions, and a `torchmetrics.Metric` for each.

Utterances without a target (NaN) do not count. Every metric is NaN where no utterance has a target, since an error of 0
would be the best one, and where a prediction for a target is NaN or infinite, so that such a model is never taken for
the best.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from typing import ClassVar, Concatenate, ParamSpec

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from emorec.errors import UserError
from emorec.metrics.classification import accuracy, confusion_matrix, weighted_f1

P = ParamSpec("P")
Score = Callable[Concatenate[Tensor, Tensor, P], Tensor]


def _with_target(target: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """The targets (M,) that are known and their predictions (M,), float64."""
    known = ~target.isnan()
    return target[known].double(), predicted.reshape(target.shape)[known].double()  # (N, 1) -> (N,) -> (M,)


def _of_known_targets(score: Score[P]) -> Score[P]:
    """Makes a function of (M,) float64, M ≥ 1 and all finite, one of targets (N,) and predictions (N,) or (N, 1)."""

    @wraps(score)
    def checked(target: Tensor, predicted: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        target, predicted = _with_target(target, predicted)
        if len(target) == 0 or not (target.isfinite() & predicted.isfinite()).all():
            return target.new_full((), torch.nan)
        return score(target, predicted, *args, **kwargs)

    return checked


@_of_known_targets
def mean_absolute_error(target: Tensor, predicted: Tensor, /) -> Tensor:
    """Mean of |prediction - target|."""
    return (predicted - target).abs().mean()


@_of_known_targets
def root_mean_squared_error(target: Tensor, predicted: Tensor, /) -> Tensor:
    """Square root of the mean of (prediction - target)²."""
    return (predicted - target).square().mean().sqrt()


@_of_known_targets
def pearson(target: Tensor, predicted: Tensor, /) -> Tensor:
    """Pearson's correlation of targets and predictions; 0 where one of them does not vary."""
    first, second = target - target.mean(), predicted - predicted.mean()
    norm = first.norm() * second.norm()
    return torch.where(norm == 0, 0.0, (first * second).sum() / norm.clamp_min(1e-300))


@_of_known_targets
def concordance(target: Tensor, predicted: Tensor, /) -> Tensor:
    """Lin's concordance correlation coefficient; 0 where neither varies and they differ, 1 where they are one constant.

    Lin (1989), Biometrics 45(1); with variances over N, as in the AVEC challenges. torchmetrics divides by N - 1 and
    gives NaN for constants.
    """
    covariance = ((target - target.mean()) * (predicted - predicted.mean())).mean()
    shift = (target.mean() - predicted.mean()).square()
    spread = target.var(unbiased=False) + predicted.var(unbiased=False) + shift
    return torch.where(spread == 0, 1.0, 2 * covariance / spread.clamp_min(1e-300))


@_of_known_targets
def binned_score(
    target: Tensor, predicted: Tensor, /, thresholds: Sequence[float], score: Callable[[Tensor], Tensor]
) -> Tensor:
    """A score of the confusion matrix (k + 1, k + 1) of the intervals between k ascending thresholds.

    A threshold belongs to the interval below it.
    """
    bounds = torch.tensor(thresholds, dtype=torch.float64, device=target.device)
    intervals = torch.bucketize(target, bounds), torch.bucketize(predicted, bounds)
    return score(confusion_matrix(*intervals, len(bounds) + 1))


class RegressionMetric(Metric):
    """A score of the predictions of all updates on all ranks.

    The states are the predictions and targets themselves. So the score has the same formula whatever the number of
    batches and ranks, where merged means and variances would lose precision. A validation split has few values: one
    million utterances take 16 MB. All subclasses have the same states, so `torchmetrics.MetricCollection` keeps them
    once.

    Class attributes:
        kind: of the tasks it is for, as in losses.
    """

    kind: ClassVar[str] = "regression"
    higher_is_better = True
    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the states, also of those that torchmetrics makes for a rank without any update."""
        return torch.float64

    @abstractmethod
    def score(self, target: Tensor, predicted: Tensor, /) -> Tensor:
        """The value () of targets (M,) and predictions (M,)."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds a batch: `preds` (N,) or (N, 1), and `target` (N,), of which NaN ones do not count."""
        target, preds = _with_target(target, preds)
        self.preds.append(preds)
        self.target.append(target)

    def compute(self) -> Tensor:
        """The score (), float64; NaN where no target is known or a prediction was not finite."""
        return self.score(self._joined(self.target), self._joined(self.preds))

    def _joined(self, state: Tensor | list[Tensor]) -> Tensor:
        return dim_zero_cat(state) if len(state) else torch.zeros(0, dtype=self.dtype, device=self.device)


class MeanAbsoluteError(RegressionMetric):
    """Mean of |prediction - target|."""

    higher_is_better = False
    score = staticmethod(mean_absolute_error)


class RootMeanSquaredError(RegressionMetric):
    """Square root of the mean of (prediction - target)²."""

    higher_is_better = False
    score = staticmethod(root_mean_squared_error)


class Pearson(RegressionMetric):
    """Pearson's correlation; 0 where targets or predictions do not vary."""

    score = staticmethod(pearson)


class Concordance(RegressionMetric):
    """Lin's concordance correlation coefficient, with variances over N."""

    score = staticmethod(concordance)


class BinnedMetric(RegressionMetric):
    """A score of the intervals that targets and predictions are in.

    Args:
        thresholds: k ascending values; each belongs to the interval below it.
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__()
        if not all(first < second for first, second in pairwise(thresholds)):
            raise UserError(f"expected metric.thresholds to ascend, got {list(thresholds)}")
        self.thresholds = tuple(thresholds)

    @staticmethod
    @abstractmethod
    def score_of_intervals(confusion: Tensor) -> Tensor:
        """The value () of the intervals' confusion matrix (k + 1, k + 1)."""

    def score(self, target: Tensor, predicted: Tensor, /) -> Tensor:
        return binned_score(target, predicted, self.thresholds, self.score_of_intervals)


class BinnedAccuracy(BinnedMetric):
    """Share of the predictions in the target's interval."""

    score_of_intervals = staticmethod(accuracy)


class BinnedWeightedF1(BinnedMetric):
    """Mean of the intervals' F1, weighted by support."""

    score_of_intervals = staticmethod(weighted_f1)
