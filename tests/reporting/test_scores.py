"""Metrics from sums over clusters equal those of training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emorec.metrics import classification, regression
from emorec.reporting.scores import SCORES, class_sums, value_sums

CLASSES = 4


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, CLASSES - 1), st.integers(0, 4)), max_size=20))
@settings(max_examples=40, deadline=None)
def test_metrics_of_classes_equal_those_of_training(rows: list[tuple[int, int, int]]) -> None:
    target, predicted, cluster = (np.array([row[part] for row in rows], np.int64) for part in range(3))
    sums = class_sums(target, predicted, cluster, clusters=5, classes=CLASSES).sum(0)
    confusion = classification.confusion_matrix(torch.from_numpy(target), torch.from_numpy(predicted), CLASSES)
    expected = classification.summary_scores(confusion)
    assert {name: float(score(sums)) for name, score in SCORES["classification"].items()} == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("kind", ["noisy", "constant prediction", "constant target", "equal constants"])
def test_metrics_of_values_equal_those_of_training(kind: str, shift: float) -> None:
    generator = np.random.default_rng(0)
    target = np.full(50, shift + 0.5) if "target" in kind or "equal" in kind else shift + generator.normal(size=50)
    predicted = (
        np.full(50, shift + 0.5) if "prediction" in kind or "equal" in kind else target + generator.normal(size=50)
    )
    target[7] = np.nan
    sums = value_sums(target, predicted, np.arange(50) % 6, clusters=6).sum(0)
    scores = {name: float(score(sums)) for name, score in SCORES["regression"].items()}
    functions = {
        "ccc": regression.concordance,
        "mae": regression.mean_absolute_error,
        "rmse": regression.root_mean_squared_error,
        "pearson": regression.pearson,
    }
    expected = {
        name: float(function(torch.from_numpy(target), torch.from_numpy(predicted)))
        for name, function in functions.items()
    }
    assert scores == pytest.approx(expected, abs=1e-9)


def test_many_resamples_are_scored_at_once() -> None:
    generator = np.random.default_rng(0)
    target, predicted = generator.integers(CLASSES, size=(2, 60))
    sums = class_sums(target, predicted, np.arange(60) % 6, clusters=6, classes=CLASSES)
    counts = generator.integers(3, size=(7, 6)).astype(float)
    for score in SCORES["classification"].values():
        together = score(sums.T @ counts.T)
        assert together.shape == (7,)
        assert together == pytest.approx(np.array([float(score(row @ sums)) for row in counts]))
