"""What it is worth to know the speakers: one config under a random protocol and under one that separates speakers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emorec.config.composition import Composed
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.datasets.manifest import RANDOM
from emorec.datasets.utterance import Task
from emorec.errors import UserError, choose
from emorec.markdown import markdown_table
from emorec.reporting.evidence import BOUNDS
from emorec.reporting.samples import Sample, Unit
from emorec.reporting.scores import SCORES
from emorec.reporting.statistics import CONFIDENCE, LEAST_SPREAD, Resampling
from emorec.runs.checkpoint_store import RunRecord
from emorec.runs.results import SHOWN, read_metrics, remarks, scalar_metrics
from emorec.runs.stored_predictions import read_predictions
from emorec.training.lifecycle import finished_run

STRATIFIED = "stratified"  # the random protocol of corpora that build their own splits


class Estimate(NamedTuple):
    """A mean over folds, with its standard error over speakers, NaN where it is not known, and the metric's bounds."""

    value: float
    error: float
    degrees_of_freedom: float
    low: float = -math.inf
    high: float = math.inf

    def text(self, *, signed: bool = False) -> str:
        """`0.712 [0.650, 0.774]`: the value with its 95 % interval."""
        from scipy import stats

        sign = "+" if signed else ""
        value = f"{self.value:{sign}.3f}"
        if not self.error > LEAST_SPREAD:  # also NaN
            return value
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.degrees_of_freedom)) * self.error
        low, high = max(self.low, self.value - reach), min(self.high, self.value + reach)
        return f"{value} [{low:{sign}.3f}, {high:{sign}.3f}]"

    def minus(self, other: "Estimate") -> "Estimate":
        """The difference, as if both were independent, which makes the interval wide rather than narrow."""
        error, freedom = math.hypot(self.error, other.error), min(self.degrees_of_freedom, other.degrees_of_freedom)
        return Estimate(self.value - other.value, error, freedom, self.low - other.high, self.high - other.low)


@dataclass(frozen=True)
class Side:
    """The finished runs of one protocol, one for each fold."""

    protocol: str
    records: list[RunRecord]
    folders: list[Path]

    def count(self, split: str) -> int:
        """Utterances of a split, of all folds together."""
        return sum(int(record.data["utterances"][split]) for record in self.records)

    def estimate(self, metric: str) -> Estimate:
        """Of a metric of test."""
        values, errors, freedom = [], [], 0.0
        for record, folder in zip(self.records, self.folders, strict=True):
            metrics = scalar_metrics(read_metrics(folder))
            if (name := f"test/{metric}") not in metrics:
                raise UserError(f"expected a finite {name} in {folder / 'metrics.json'}")
            values.append(metrics[name])
            labels = record.task["labels"] if record.task["kind"] == "classification" else ()
            error, degrees = _error(Sample.of(read_predictions(folder, labels)["test"]), metric)
            errors.append(error)
            freedom += degrees
        error = float(np.sqrt(np.sum(np.square(errors)))) / len(errors)
        return Estimate(float(np.mean(values)), error, freedom, *BOUNDS.get(metric, (0.0, 1.0)))

    def row(self, metrics: Sequence[str]) -> list[str]:
        """Its row in the table."""
        numbers = [record.fold for record in self.records if record.fold is not None]
        folds = ", ".join(map(str, numbers)) or "–"
        speakers = "in train and test" if self.records[0].data.get("shares_speakers") else "separate"
        counts = [str(self.count("train")), str(self.count("test"))]
        return [self.protocol, speakers, folds, *counts, *(self.estimate(name).text() for name in metrics)]


def _error(sample: Sample, metric: str) -> tuple[float, float]:
    """The standard error of a metric over speakers, or over utterances where no speaker is known, and its degrees of
    freedom."""
    unit: Unit = "speaker" if "speaker" in sample.clusters else "utterance"
    names, numbers = sample.numbered(unit)
    sizes = np.bincount(numbers, minlength=len(names)).astype(np.float64)
    draws = Resampling(np.zeros(len(names), np.int64), sizes, draws=2000)
    if not draws.is_defined:
        return math.nan, math.nan
    score = SCORES[sample.kind][metric]
    return draws.standard_error(score(draws.resampled(sample.sums(numbers, len(names))))), draws.degrees_of_freedom


def leakage_gap(composed: Composed[TrainConfig], preparer: DataPreparer) -> str:
    """Trains a config under its own protocol, which separates speakers, and under a random one; returns the table.

    The runs are those of `emorec train`: a finished one is only read.

    Args:
        composed: the config; `dataset.fold=all` stands for all folds of both protocols.
        preparer: what the runs share.

    Raises:
        UserError: the protocol does not separate speakers, or test is not read.
    """
    own = composed.for_fold(0) if composed.wants_all_folds else composed
    if not own.config.test:
        raise UserError("test: expected true, since the gap is one of test, got false")
    corpus, _ = preparer.components(own.config)
    manifest = preparer.manifest(own.config, corpus)
    rule = choose(manifest.protocols, corpus.protocol, f"dataset.protocol (dataset={corpus.name})")
    if not rule.separates_speakers:
        raise UserError(
            f"dataset.protocol: expected one that separates speakers, got {corpus.protocol} (dataset={corpus.name}); "
            "the random one is added by itself"
        )
    leaky = STRATIFIED if corpus.name == "custom" else RANDOM
    sides = []
    for protocol in (corpus.protocol, leaky):
        settings = {**composed.values["dataset"], "protocol": protocol}
        if protocol == leaky and settings["fold"] is None:
            settings["fold"] = 0
        sides.append(_trained(composed.with_values(dataset=settings), preparer, protocol))
    return _table(sides, corpus.chosen_task(manifest))


def _trained(composed: Composed[TrainConfig], preparer: DataPreparer, protocol: str) -> Side:
    side, first = Side(protocol, [], []), composed.for_fold(0) if composed.wants_all_folds else composed
    folds: Sequence[int | None] = [first.values["dataset"]["fold"]]
    if composed.wants_all_folds:
        corpus, _ = preparer.components(first.config)
        folds = range(preparer.manifest(first.config, corpus).protocols[protocol].folds) or [None]
    for fold in folds:
        record, folder = finished_run(composed.for_fold(fold), preparer)
        side.records.append(record)
        side.folders.append(folder)
    return side


def _table(sides: Sequence[Side], task: Task) -> str:
    """The table of both protocols, and the gap of each metric."""
    metrics = SHOWN[task.kind]
    header = ["protocol", "speakers", "fold", "train", "test", *(f"test/{name}" for name in metrics)]
    separate, random = sides
    gaps = [random.estimate(name).minus(separate.estimate(name)) for name in metrics]
    rows = [side.row(metrics) for side in sides]
    rows.append(["gap", "", "", "", "", *(gap.text(signed=True) for gap in gaps)])
    notes = dict.fromkeys(note for side in sides for record in side.records for note in remarks(record))
    runs = ", ".join(record.run_id for side in sides for record in side.records)
    text = (
        "in brackets: 95 % intervals over speakers, if each fold tests several; train and test: utterances of all folds"
    )
    return "\n".join([markdown_table(header, rows), "", text, f"runs: {runs}", *([", ".join(notes)] if notes else [])])
