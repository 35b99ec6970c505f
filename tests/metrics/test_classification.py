"""Metrics against scikit-learn on whatever targets and predictions hypothesis comes up with."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from emorec.metrics.classification import class_scores, confusion_matrix, per_class_scores, summary_scores

LABELS = ("angry", "calm", "happy", "sad", "neutral", "other")


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Targets, predictions and the number of classes; classes may be absent from either or from both."""
    classes = draw(st.integers(1, len(LABELS)))
    among = st.sampled_from(sorted(draw(st.sets(st.integers(0, classes - 1), min_size=1))))
    targets = draw(st.lists(among, min_size=1, max_size=60))
    predictions = draw(st.lists(st.integers(0, classes - 1), min_size=len(targets), max_size=len(targets)))
    return targets, predictions, classes


def confusion(targets: list[int], predictions: list[int], classes: int) -> torch.Tensor:
    return confusion_matrix(torch.tensor(targets), torch.tensor(predictions), classes)


@given(answers())
@settings(deadline=None)
def test_the_confusion_matrix_equals_scikit_learn(given_answers: tuple[list[int], list[int], int]) -> None:
    targets, predictions, classes = given_answers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        expected = reference.confusion_matrix(targets, predictions, labels=range(classes))
    np.testing.assert_array_equal(confusion(*given_answers).numpy(), expected)


@given(answers())
@settings(deadline=None)
def test_summary_scores_equal_scikit_learn(given_answers: tuple[list[int], list[int], int]) -> None:
    targets, predictions, _ = given_answers
    scores = summary_scores(confusion(*given_answers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are among the predictions only
        expected = {
            "accuracy": reference.accuracy_score(targets, predictions),
            "uar": reference.balanced_accuracy_score(targets, predictions),
            "weighted_f1": reference.f1_score(targets, predictions, average="weighted", zero_division=0),
            "macro_f1": reference.f1_score(targets, predictions, average="macro", zero_division=0),
        }
    assert scores == pytest.approx(expected, abs=1e-12)


@given(answers())
@settings(deadline=None)
def test_class_scores_equal_scikit_learn(given_answers: tuple[list[int], list[int], int]) -> None:
    targets, predictions, classes = given_answers
    scores = class_scores(confusion(*given_answers))
    expected = reference.precision_recall_fscore_support(targets, predictions, labels=range(classes), zero_division=0)
    for actual, wanted in zip((scores.precision, scores.recall, scores.f1, scores.support), expected, strict=True):
        np.testing.assert_allclose(actual.numpy(), wanted, atol=1e-12)


@given(answers(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_answers_does_not_matter(given_answers: tuple[list[int], list[int], int], random: object) -> None:
    targets, predictions, classes = given_answers
    pairs = list(zip(targets, predictions, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    shuffled = confusion([pair[0] for pair in pairs], [pair[1] for pair in pairs], classes)
    assert torch.equal(shuffled, confusion(*given_answers))


def test_rows_are_targets_and_columns_are_predictions() -> None:
    assert confusion([0, 0, 1], [1, 1, 1], 2).tolist() == [[0, 2], [0, 1]]


def test_a_class_that_is_nowhere_counts_in_no_mean() -> None:
    two, three = confusion([0, 1, 1], [0, 1, 0], 2), confusion([0, 1, 1], [0, 1, 0], 3)
    assert summary_scores(three) == pytest.approx(summary_scores(two))


def test_perfect_predictions_score_one() -> None:
    assert set(summary_scores(confusion([0, 1, 2], [0, 1, 2], 3)).values()) == {1.0}


def test_no_answers_at_all_score_zero() -> None:
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
