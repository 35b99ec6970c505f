"""Metrics from sums over utterances, which are added up for whole clusters: many resamples are one matrix product.

The sums of a set of utterances are (K,): for C classes K = 3C, the hits, targets and predictions of each class; for
values K = 7. Those of B sets are (K, B), whose metrics are (B,). All metrics equal those of `emorec.metrics`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Score = Callable[[Array], Array]  # of sums (K, ...), the metric (...)


def class_sums(
    target: NDArray[np.int64], predicted: NDArray[np.int64], cluster: NDArray[np.int64], *, clusters: int, classes: int
) -> Array:
    """The sums (n, 3C) of the utterances of each cluster.

    Args:
        target: (N,) class numbers; utterances with a negative one do not count.
        predicted: (N,) class numbers; a negative one is no class.
        cluster: (N,) number of each utterance's cluster, from 0 to n - 1.
        clusters: n.
        classes: C.
    """
    known = target >= 0
    target, predicted, cluster = target[known], predicted[known], cluster[known]

    def count(of: NDArray[np.int64], rows: NDArray[np.bool_]) -> Array:
        counts = np.bincount(cluster[rows] * classes + of[rows], minlength=clusters * classes)
        return counts.reshape(clusters, classes).astype(np.float64)

    return np.concatenate(
        [count(target, target == predicted), count(target, target >= 0), count(predicted, predicted >= 0)], axis=1
    )


def value_sums(target: Array, predicted: Array, cluster: NDArray[np.int64], *, clusters: int) -> Array:
    """The sums (n, 7) of the utterances of each cluster; the arguments are as in `class_sums`, for values (N,)."""
    known = ~np.isnan(target)
    shift = target[known].mean() if known.any() else 0.0  # no metric depends on it; squares stay small
    target, predicted = target[known] - shift, predicted[known] - shift
    squares = (target**2, predicted**2, target * predicted)
    terms = (np.ones_like(target), target, predicted, *squares, np.abs(predicted - target))
    return np.stack([np.bincount(cluster[known], term, minlength=clusters) for term in terms], axis=1)


def _classes(sums: Array) -> tuple[Array, Array, Array]:
    """Hits, targets and predictions, (C, ...) each."""
    hits, targets, predictions = np.split(sums, 3)
    return hits, targets, predictions


def _mean(values: Array, counted: NDArray[np.bool_]) -> Array:
    """The mean over the first axis of what is counted; 0 where nothing is."""
    mean: Array = (values * counted).sum(0) / np.maximum(counted.sum(0), 1)
    return mean


def uar(sums: Array) -> Array:
    """Mean recall over the classes that are among the targets."""
    hits, targets, _ = _classes(sums)
    return _mean(hits / np.maximum(targets, 1), targets > 0)


def _f1(sums: Array) -> Array:
    hits, targets, predictions = _classes(sums)
    f1: Array = 2 * hits / np.maximum(targets + predictions, 1)
    return f1


def macro_f1(sums: Array) -> Array:
    """Mean F1 over the classes that are among the targets or the predictions."""
    _, targets, predictions = _classes(sums)
    return _mean(_f1(sums), targets + predictions > 0)


def weighted_f1(sums: Array) -> Array:
    """Mean F1 weighted by the number of targets."""
    _, targets, _ = _classes(sums)
    score: Array = (_f1(sums) * targets).sum(0) / np.maximum(targets.sum(0), 1)
    return score


def accuracy(sums: Array) -> Array:
    """Share of the targets that are predicted."""
    hits, targets, _ = _classes(sums)
    share: Array = hits.sum(0) / np.maximum(targets.sum(0), 1)
    return share


def _moments(sums: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Means of targets and predictions, their variances, and their covariance, over N."""
    count, target, predicted, target2, predicted2, product, _ = sums
    count = np.maximum(count, 1)
    first, second = target / count, predicted / count
    variances = np.maximum(target2 / count - first**2, 0), np.maximum(predicted2 / count - second**2, 0)
    return first, second, *variances, product / count - first * second


def ccc(sums: Array) -> Array:
    """Lin's concordance correlation coefficient, with variances over N; 1 where both are one constant."""
    first, second, target, predicted, covariance = _moments(sums)
    spread = target + predicted + (first - second) ** 2
    score: Array = np.where(spread == 0, 1.0, 2 * covariance / np.where(spread == 0, 1.0, spread))
    return score


def pearson(sums: Array) -> Array:
    """Pearson's correlation; 0 where targets or predictions do not vary."""
    _, _, target, predicted, covariance = _moments(sums)
    norm = np.sqrt(target * predicted)
    score: Array = np.where(norm == 0, 0.0, covariance / np.where(norm == 0, 1.0, norm))
    return score


def mae(sums: Array) -> Array:
    """Mean of |prediction - target|."""
    error: Array = sums[6] / np.maximum(sums[0], 1)
    return error


def rmse(sums: Array) -> Array:
    """Square root of the mean of (prediction - target)²."""
    squares = sums[3] + sums[4] - 2 * sums[5]
    error: Array = np.sqrt(np.maximum(squares, 0) / np.maximum(sums[0], 1))
    return error


SCORES: Mapping[str, Mapping[str, Score]] = {
    "classification": {"weighted_f1": weighted_f1, "macro_f1": macro_f1, "uar": uar, "accuracy": accuracy},
    "regression": {"ccc": ccc, "mae": mae, "rmse": rmse, "pearson": pearson},
}
