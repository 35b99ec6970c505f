"""Calibration from stored probabilities equals the metrics of training and of scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from emorec.metrics.probabilities import Brier
from emorec.reporting.calibration import BINS, brier, ece, nll


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), size=150)
    return generator.integers(4, size=150), probabilities


def test_the_error_equals_that_of_torchmetrics_where_both_have_the_same_bins() -> None:
    # confidences that are spread evenly over bins of equal width are in bins of equal mass too
    confidence = (np.arange(300) + 0.5) / 300
    confidence = confidence[confidence > 0.5]
    probabilities = np.stack([confidence, 1 - confidence], 1)
    target = (np.arange(len(confidence)) % 3 == 0).astype(np.int64)
    width = float(multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(target), 2, n_bins=30))
    assert ece(target, probabilities, bins=15) == pytest.approx(width, abs=1e-6)


def test_the_error_is_the_mean_distance_of_confidence_and_accuracy_in_bins_of_equal_mass() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    # bins: (0.6, 0.6) with one hit, (0.8, 0.9) with two
    assert ece(np.array([0, 0, 1, 0]), probabilities, bins=2) == pytest.approx((2 * 0.1 + 2 * 0.15) / 4)
    # as many bins as utterances where there are few
    assert ece(np.array([0, 0, 1, 0]), probabilities, bins=BINS) == pytest.approx((0.1 + 0.2 + 0.6 + 0.4) / 4)


def test_scores_equal_those_of_training_and_of_scikit_learn(sample: tuple[np.ndarray, np.ndarray]) -> None:
    target, probabilities = sample
    expected = float(Brier.score(torch.from_numpy(target), torch.from_numpy(probabilities)))
    assert brier(target, probabilities) == pytest.approx(expected)
    assert nll(target, probabilities) == pytest.approx(log_loss(target, probabilities))


def test_what_has_no_target_does_not_count(sample: tuple[np.ndarray, np.ndarray]) -> None:
    target, probabilities = sample
    unknown = np.concatenate([target, [-1]])
    more = np.concatenate([probabilities, [[1.0, 0.0, 0.0, 0.0]]])
    for score in (ece, brier, nll):
        assert score(unknown, more) == score(target, probabilities)
        assert np.isnan(score(np.array([-1]), more[-1:]))


def test_a_target_of_probability_0_is_no_infinite_loss() -> None:
    assert 20 < nll(np.array([1]), np.array([[1.0, 0.0]])) < 30
