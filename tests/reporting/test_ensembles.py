"""An ensemble is the mean of what its runs predict for the same utterances."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from emorec.errors import UserError
from emorec.reporting.ensembles import ensemble
from emorec.runs.stored_predictions import StoredPredictions


def predictions(probabilities: list[list[float]], **changes: Any) -> StoredPredictions:
    """Of utterances a, b, … of class 0."""
    values = np.array(probabilities, dtype=np.float32)
    names = np.array(list("abcdefgh"[: len(values)]), dtype=object)
    made = StoredPredictions(
        id=names,
        speaker=names,
        dialogue=names,
        target=np.zeros(len(values), np.int64),
        predicted=values.argmax(1),
        probabilities=values,
    )
    return replace(made, **changes)


def test_probabilities_are_averaged_whatever_the_order_of_the_utterances() -> None:
    first = predictions([[0.6, 0.4], [0.2, 0.8]])
    second = predictions([[0.5, 0.5], [0.1, 0.9]], id=np.array(["b", "a"], dtype=object))
    joined = ensemble([first, second])
    assert joined.probabilities == pytest.approx(np.array([[0.35, 0.65], [0.35, 0.65]]))
    assert joined.predicted.tolist() == [1, 1]
    assert joined.id.tolist() == ["a", "b"]


def test_one_run_is_its_own_ensemble() -> None:
    only = predictions([[0.6, 0.4], [0.2, 0.8]])
    assert ensemble([only]).predicted.tolist() == only.predicted.tolist()


def test_values_are_averaged() -> None:
    first = predictions([[0, 0], [0, 0]])
    first = replace(first, target=np.array([1.0, np.nan]), probabilities=np.zeros((2, 0), np.float32))
    runs = [replace(first, predicted=np.array(values)) for values in ([1.0, 2.0], [3.0, 6.0])]
    assert ensemble(runs).predicted.tolist() == [2.0, 4.0]


def test_what_one_run_does_not_predict_is_not_predicted() -> None:
    first = predictions([[0.6, 0.4], [0.2, 0.8]])
    second = replace(first, predicted=np.array([-1, 1]), probabilities=np.array([[np.nan, np.nan], [0, 1]], np.float32))
    assert ensemble([first, second]).predicted.tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": np.array(["a", "c"], dtype=object)}, r"same utterances, got 2 and 2 \(b, …\)"),
        ({"id": np.array(["a", "a"], dtype=object)}, "same utterances"),
        ({"target": np.array([0, 1])}, "same targets"),
        ({"probabilities": np.zeros((2, 3), np.float32)}, "same classes, got 2 and 3"),
    ],
)
def test_runs_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    first = predictions([[0.6, 0.4], [0.2, 0.8]])
    with pytest.raises(UserError, match=message):
        ensemble([first, replace(first, **changes)])


def test_no_runs_are_no_ensemble() -> None:
    with pytest.raises(UserError, match="at least one run"):
        ensemble([])
