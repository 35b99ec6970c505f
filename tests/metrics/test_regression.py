"""Metrics of regression against scikit-learn and NumPy."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

from emorec.metrics.regression import concordance, pearson, regression_scores

RANDOM = np.random.default_rng(4)
TARGET = RANDOM.uniform(-1, 1, 200).round(1)
PREDICTED = np.clip(0.6 * TARGET + RANDOM.normal(0, 0.4, 200), -1.5, 1.5)
CH_SIMS = ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7))


def scores(**changes: object) -> dict[str, float]:
    return regression_scores(torch.from_numpy(TARGET), torch.from_numpy(PREDICTED), **changes)  # type: ignore[arg-type]


def test_errors_and_correlation_are_those_of_the_references() -> None:
    found = scores()
    assert found["mae"] == pytest.approx(mean_absolute_error(TARGET, PREDICTED))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(TARGET, PREDICTED))
    assert found["pearson"] == pytest.approx(np.corrcoef(TARGET, PREDICTED)[0, 1])


def test_concordance_is_that_of_its_definition() -> None:
    covariance = np.cov(TARGET, PREDICTED, bias=True)[0, 1]
    spread = TARGET.var() + PREDICTED.var() + (TARGET.mean() - PREDICTED.mean()) ** 2
    assert scores()["ccc"] == pytest.approx(2 * covariance / spread)


def test_a_shift_leaves_the_correlation_and_lowers_the_concordance() -> None:
    first, second = torch.from_numpy(TARGET), torch.from_numpy(TARGET + 1)
    assert float(pearson(first, second)) == pytest.approx(1)
    assert float(concordance(first, second)) < 0.6


@pytest.mark.parametrize("thresholds", CH_SIMS)
def test_accuracies_are_of_the_intervals(thresholds: tuple[float, ...]) -> None:
    found = scores(cuts=(thresholds,))
    target, predicted = (np.digitize(values, thresholds, right=True) for values in (TARGET, PREDICTED))
    assert found[f"accuracy_{len(thresholds) + 1}"] == pytest.approx(accuracy_score(target, predicted))
    if len(thresholds) == 1:
        assert found["weighted_f1"] == pytest.approx(f1_score(target, predicted, average="weighted"))


def test_a_threshold_belongs_to_the_interval_below_it() -> None:
    found = regression_scores(torch.tensor([0.0]), torch.tensor([-1.0]), ((0.0,),))
    assert found["accuracy_2"] == 1


def test_utterances_without_a_target_do_not_count() -> None:
    some = torch.tensor([0.5, float("nan"), -0.5])
    assert regression_scores(some, torch.tensor([0.4, 9.0, -0.1])) == pytest.approx(
        regression_scores(torch.tensor([0.5, -0.5]), torch.tensor([0.4, -0.1]))
    )


def test_what_does_not_vary_correlates_with_nothing() -> None:
    assert float(pearson(torch.zeros(4), torch.arange(4.0))) == 0
    assert float(concordance(torch.zeros(4), torch.ones(4))) == 0
    assert float(concordance(torch.ones(4), torch.ones(4))) == 1
