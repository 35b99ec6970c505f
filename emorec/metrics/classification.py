"""Metrics of single-label classification: functions of a confusion matrix, and a `torchmetrics.Metric` for each.

Utterances without a target do not count. Where no utterance has a target, every metric is 0. Where a logit of an
utterance with a target is NaN or infinite, every metric is NaN, so that such a model is never taken for the best.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from emorec.batch import IGNORED


def confusion_matrix(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts (C, C): row the target, column the prediction. All NaN where a logit is not finite.

    The targets are class numbers (N,), of which negative ones do not count; the predictions (N,) or logits (N, C).

    Raises:
        ValueError: the logits are not of C classes.
    """
    target, predicted = _with_target(target, predicted, classes)
    if not predicted.isfinite().all():
        return torch.full((classes, classes), torch.nan, dtype=torch.float64, device=predicted.device)
    if predicted.ndim == 2:
        predicted = predicted.argmax(1)  # (N, C) -> (N,)
    return torch.bincount(target * classes + predicted, minlength=classes * classes).view(classes, classes)


def _with_target(target: Tensor, predicted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    if predicted.ndim == 2 and predicted.shape[1] != classes:
        raise ValueError(f"expected logits of shape (N, {classes}), got {tuple(predicted.shape)}")
    known = target >= 0
    return target[known], predicted[known]


class ClassScores(NamedTuple):
    """Scores of each class, (C,) float64 each, 0 where undefined; `support` is the number of targets."""

    precision: Tensor
    recall: Tensor
    f1: Tensor
    support: Tensor


def class_scores(confusion: Tensor) -> ClassScores:
    """Scores of each class from a confusion matrix (C, C)."""
    counts = confusion.double()
    hits, targets, predictions = counts.diagonal(), counts.sum(1), counts.sum(0)
    # a denominator of 0 has a numerator of 0
    return ClassScores(
        precision=hits / predictions.clamp_min(1),
        recall=hits / targets.clamp_min(1),
        f1=2 * hits / (targets + predictions).clamp_min(1),
        support=targets,
    )


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values[counted].mean() if counted.any() else values.new_zeros(())


def weighted_f1(confusion: Tensor) -> Tensor:
    """Mean of the classes' F1, weighted by support, from a confusion matrix (C, C); scikit-learn's `f1_score`."""
    scores = class_scores(confusion)
    return (scores.f1 * scores.support).sum() / scores.support.sum().clamp_min(1)


def macro_f1(confusion: Tensor) -> Tensor:
    """Mean F1 over the classes that are among the targets or the predictions; scikit-learn's `f1_score`."""
    scores = class_scores(confusion)
    return _mean(scores.f1, (scores.support != 0) | (confusion.sum(0) != 0))


def uar(confusion: Tensor) -> Tensor:
    """Unweighted average recall: mean recall over the classes that are among the targets.

    This is scikit-learn's `balanced_accuracy_score`. The macro recall of torchmetrics differs: it also counts classes
    that are among the predictions only, with recall 0.
    """
    scores = class_scores(confusion)
    return _mean(scores.recall, scores.support != 0)


def accuracy(confusion: Tensor) -> Tensor:
    """Share of the targets that are predicted, from a confusion matrix (C, C)."""
    counts = confusion.double()
    return counts.diagonal().sum() / counts.sum().clamp_min(1)


def summary_scores(confusion: Tensor) -> dict[str, float]:
    """`weighted_f1`, `macro_f1`, `uar` and `accuracy` from a confusion matrix (C, C)."""
    return {score.__name__: float(score(confusion)) for score in (weighted_f1, macro_f1, uar, accuracy)}


def per_class_scores(confusion: Tensor, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{label: {precision, recall, f1, support}} from a confusion matrix (C, C) of counts."""
    rows = torch.stack(class_scores(confusion), dim=1).tolist()  # (C, 4)
    return {
        label: {"precision": precision, "recall": recall, "f1": f1, "support": int(support)}
        for label, (precision, recall, f1, support) in zip(labels, rows, strict=True)
    }


class ConfusionMatrixMetric(MulticlassConfusionMatrix):
    """A score of the confusion matrix of all updates on all ranks.

    All subclasses have the same states, so `torchmetrics.MetricCollection` counts one matrix for all of them.

    Class attributes:
        kind: of the tasks it is for, as in losses.
    """

    kind: ClassVar[str] = "classification"
    higher_is_better = True
    non_finite: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, ignore_index=IGNORED, validate_args=False)
        self.add_state("non_finite", torch.tensor(0), dist_reduce_fx="sum")

    @staticmethod
    @abstractmethod
    def score(confusion: Tensor) -> Tensor:
        """The value () of a confusion matrix (C, C)."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts a batch: `preds` (N, C) logits or (N,) class numbers, and `target` (N,); negative ones do not count.

        Raises:
            ValueError: the logits are not of C classes.
        """
        target, preds = _with_target(target, preds, self.num_classes)
        counts = multiclass_confusion_matrix(preds, target, self.num_classes, validate_args=False)
        # not in place: a state that was reset in inference mode may not be changed in place outside of it
        self.confmat = self.confmat + counts
        self.non_finite = self.non_finite + (~preds.isfinite()).sum()

    def compute(self) -> Tensor:
        """The score (), float64; NaN where a logit was not finite, 0 where no utterance had a target."""
        return self.score(self.confmat).where(self.non_finite == 0, torch.nan)


class WeightedF1(ConfusionMatrixMetric):
    """Mean of the classes' F1, weighted by support."""

    score = staticmethod(weighted_f1)


class MacroF1(ConfusionMatrixMetric):
    """Mean F1 over the classes that are among the targets or the predictions."""

    score = staticmethod(macro_f1)


class UnweightedAverageRecall(ConfusionMatrixMetric):
    """Mean recall over the classes that are among the targets."""

    score = staticmethod(uar)


class Accuracy(ConfusionMatrixMetric):
    """Share of the targets that are predicted."""

    score = staticmethod(accuracy)
