"""Metrics of regression."""

from collections.abc import Sequence

import torch
from torch import Tensor

from emorec.metrics.classification import confusion_matrix, summary_scores


def pearson(target: Tensor, predicted: Tensor) -> Tensor:
    """Pearson's correlation of two (N,); 0 where one of them does not vary."""
    first, second = target.double() - target.double().mean(), predicted.double() - predicted.double().mean()
    norm = first.norm() * second.norm()
    return torch.where(norm > 0, (first * second).sum() / norm.clamp_min(1e-300), 0.0)


def concordance(target: Tensor, predicted: Tensor) -> Tensor:
    """Lin's concordance correlation coefficient of two (N,); 0 where neither varies and they differ.

    Lin (1989), Biometrics 45(1); with variances over N, as in the AVEC challenges.
    """
    first, second = target.double(), predicted.double()
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    spread = first.var(unbiased=False) + second.var(unbiased=False) + (first.mean() - second.mean()).square()
    return torch.where(spread > 0, 2 * covariance / spread.clamp_min(1e-300), 1.0)


def regression_scores(target: Tensor, predicted: Tensor, cuts: Sequence[Sequence[float]] = ()) -> dict[str, float]:
    """`mae`, `rmse`, `pearson` and `ccc` of targets and predictions (N,).

    Utterances without a target (NaN) do not count.
    For each set of k thresholds in `cuts` also `accuracy_<k + 1>`, the share of predictions in the target's interval
    (a threshold belongs to the interval below it), and for a single threshold `weighted_f1`, of the two classes.
    """
    known = ~target.isnan()
    target, predicted = target[known].double(), predicted[known].double()
    if len(target) == 0:
        return {}
    error = predicted - target
    scores = {
        "mae": float(error.abs().mean()),
        "rmse": float(error.square().mean().sqrt()),
        "pearson": float(pearson(target, predicted)),
        "ccc": float(concordance(target, predicted)),
    }
    for thresholds in cuts:
        bounds = torch.tensor(thresholds, dtype=torch.float64)
        classes = len(thresholds) + 1
        matrix = confusion_matrix(torch.bucketize(target, bounds), torch.bucketize(predicted, bounds), classes)
        summary = summary_scores(matrix)
        scores[f"accuracy_{classes}"] = summary["accuracy"]
        if classes == 2:
            scores["weighted_f1"] = summary["weighted_f1"]
    return scores
