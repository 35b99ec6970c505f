"""Metrics of the probabilities of classes: ranking, and calibration.

Utterances without a target do not count. Where no utterance has a target, every metric is 0. Where a logit of an
utterance with a target is NaN or infinite, every metric is NaN.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_calibration_error,
)
from torchmetrics.utilities import dim_zero_cat

BINS = 15  # of confidence


class ProbabilityMetric(Metric):
    """A score of the probabilities of all updates on all ranks, which are kept until then.

    Class attributes:
        kind: of the tasks it is for, as in losses.
    """

    kind: ClassVar[str] = "classification"
    full_state_update = False
    logits: Any
    target: Any

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    @staticmethod
    @abstractmethod
    def score(target: Tensor, probabilities: Tensor) -> Tensor:
        """The value () for classes (N,) and probabilities (N, C) in float64, N ≥ 1."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Keeps a batch: logits (N, C) and classes (N,), of which negative ones do not count.

        Raises:
            ValueError: the logits are not of C classes.
        """
        if preds.ndim != 2 or preds.shape[1] != self.num_classes:
            raise ValueError(f"expected logits of shape (N, {self.num_classes}), got {tuple(preds.shape)}")
        known = target >= 0
        self.logits.append(preds[known].float())
        self.target.append(target[known])

    def sync(self, *arguments: Any, **options: Any) -> None:
        """Joins the states of all ranks; torchmetrics needs a tensor of each, also of one without an update."""
        if not self.logits:
            self.logits.append(torch.zeros(0, self.num_classes, device=self.device))
            self.target.append(torch.zeros(0, dtype=torch.long, device=self.device))
        super().sync(*arguments, **options)

    def compute(self) -> Tensor:
        """The score (), float64; NaN where a logit was not finite, 0 where no utterance had a target."""
        if len(self.target) == 0:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        return self.of(dim_zero_cat(self.target), dim_zero_cat(self.logits))

    @classmethod
    def of(cls, target: Tensor, logits: Tensor) -> Tensor:
        """`compute` for classes (N,), of which negative ones do not count, and logits (N, C)."""
        known = target >= 0
        target, logits = target[known], logits[known].double()
        if len(target) == 0:
            return logits.new_zeros(())
        if not bool(logits.isfinite().all()):
            return logits.new_full((), torch.nan)
        return cls.score(target, logits.softmax(1)).double()


def mean_over_classes(of_class: Callable[[Tensor, Tensor], Tensor], target: Tensor, probabilities: Tensor) -> Tensor:
    """The mean of a binary score, each class against the others, over the classes that some but not all targets are."""
    counts = torch.bincount(target, minlength=probabilities.shape[1])
    classes = ((counts > 0) & (counts < len(target))).nonzero()[:, 0].tolist()
    scores = [of_class(probabilities[:, number], (target == number).long()) for number in classes]
    return torch.stack(scores).mean() if scores else probabilities.new_zeros(())


class Auroc(ProbabilityMetric):
    """Area under the ROC curve, each class against the others; their mean, scikit-learn's macro `roc_auc_score`."""

    higher_is_better = True

    @staticmethod
    def score(target: Tensor, probabilities: Tensor) -> Tensor:
        return mean_over_classes(binary_auroc, target, probabilities)


class AveragePrecision(ProbabilityMetric):
    """Average precision, each class against the others; their mean, scikit-learn's `average_precision_score`."""

    higher_is_better = True

    @staticmethod
    def score(target: Tensor, probabilities: Tensor) -> Tensor:
        return mean_over_classes(binary_average_precision, target, probabilities)


class CalibrationError(ProbabilityMetric):
    """Expected calibration error of the predicted class, in 15 bins of equal width (Guo et al. 2017, arXiv 1706.04599).

    It is the mean distance of confidence and accuracy, weighted by the number of utterances in a bin.
    """

    higher_is_better = False

    @staticmethod
    def score(target: Tensor, probabilities: Tensor) -> Tensor:
        classes = probabilities.shape[1]
        error: Tensor = multiclass_calibration_error(probabilities, target, classes, n_bins=BINS, norm="l1")
        return error


class Brier(ProbabilityMetric):
    """Brier score: mean over utterances of the squared distances of all classes' probabilities from 0 and 1.

    It lies between 0 and 2 (Brier 1950); scikit-learn's `brier_score_loss` of two classes is half of it.
    """

    higher_is_better = False

    @staticmethod
    def score(target: Tensor, probabilities: Tensor) -> Tensor:
        return (probabilities - one_hot(target, probabilities.shape[1])).square().sum(1).mean()
