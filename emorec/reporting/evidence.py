"""How sure the scores of the groups of one contest are: the same draws of speakers or dialogues for all of them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emorec.reporting.samples import Sample, Unit
from emorec.reporting.scores import SCORES, Array, Score
from emorec.reporting.statistics import DRAWS, Interval, Resampling

Fold = int | None
Samples = Mapping[Fold, Sequence[Sample]]  # those of the seeds of each fold

BOUNDS = {"ccc": (-1.0, 1.0), "pearson": (-1.0, 1.0), "mae": (0.0, np.inf), "rmse": (0.0, np.inf)}
UNITS: tuple[Unit, ...] = ("dialogue", "speaker", "utterance")  # the first that is known is resampled


class Resampled(NamedTuple):
    """A score of a group."""

    value: float
    draws: Array  # (B,), its resamples


class _Place(NamedTuple):
    """The clusters of the split of a fold."""

    utterances: str  # digest of their names
    numbers: NDArray[np.int64]  # (N,) of each utterance's cluster, among those of the fold
    rows: NDArray[np.int64]  # (n,) of the fold's clusters, among all


class Evidence:
    """The draws for a contest, and what they make of the scores of its groups.

    A group's score is the mean over folds of the mean over the seeds of a fold. Clusters are drawn within each fold, or
    once for all folds where these share them. Where a fold has only one cluster, as with one speaker left out, the
    folds themselves are drawn.

    Args:
        samples: one of each fold; all other samples of the contest are of the same utterances.
        unit: what is resampled.
        draws: B, their number.
    """

    def __init__(self, samples: Mapping[Fold, Sample], unit: Unit, *, draws: int = DRAWS) -> None:
        numbered = {fold: sample.numbered(unit) for fold, sample in samples.items()}
        folds_of: dict[str, list[int]] = defaultdict(list)
        sizes: dict[str, int] = defaultdict(int)
        for number, (names, numbers) in enumerate(numbered.values()):
            for name, count in zip(names, np.bincount(numbers, minlength=len(names)).tolist(), strict=True):
                folds_of[name].append(number)
                sizes[name] += count
        rows = {name: row for row, name in enumerate(folds_of)}
        # clusters that are in the same folds are drawn together
        patterns = {pattern: number for number, pattern in enumerate(dict.fromkeys(map(tuple, folds_of.values())))}
        strata = np.array([patterns[tuple(folds)] for folds in folds_of.values()], dtype=np.int64)
        self.unit: str = unit
        self.draws = draws
        self._places = {
            fold: _Place(samples[fold].utterances, numbers, np.array([rows[name] for name in names], dtype=np.int64))
            for fold, (names, numbers) in numbered.items()
        }
        self._resampling = Resampling(strata, np.array(list(sizes.values()), dtype=np.float64), draws=draws)
        self._by_fold = not self._resampling.is_defined and len(samples) > 1
        if self._by_fold:
            self.unit = "fold"
            self._resampling = Resampling(np.zeros(len(samples), np.int64), draws=draws)

    @classmethod
    def of(cls, groups: Sequence[Samples], unit: Unit | None = None, *, draws: int = DRAWS) -> "Evidence | None":
        """For groups that are tested on the same utterances in each fold; `None` where none has predictions.

        Predictions of older runs have no speakers: those of another run for the same utterances are taken.

        Args:
            groups: their samples.
            unit: `None` for the first of `UNITS` that is known.
            draws: as in the class.
        """
        known: dict[Fold, list[Sample]] = defaultdict(list)
        for group in groups:
            for fold, samples in group.items():
                known[fold] += samples
        wanted = UNITS if unit is None else (unit,)
        for each in wanted:
            found = {
                fold: next((item for item in samples if each == "utterance" or each in item.clusters), None)
                for fold, samples in known.items()
            }
            references = {fold: sample for fold, sample in found.items() if sample is not None}
            if references and len(references) == len(found):
                return cls(references, each, draws=draws)
        return None

    @property
    def clusters(self) -> str:
        """How many of what is resampled: `24 speakers`."""
        count = self._resampling.clusters
        return f"{count} {self.unit}{'s' if count > 1 else ''}"

    @property
    def is_defined(self) -> bool:
        """Whether there are enough clusters for an interval."""
        return self._resampling.is_defined

    def resampled(self, samples: Samples, metrics: Collection[str] | None = None) -> dict[str, Resampled]:
        """{metric: the score of a group and its resamples}; empty where the group lacks a fold, or predictions for the
        same utterances.

        Args:
            samples: of the group.
            metrics: those that are wanted; `None` for all.
        """
        everything = [sample for of_fold in samples.values() for sample in of_fold]
        if samples.keys() != self._places.keys() or not everything or not all(item.is_finite for item in everything):
            return {}
        if any(item.utterances != self._places[fold].utterances for fold, of in samples.items() for item in of):
            return {}
        known = SCORES[everything[0].kind]
        wanted = {name: score for name, score in known.items() if metrics is None or name in metrics}
        of_folds = [self._of_fold(fold, of_fold, wanted) for fold, of_fold in samples.items()]
        return {
            name: Resampled(
                float(np.mean([scores[name].value for scores in of_folds])),
                self._mean_over_folds([scores[name] for scores in of_folds]),
            )
            for name in of_folds[0]
        }

    def _of_fold(self, fold: Fold, samples: Sequence[Sample], metrics: Mapping[str, Score]) -> dict[str, Resampled]:
        """The mean over the seeds of a fold."""
        place = self._places[fold]
        sums = [sample.sums(place.numbers, len(place.rows)) for sample in samples]  # (n, K) each
        # of all clusters once, and of each draw
        drawn = [] if self._by_fold else [self._resampling.resampled(item, place.rows) for item in sums]
        result = {}
        for name, score in metrics.items():
            value = float(np.mean([score(item.sum(0)) for item in sums]))
            draws = np.mean([score(item) for item in drawn], axis=0) if drawn else np.zeros(0)
            result[name] = Resampled(value, draws)
        return result

    def _mean_over_folds(self, scores: Sequence[Resampled]) -> Array:
        if self._by_fold:
            values = np.array([[score.value] for score in scores])
            of_values: Array = self._resampling.resampled(values)[0] / len(scores)
            return of_values
        mean: Array = np.mean([score.draws for score in scores], axis=0)
        return mean

    def interval(self, metric: str, score: Resampled) -> Interval | None:
        """The 95 % interval of a score; `None` where all clusters have the same."""
        low, high = BOUNDS.get(metric, (0.0, 1.0))
        return self._resampling.interval(score.value, score.draws, low=low, high=high)

    def difference(self, score: Resampled, baseline: Resampled) -> tuple[float, Interval | None, float]:
        """The difference of two groups' scores, its 95 % interval and its p, by the paired bootstrap."""
        value, draws = score.value - baseline.value, score.draws - baseline.draws
        return value, self._resampling.interval(value, draws), self._resampling.p_value(value, draws)
