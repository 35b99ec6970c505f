"""Simulated studies: speakers whom a model recognises more or less well, and systems that are equally good."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emorec.reporting.scores import uar
from emorec.reporting.statistics import Resampling

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """A study: speakers in folds, each with as many utterances of each class."""

    speakers: int
    folds: int
    classes: int
    of_class: int  # utterances of each speaker
    among_speakers: float = 0.8  # standard deviation of the logit of being right
    shared: float = 0.7  # of it, the share of the variance that two systems have in common


RAVDESS = Design(speakers=24, folds=1, classes=8, of_class=8)
SEVERAL_FOLDS = Design(speakers=24, folds=5, classes=8, of_class=8)
ONE_FOLD = Design(speakers=5, folds=1, classes=8, of_class=8)
DIALOGUES = Design(speakers=280, folds=1, classes=7, of_class=1)


def _rates(design: Design, speakers: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """How often each of two equally good systems recognises each class of each speaker, (speakers, C) each."""
    shape = (speakers, design.classes)
    common, *own = generator.normal(size=(3, *shape)) + generator.normal(size=(3, speakers, 1))
    mixed = [np.sqrt(design.shared) * common + np.sqrt(1 - design.shared) * part for part in own]
    first, second = (1 / (1 + np.exp(-0.8 - design.among_speakers / np.sqrt(2) * part)) for part in mixed)
    return first, second


def _sums(design: Design, rates: Array, generator: np.random.Generator) -> Array:
    """(speakers, 3C) hits, targets and predictions; errors fall on the next class."""
    hits = generator.binomial(design.of_class, rates).astype(float)
    targets = np.full(hits.shape, float(design.of_class))
    return np.concatenate([hits, targets, hits + np.roll(targets - hits, 1, axis=1)], 1)


def _mean_over_folds(design: Design, sums: Array, resampling: Resampling | None) -> Array:
    folds = np.arange(len(sums)) % design.folds
    scores = []
    for fold in range(design.folds):
        rows = np.flatnonzero(folds == fold)
        scores.append(uar(sums[rows].sum(0) if resampling is None else resampling.resampled(sums[rows], rows)))
    mean: Array = np.mean(scores, axis=0)
    return mean


def _resampling(design: Design, draws: int, seed: int) -> Resampling:
    return Resampling(np.arange(design.speakers) % design.folds, draws=draws, seed=seed)


def true_uar(design: Design, seed: int = 0) -> float:
    """Among all speakers there are."""
    return float(_rates(design, 400_000 // design.classes, np.random.default_rng(seed))[0].mean())


def share_that_covers(design: Design, *, studies: int, draws: int, seed: int = 0, by_utterance: bool = False) -> float:
    """The share of studies whose 95 % interval of the UAR holds the true one."""
    generator, truth, hits = np.random.default_rng(seed), true_uar(design), 0
    for study in range(studies):
        sums = _sums(design, _rates(design, design.speakers, generator)[0], generator)
        if by_utterance:
            sums = _one_by_one(design, sums)
        resampling = Resampling(np.zeros(len(sums), np.int64), draws=draws, seed=study)
        if not by_utterance:
            resampling = _resampling(design, draws, study)
        value = float(_mean_over_folds(design, sums, None))
        low, high = resampling.interval(value, _mean_over_folds(design, sums, resampling))
        hits += low <= truth <= high
    return hits / studies


def _one_by_one(design: Design, sums: Array) -> Array:
    """The same utterances, each a cluster by itself, of a design of one fold."""
    rows = []
    for number in range(design.classes):
        hits, count = int(sums[:, number].sum()), len(sums) * design.of_class
        row = np.zeros((count, 3 * design.classes))
        row[:hits, number] = 1
        row[:, design.classes + number] = 1
        rows.append(row)
    return np.concatenate(rows)


def share_that_rejects(design: Design, *, studies: int, draws: int, seed: int = 0) -> float:
    """The share of studies in which two equally good systems differ significantly."""
    generator, rejections = np.random.default_rng(seed), 0
    for study in range(studies):
        rates = _rates(design, design.speakers, generator)
        first, second = (_sums(design, part, generator) for part in rates)
        resampling = _resampling(design, draws, study)
        difference = _mean_over_folds(design, first, None) - _mean_over_folds(design, second, None)
        resampled = _mean_over_folds(design, first, resampling) - _mean_over_folds(design, second, resampling)
        rejections += resampling.p_value(float(difference), resampled) < 0.05
    return rejections / studies
