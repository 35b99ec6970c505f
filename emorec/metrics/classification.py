"""Metrics of single-label classification."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def confusion_matrix(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts (C, C): row the target, column the prediction.

    Args:
        target: (N,) class numbers; negative ones do not count.
        predicted: (N,) class numbers.
        classes: C.
    """
    known = target >= 0
    target, predicted = target[known], predicted[known]
    return torch.bincount(target * classes + predicted, minlength=classes * classes).view(classes, classes)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp_min(1), 0.0)


@dataclass(frozen=True)
class ClassScores:
    """Scores a class, each (C,): precision, recall, F1 (0 where undefined) and support, its number of targets."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


def class_scores(confusion: Tensor) -> ClassScores:
    """Scores of each class from a confusion matrix (C, C)."""
    counts = confusion.double()
    hits, targets, predictions = counts.diagonal(), counts.sum(1), counts.sum(0)
    return ClassScores(
        precision=_ratio(hits, predictions),
        recall=_ratio(hits, targets),
        f1=_ratio(2 * hits, targets + predictions),
        support=targets.long(),
    )


def summary_scores(confusion: Tensor) -> dict[str, float]:
    """`weighted_f1`, `macro_f1`, `uar` and `accuracy` from a confusion matrix (C, C).

    `weighted_f1` weighs each class's F1 by its support. `macro_f1` is the mean over classes that are among the targets
    or predictions; `uar`, the unweighted average recall, over classes that are among the targets. All as scikit-learn's
    `f1_score` and `balanced_accuracy_score` define them.
    """
    scores = class_scores(confusion)
    total = scores.support.sum().clamp_min(1)
    seen = (scores.support > 0) | (confusion.sum(0) > 0)
    return {
        "weighted_f1": float((scores.f1 * scores.support).sum() / total),
        "macro_f1": float(scores.f1[seen].mean()) if seen.any() else 0.0,
        "uar": float(scores.recall[scores.support > 0].mean()) if scores.support.any() else 0.0,
        "accuracy": float(confusion.diagonal().sum().double() / total),
    }


def per_class_scores(confusion: Tensor, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{label: {precision, recall, f1, support}} from a confusion matrix (C, C)."""
    scores = class_scores(confusion)
    return {
        label: {
            "precision": float(scores.precision[number]),
            "recall": float(scores.recall[number]),
            "f1": float(scores.f1[number]),
            "support": int(scores.support[number]),
        }
        for number, label in enumerate(labels)
    }
