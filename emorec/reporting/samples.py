"""What runs predicted for a split, in little space: thousands of runs are held at once."""

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emorec.reporting.calibration import CALIBRATION
from emorec.reporting.scores import SCORES, Array, class_sums, value_sums
from emorec.runs.stored_predictions import Names, StoredPredictions

Unit = Literal["speaker", "dialogue", "utterance"]
ClusterNames = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The predictions of a run for N utterances of a split, in the order of the utterances' names.

    Attributes:
        utterances: digest of their names.
        clusters: {"speaker" or "dialogue": (sorted names, (N,) number of each utterance's)}, where all are known.
        target: (N,) as in `StoredPredictions`, in fewer bytes.
        predicted: (N,) likewise.
        classes: C; 0 for regression.
        calibration: {name: value} of the probabilities; empty for regression.
        is_finite: whether the run predicts something for every utterance.
    """

    utterances: str
    clusters: dict[str, tuple[ClusterNames, NDArray[np.int32]]]
    target: NDArray[Any]
    predicted: NDArray[Any]
    classes: int
    calibration: dict[str, float]
    is_finite: bool = True

    @classmethod
    def of(cls, predictions: StoredPredictions) -> "Sample":
        """The sample of some predictions."""
        order = np.argsort(predictions.id, kind="stable")
        narrow = np.int16 if predictions.is_classification else np.float64
        clusters = {name: _numbered(getattr(predictions, name)[order]) for name in ("speaker", "dialogue")}
        calibration: dict[str, float] = {}
        if predictions.is_classification and predictions.is_finite:
            calibration = {
                name: score(predictions.target, predictions.probabilities) for name, score in CALIBRATION.items()
            }
        return cls(
            utterances=predictions.digest(),
            clusters={name: numbered for name, numbered in clusters.items() if numbered is not None},
            target=predictions.target[order].astype(narrow),
            predicted=predictions.predicted[order].astype(narrow),
            classes=predictions.probabilities.shape[1],
            calibration=calibration,
            is_finite=predictions.is_finite,
        )

    @property
    def kind(self) -> str:
        """Of the task."""
        return "classification" if self.classes else "regression"

    def numbered(self, unit: Unit) -> tuple[ClusterNames, NDArray[np.int64]]:
        """The names of the n clusters, which differ from those of other splits, and the number of each utterance's
        cluster (N,)."""
        if unit == "utterance":
            names = tuple(f"{self.utterances}/{number}" for number in range(len(self.target)))
            return names, np.arange(len(self.target), dtype=np.int64)
        names, numbers = self.clusters[unit]
        return names, numbers.astype(np.int64)

    def sums(self, numbers: NDArray[np.int64], clusters: int) -> Array:
        """(n, K) of n clusters, see `emorec.reporting.scores`; `numbers` (N,) are those of the utterances' clusters."""
        if not self.classes:
            return value_sums(self.target, self.predicted, numbers, clusters=clusters)
        target, predicted = self.target.astype(np.int64), self.predicted.astype(np.int64)
        return class_sums(target, predicted, numbers, clusters=clusters, classes=self.classes)

    @cached_property
    def scores(self) -> dict[str, float]:
        """{metric: value}, those of probabilities among them."""
        (sums,) = self.sums(np.zeros(len(self.target), np.int64), 1)
        return {**{name: float(score(sums)) for name, score in SCORES[self.kind].items()}, **self.calibration}


def cluster_sums(predictions: StoredPredictions, numbers: NDArray[np.int64], clusters: int) -> Array:
    """As `Sample.sums`, of predictions as they are stored."""
    target, predicted = predictions.target, predictions.predicted
    if not predictions.is_classification:
        return value_sums(target, predicted, numbers, clusters=clusters)
    classes = predictions.probabilities.shape[1]
    return class_sums(target, predicted, numbers, clusters=clusters, classes=classes)


def _numbered(names: Names) -> tuple[ClusterNames, NDArray[np.int32]] | None:
    """The sorted names and the number of each; `None` where some are unknown, or where there are no utterances."""
    if len(names) == 0 or any(name is None for name in names):
        return None
    unique, numbers = np.unique(names, return_inverse=True)
    return tuple(sys.intern(str(name)) for name in unique), numbers.astype(np.int32)
