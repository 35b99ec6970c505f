"""Ensembles: the mean of what several runs predict for the same utterances."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from emorec.errors import UserError
from emorec.runs.stored_predictions import StoredPredictions


def ensemble(predictions: Sequence[StoredPredictions]) -> StoredPredictions:
    """The mean of the probabilities of classes, or of the values, that several runs predict.

    The utterances may stand in any order; the result has that of the first.

    Raises:
        UserError: there are none, or they are not of the same utterances, targets and classes.
    """
    if not predictions:
        raise UserError("expected the predictions of at least one run, got none")
    first = predictions[0]
    aligned = [first, *(_aligned(other, first) for other in predictions[1:])]
    if not first.is_classification:
        return replace(first, predicted=np.stack([item.predicted for item in aligned]).mean(0))
    # float64: the mean of many does not depend on their order to the digits that are stored
    mean = np.stack([item.probabilities for item in aligned]).mean(0, dtype=np.float64)  # (N, C)
    finite = np.isfinite(mean).all(1) & np.all([item.predicted >= 0 for item in aligned], axis=0)
    predicted = np.where(finite, mean.argmax(1), -1)
    return replace(first, predicted=predicted, probabilities=mean.astype(np.float32))


def _aligned(other: StoredPredictions, first: StoredPredictions) -> StoredPredictions:
    """Another run's predictions in the order of the first's."""
    if other.probabilities.shape[1] != first.probabilities.shape[1]:
        classes = (first.probabilities.shape[1], other.probabilities.shape[1])
        raise UserError(f"expected the runs of an ensemble to have the same classes, got {classes[0]} and {classes[1]}")
    rows = {name: row for row, name in enumerate(other.id.tolist())}
    missing = [name for name in first.id.tolist() if name not in rows]
    if missing or len(rows) != len(first):
        extra = sorted(rows.keys() - set(first.id.tolist()))
        example = (missing or extra or ["one of them twice"])[0]
        raise UserError(
            f"expected the runs of an ensemble to predict the same utterances, got {len(first)} and {len(other)} "
            f"({example}, …)"
        )
    order = np.array([rows[name] for name in first.id.tolist()], dtype=np.int64)
    if not np.array_equal(other.target[order], first.target, equal_nan=not first.is_classification):
        raise UserError("expected the runs of an ensemble to have the same targets, got others")
    return replace(
        first,
        target=first.target,
        predicted=other.predicted[order],
        probabilities=other.probabilities[order],
    )
