"""Metrics of regression against scikit-learn and NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torchmetrics import MetricCollection

from emorec.errors import UserError
from emorec.metrics.classification import accuracy, weighted_f1
from emorec.metrics.regression import (
    BinnedAccuracy,
    BinnedWeightedF1,
    binned_score,
    concordance,
    mean_absolute_error,
    pearson,
    root_mean_squared_error,
)

RANDOM = np.random.default_rng(4)
TARGET = RANDOM.uniform(-1, 1, 200).round(1)
PREDICTED = np.clip(0.6 * TARGET + RANDOM.normal(0, 0.4, 200), -1.5, 1.5)
CH_SIMS = ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7))
NAN, INFINITY = float("nan"), float("inf")


def regression_scores(
    target: torch.Tensor, predicted: torch.Tensor, cuts: tuple[tuple[float, ...], ...] = ()
) -> dict[str, float]:
    """All scores; for each set of k thresholds in `cuts` also `accuracy_<k + 1>`, and for one threshold the F1."""
    values = {
        "mae": mean_absolute_error(target, predicted),
        "rmse": root_mean_squared_error(target, predicted),
        "pearson": pearson(target, predicted),
        "ccc": concordance(target, predicted),
    }
    for thresholds in cuts:
        values[f"accuracy_{len(thresholds) + 1}"] = binned_score(target, predicted, thresholds, accuracy)
        if len(thresholds) == 1:
            values["weighted_f1"] = binned_score(target, predicted, thresholds, weighted_f1)
    return {name: float(value) for name, value in values.items()}


def scores(**changes: object) -> dict[str, float]:
    return regression_scores(torch.from_numpy(TARGET), torch.from_numpy(PREDICTED), **changes)  # type: ignore[arg-type]


def test_errors_and_correlation_equal_scikit_learn_and_numpy() -> None:
    values = scores()
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(TARGET, PREDICTED))
    assert values["rmse"] == pytest.approx(reference.root_mean_squared_error(TARGET, PREDICTED))
    assert values["pearson"] == pytest.approx(np.corrcoef(TARGET, PREDICTED)[0, 1])


def test_concordance_equals_its_definition() -> None:
    covariance = np.cov(TARGET, PREDICTED, bias=True)[0, 1]
    spread = TARGET.var() + PREDICTED.var() + (TARGET.mean() - PREDICTED.mean()) ** 2
    assert scores()["ccc"] == pytest.approx(2 * covariance / spread)


def test_a_shift_keeps_the_correlation_and_lowers_the_concordance() -> None:
    first, second = torch.from_numpy(TARGET), torch.from_numpy(TARGET + 1)
    assert float(pearson(first, second)) == pytest.approx(1)
    assert float(concordance(first, second)) < 0.6


@pytest.mark.parametrize("thresholds", CH_SIMS)
def test_binned_scores_equal_scikit_learn_on_the_intervals(thresholds: tuple[float, ...]) -> None:
    values = scores(cuts=(thresholds,))
    target, predicted = (np.digitize(side, thresholds, right=True) for side in (TARGET, PREDICTED))
    assert values[f"accuracy_{len(thresholds) + 1}"] == pytest.approx(reference.accuracy_score(target, predicted))
    if len(thresholds) == 1:
        assert values["weighted_f1"] == pytest.approx(reference.f1_score(target, predicted, average="weighted"))


def test_a_threshold_belongs_to_the_interval_below_it() -> None:
    values = regression_scores(torch.tensor([0.0]), torch.tensor([-1.0]), ((0.0,),))
    assert values["accuracy_2"] == 1


def test_utterances_without_a_target_do_not_count() -> None:
    target = torch.tensor([0.5, NAN, -0.5])
    assert regression_scores(target, torch.tensor([0.4, NAN, -0.1])) == pytest.approx(
        regression_scores(torch.tensor([0.5, -0.5]), torch.tensor([0.4, -0.1]))
    )


def test_constants_have_a_correlation_and_a_concordance() -> None:
    assert float(pearson(torch.zeros(4), torch.arange(4.0))) == 0
    assert float(concordance(torch.zeros(4), torch.ones(4))) == 0
    assert float(concordance(torch.ones(4), torch.ones(4))) == 1


def formulas(target: torch.Tensor, predicted: torch.Tensor) -> dict[str, float]:
    """The scores that stored runs were compared by, as their formulas were first written."""
    first, second = target.double(), predicted.double()
    error = second - first
    shifted, moved = first - first.mean(), second - second.mean()
    norm = shifted.norm() * moved.norm()
    covariance = (shifted * moved).mean()
    spread = first.var(unbiased=False) + second.var(unbiased=False) + (first.mean() - second.mean()).square()
    return {
        "mae": float(error.abs().mean()),
        "rmse": float(error.square().mean().sqrt()),
        "pearson": float(torch.where(norm > 0, (shifted * moved).sum() / norm.clamp_min(1e-300), 0.0)),
        "ccc": float(torch.where(spread > 0, 2 * covariance / spread.clamp_min(1e-300), 1.0)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("constant", [False, True])
def test_scores_are_bit_equal_to_their_formulas(count: int, constant: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(count)
    target, predicted = torch.randn(2, count, generator=generator, dtype=dtype)
    target = torch.full_like(target, 0.3) if constant else target
    assert regression_scores(target, predicted) == formulas(target, predicted)
    assert regression_scores(target, target) == formulas(target, target)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_a_prediction_that_is_not_finite_makes_every_score_nan(value: float) -> None:
    values = regression_scores(torch.tensor([0.5, -0.5]), torch.tensor([0.4, value]), CH_SIMS)
    assert values.keys() == {"mae", "rmse", "pearson", "ccc", "accuracy_2", "weighted_f1", "accuracy_3", "accuracy_5"}
    assert all(np.isnan(score) for score in values.values()), values


def test_without_a_known_target_every_score_is_nan() -> None:
    for target in (torch.tensor([NAN, NAN]), torch.zeros(0)):
        values = regression_scores(target, torch.zeros_like(target), CH_SIMS)
        assert all(np.isnan(score) for score in values.values()), values


def test_predictions_may_be_a_column() -> None:
    target, predicted = torch.from_numpy(TARGET), torch.from_numpy(PREDICTED)
    assert regression_scores(target, predicted[:, None], CH_SIMS) == regression_scores(target, predicted, CH_SIMS)


@pytest.mark.parametrize("thresholds", CH_SIMS)
def test_binned_metrics_equal_the_scores_of_their_thresholds(thresholds: tuple[float, ...]) -> None:
    collection = MetricCollection({"accuracy": BinnedAccuracy(thresholds), "weighted_f1": BinnedWeightedF1(thresholds)})
    for rows in torch.arange(len(TARGET)).split(64):
        collection.update(torch.from_numpy(PREDICTED)[rows], torch.from_numpy(TARGET)[rows])
    values, expected = collection.compute(), scores(cuts=(thresholds,))
    assert float(values["accuracy"]) == expected[f"accuracy_{len(thresholds) + 1}"]
    if len(thresholds) == 1:
        assert float(values["weighted_f1"]) == expected["weighted_f1"]


def test_binned_metrics_that_agree_on_the_first_batch_stay_apart() -> None:
    collection = MetricCollection({"at_0": BinnedAccuracy((0.0,)), "at_half": BinnedAccuracy((0.5,))})
    collection.update(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
    collection.update(torch.tensor([0.2]), torch.tensor([-0.2]))
    values = collection.compute()
    assert float(values["at_0"]) == pytest.approx(2 / 3)
    assert float(values["at_half"]) == 1


def test_thresholds_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected metric\.thresholds to ascend, got \[0\.1, 0\.0\]"):
        BinnedAccuracy((0.1, 0.0))


@pytest.mark.parametrize("score", [concordance, pearson, mean_absolute_error, root_mean_squared_error])
@pytest.mark.parametrize("bad", [NAN, INFINITY])
def test_no_score_of_numbers_that_are_not_finite_is_a_good_one(score: Any, bad: float) -> None:
    sound = torch.tensor([1.0, 2.0, 3.0])
    assert score(sound, torch.full((3,), bad)).isnan()
    assert score(sound, torch.tensor([1.0, bad, 3.0])).isnan()
    assert score(torch.tensor([1.0, INFINITY, 3.0]), sound).isnan()
