"""Metrics of probabilities against scikit-learn, and against values by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from torch import Tensor

from emorec.metrics.probabilities import Auroc, AveragePrecision, Brier, CalibrationError

CLASSES = 4


def example(count: int = 80) -> tuple[Tensor, Tensor]:
    """Logits and classes, of which all occur; some logits are equal."""
    generator = torch.Generator().manual_seed(1)
    target = torch.arange(count) % CLASSES
    logits = torch.randn(count, CLASSES, generator=generator).mul(4).round().div(4)
    logits[torch.arange(count), target] += 1
    return logits, target


def test_the_area_under_the_curve_is_that_of_scikit_learn() -> None:
    logits, target = example()
    metric = Auroc(CLASSES)
    metric.update(logits, target)
    expected = roc_auc_score(target, logits.double().softmax(1), multi_class="ovr", average="macro")
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


def test_average_precision_is_that_of_scikit_learn() -> None:
    logits, target = example()
    metric = AveragePrecision(CLASSES)
    metric.update(logits, target)
    expected = average_precision_score(np.eye(CLASSES)[target], logits.double().softmax(1), average="macro")
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)


def test_the_brier_score_of_two_classes_is_twice_that_of_scikit_learn() -> None:
    logits, target = example()
    logits, target = logits[:, :2], target % 2
    metric = Brier(2)
    metric.update(logits, target)
    assert float(metric.compute()) == pytest.approx(2 * brier_score_loss(target, logits.double().softmax(1)[:, 1]))


def test_the_calibration_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    confidence = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.6, 0.6])
    logits = torch.stack([confidence.log(), (1 - confidence).log()], dim=1)
    target = torch.tensor([0, 0, 0, 1, 1, 1])  # three of four are right at .9, none of two at .6
    metric = CalibrationError(2)
    metric.update(logits, target)
    assert float(metric.compute()) == pytest.approx(4 / 6 * abs(0.9 - 0.75) + 2 / 6 * 0.6, abs=1e-6)


def test_classes_that_do_not_occur_do_not_count() -> None:
    logits, target = example()
    few = target.clamp_max(1)
    metric = Auroc(CLASSES)
    metric.update(logits, few)
    probabilities = logits.double().softmax(1)
    expected = np.mean([roc_auc_score(few == number, probabilities[:, number]) for number in range(2)])
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)
    alone = Auroc(CLASSES)
    alone.update(logits, torch.zeros_like(target))
    assert alone.compute() == 0
