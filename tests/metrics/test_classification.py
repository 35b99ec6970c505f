"""Metrics of classification against scikit-learn, on random targets and predictions."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from emorec.batch import IGNORED
from emorec.metrics.classification import (
    class_scores,
    confusion_matrix,
    macro_f1,
    per_class_scores,
    summary_scores,
    uar,
)

LABELS = ("angry", "calm", "happy", "sad", "neutral", "other")


@st.composite
def labelings(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Targets, predictions and the number of classes; classes may be absent from either or from both."""
    classes = draw(st.integers(1, len(LABELS)))
    among = st.sampled_from(sorted(draw(st.sets(st.integers(0, classes - 1), min_size=1))))
    targets = draw(st.lists(among, min_size=1, max_size=60))
    predictions = draw(st.lists(st.integers(0, classes - 1), min_size=len(targets), max_size=len(targets)))
    return targets, predictions, classes


def confusion(targets: list[int], predictions: list[int], classes: int) -> torch.Tensor:
    return confusion_matrix(torch.tensor(targets), torch.tensor(predictions), classes)


@given(labelings())
@settings(deadline=None)
def test_the_confusion_matrix_equals_scikit_learn(labeling: tuple[list[int], list[int], int]) -> None:
    targets, predictions, classes = labeling
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        expected = reference.confusion_matrix(targets, predictions, labels=range(classes))
    np.testing.assert_array_equal(confusion(*labeling).numpy(), expected)


@given(labelings())
@settings(deadline=None)
def test_summary_scores_equal_scikit_learn(labeling: tuple[list[int], list[int], int]) -> None:
    targets, predictions, _ = labeling
    scores = summary_scores(confusion(*labeling))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are among the predictions only
        expected = {
            "accuracy": reference.accuracy_score(targets, predictions),
            "uar": reference.balanced_accuracy_score(targets, predictions),
            "weighted_f1": reference.f1_score(targets, predictions, average="weighted", zero_division=0),
            "macro_f1": reference.f1_score(targets, predictions, average="macro", zero_division=0),
        }
    assert scores == pytest.approx(expected, abs=1e-12)


def formulas(confusion: torch.Tensor) -> dict[str, float]:
    """The scores that stored runs were compared by, as their formulas were first written."""
    counts = confusion.double()
    hits, targets, predictions = counts.diagonal(), counts.sum(1), counts.sum(0)
    f1 = torch.where(targets + predictions > 0, 2 * hits / (targets + predictions).clamp_min(1), 0.0)
    recall = torch.where(targets > 0, hits / targets.clamp_min(1), 0.0)
    support = targets.long()
    total = support.sum().clamp_min(1)
    return {
        "weighted_f1": float((f1 * support).sum() / total),
        "macro_f1": float(f1[(support > 0) | (confusion.sum(0) > 0)].mean()),
        "uar": float(recall[support > 0].mean()),
        "accuracy": float(confusion.diagonal().sum().double() / total),
    }


@given(labelings())
@settings(deadline=None)
def test_summary_scores_are_bit_equal_to_their_formulas(labeling: tuple[list[int], list[int], int]) -> None:
    matrix = confusion(*labeling)
    assert summary_scores(matrix) == formulas(matrix)


@given(labelings())
@settings(deadline=None)
def test_class_scores_equal_scikit_learn(labeling: tuple[list[int], list[int], int]) -> None:
    targets, predictions, classes = labeling
    scores = class_scores(confusion(*labeling))
    expected = reference.precision_recall_fscore_support(targets, predictions, labels=range(classes), zero_division=0)
    for actual, wanted in zip((scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True):
        np.testing.assert_allclose(actual.numpy(), wanted, atol=1e-12)


@given(labelings(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_utterances_does_not_matter(labeling: tuple[list[int], list[int], int], random: object) -> None:
    targets, predictions, classes = labeling
    pairs = list(zip(targets, predictions, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    shuffled = confusion([pair[0] for pair in pairs], [pair[1] for pair in pairs], classes)
    assert torch.equal(shuffled, confusion(*labeling))


def test_rows_are_targets_and_columns_are_predictions() -> None:
    assert confusion([0, 0, 1], [1, 1, 1], 2).tolist() == [[0, 2], [0, 1]]


def test_a_class_without_targets_and_predictions_does_not_count() -> None:
    two, three = confusion([0, 1, 1], [0, 1, 0], 2), confusion([0, 1, 1], [0, 1, 0], 3)
    assert summary_scores(three) == pytest.approx(summary_scores(two))


def test_a_class_among_the_predictions_only_counts_in_macro_f1_but_not_in_uar() -> None:
    matrix = confusion([0, 0, 1, 1], [0, 2, 1, 1], 3)
    assert float(uar(matrix)) == pytest.approx((1 / 2 + 1) / 2)
    assert float(macro_f1(matrix)) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_perfect_predictions_score_one() -> None:
    assert set(summary_scores(confusion([0, 1, 2], [0, 1, 2], 3)).values()) == {1.0}


def test_an_empty_matrix_scores_zero() -> None:
    assert set(summary_scores(torch.zeros(3, 3, dtype=torch.long)).values()) == {0.0}


def test_scores_of_each_class_carry_its_label() -> None:
    scores = per_class_scores(confusion([0, 0, 0, 1], [0, 0, 1, 1], 3), LABELS[:3])
    assert list(scores) == ["angry", "calm", "happy"]
    assert scores["angry"] == {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3}
    assert scores["calm"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert scores["happy"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_large_counts_keep_their_precision() -> None:
    matrix = torch.tensor([[30_000_001, 1], [0, 30_000_000]])
    assert summary_scores(matrix)["accuracy"] == pytest.approx(60_000_001 / 60_000_002, abs=1e-12)


def test_logits_count_as_their_largest_class() -> None:
    logits = torch.tensor([[0.1, 0.9], [2.0, -1.0], [0.0, 1.0]])
    assert confusion_matrix(torch.tensor([1, 0, 0]), logits, 2).tolist() == [[1, 1], [0, 1]]


def test_an_utterance_without_a_target_does_not_count() -> None:
    assert confusion([0, IGNORED, 1, -1], [0, 1, 1, 0], 2).tolist() == [[1, 0], [0, 1]]
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])
    assert confusion_matrix(torch.tensor([0, IGNORED]), logits, 2).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_not_finite_makes_every_score_nan(value: float) -> None:
    matrix = confusion_matrix(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [value, 0.0]]), 2)
    scores = summary_scores(matrix)
    assert len(scores) == 4
    assert all(np.isnan(score) for score in scores.values()), scores


def test_logits_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected logits of shape \(N, 3\), got \(2, 4\)"):
        confusion_matrix(torch.tensor([0, 1]), torch.zeros(2, 4), 3)
