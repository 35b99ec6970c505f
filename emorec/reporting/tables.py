"""The numbers of a report: a table for each contest. How they are written down is for others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from emorec.errors import UserError
from emorec.reporting.aggregate import (
    SUMMARY_METRICS,
    Group,
    distinction,
    distinctions,
    missing_scores,
    quality,
    ranked_by,
)
from emorec.reporting.calibration import CALIBRATION
from emorec.reporting.contests import Contest, headings
from emorec.reporting.ensembles import ensemble
from emorec.reporting.evidence import Evidence, Fold, Samples
from emorec.reporting.protocols import protocol_of
from emorec.reporting.samples import Sample, Unit
from emorec.reporting.statistics import DRAWS, Interval
from emorec.runs.results import SHOWN
from emorec.runs.stored_predictions import StoredPredictions, read_predictions

SPLITS = ("val", "test")


class Estimate(NamedTuple):
    """A metric of a group."""

    mean: float
    deviation: float | None = None  # over what the group's `over` says
    interval: Interval | None = None  # 95 %, over the clusters of the table


@dataclass(frozen=True)
class Row:
    """A group in its table.

    Attributes:
        values: those of the table's keys.
        estimates: {"val/uar": …} for all metrics that all its runs have.
        place: by validation, from 1; `None` where it is not ranked.
        ensemble: {"test/uar": …} of the mean of its runs' probabilities; empty where none was asked for.
        ensemble_of: what it joins: "2 seeds", "5 folds × 2 seeds".
        missing: {modalities: mean of the monitor on test with these alone}.
        separates: who is never in two splits of its contest; `None` where no run of it records that.
    """

    group: Group
    values: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    place: int | None
    ensemble: Mapping[str, Estimate] = field(default_factory=dict)
    ensemble_of: str = ""
    missing: Mapping[str, float] = field(default_factory=dict)
    separates: str | None = None

    def protocol(self, metric: str) -> str:
        """How a number is cited."""
        return protocol_of(self.group.runs[0], metric, self.separates)


@dataclass(frozen=True)
class Table:
    """The groups of one contest, the best on validation first.

    Attributes:
        ranked_by: the metric of validation, "val/uar".
        keys: in which the groups differ.
        evidence: {split: the draws}, of splits with predictions.
    """

    contest: Contest
    heading: str
    ranked_by: str
    keys: tuple[str, ...]
    rows: tuple[Row, ...]
    evidence: Mapping[str, Evidence]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that are shown: the one that ranks, and those of test."""
        return (self.ranked_by, *(f"test/{name}" for name in SHOWN.get(self.contest.kind, ())))

    @property
    def clusters(self) -> str:
        """What the intervals on test are over: `24 speakers`; "" where there are none."""
        known = any(estimate.interval for row in self.rows for estimate in row.estimates.values())
        return self.evidence["test"].clusters if known else ""


def make_tables(
    groups: Sequence[Group],
    *,
    rank: str | None = None,
    unit: Unit | None = None,
    draws: int = DRAWS,
    ensembles: bool = False,
) -> list[Table]:
    """A table for each contest.

    Args:
        groups: as `grouped` has sorted them.
        rank: the metric of validation that they were sorted by; `None` for each task's monitor.
        unit: what is resampled for intervals; `None` for dialogues where there are any, else speakers.
        draws: number of resamples.
        ensembles: whether each group is scored as an ensemble too.

    Raises:
        UserError: the unit is known of no contest.
    """
    texts = headings(group.contest for group in groups)
    tables = []
    for contest, members in groupby(groups, key=lambda group: group.contest):
        own = list(members)
        evidence = {}
        for split in SPLITS:
            found = Evidence.of([group.samples(split) for group in own], unit, draws=draws)
            if found is not None:
                evidence[split] = found
        keys = tuple(distinctions(own))
        table = Table(contest, texts[contest], ranked_by(contest, rank)[0], keys, (), evidence)
        recorded = (run.record.data.get("separates") for group in own for run in group.runs)
        separates = next(filter(None, recorded), None)
        rows = [replace(_row(table, group, ensembles=ensembles), separates=separates) for group in own]
        tables.append(replace(table, rows=tuple(_placed(rows, contest, rank))))
    if unit is not None and groups and not any(table.evidence for table in tables):
        raise UserError(f"cluster: expected what the stored predictions name, got {unit}, which none of them does")
    return tables


def _placed(rows: Sequence[Row], contest: Contest, rank: str | None) -> list[Row]:
    """The rows with their places; losses of views differ with their temperature and augmentation, and rank nothing."""
    qualities = [quality(row.group, rank) for row in rows]
    return [
        replace(row, place=1 + sum(other > own for other in qualities))
        if len(rows) > 1 and own > -float("inf") and contest.kind in SHOWN
        else row
        for row, own in zip(rows, qualities, strict=True)
    ]


def _row(table: Table, group: Group, *, ensembles: bool) -> Row:
    values = tuple(distinction(group, key) for key in table.keys)
    row = Row(group, values, _estimates(table, group), None, missing=missing_scores(group))
    if not ensembles:
        return row
    joined, what = ensemble_samples(group)
    return replace(row, ensemble=_of_samples(table.evidence.get("test"), joined), ensemble_of=what)


def _estimates(table: Table, group: Group) -> dict[str, Estimate]:
    names = [*SUMMARY_METRICS.get(table.contest.kind, ()), *CALIBRATION]
    metrics = dict.fromkeys([table.ranked_by, *(f"{split}/{name}" for split in SPLITS for name in names)])
    with_intervals = _of_samples(table.evidence.get("test"), group.samples("test"))
    estimates = {}
    for metric in metrics:
        score = group.score(metric) or _from_samples(group, metric)
        if score is not None:
            own = with_intervals.get(metric)
            estimates[metric] = Estimate(*score, None if own is None else own.interval)
    return estimates


def _from_samples(group: Group, metric: str) -> tuple[float, float | None] | None:
    """A metric that is computed from stored predictions alone, such as "test/ece"."""
    split, _, name = metric.partition("/")
    if name not in CALIBRATION or not group.samples(split):
        return None
    return group.mean(lambda run: run.samples[split].calibration.get(name))


def _of_samples(evidence: Evidence | None, samples: Samples) -> dict[str, Estimate]:
    """{"test/uar": …} with intervals; those of probabilities have none."""
    if evidence is None or not samples:
        return {}
    scores = evidence.resampled(samples)
    estimates = {
        f"test/{name}": Estimate(score.value, interval=evidence.interval(name, score) if evidence.is_defined else None)
        for name, score in scores.items()
    }
    for name in CALIBRATION if scores else ():
        values = [[sample.scores.get(name) for sample in of_fold] for of_fold in samples.values()]
        known = [[value for value in of_fold if value is not None] for of_fold in values]
        if known == values:
            estimates[f"test/{name}"] = Estimate(fmean(map(fmean, known)))
    return estimates


def ensemble_samples(group: Group) -> tuple[dict[Fold, list[Sample]], str]:
    """{fold: the ensemble of its runs on test}, and what it joins.

    The seeds of each fold are joined; all runs together where all folds have the same test split. Empty where a run has
    no predictions for test, or for other utterances than the other seeds of its fold.
    """
    samples = group.samples("test")
    utterances = [{sample.utterances for sample in of_fold} for of_fold in samples.values()]
    if not samples or any(len(names) > 1 for names in utterances):
        return {}, ""
    labels = group.contest.labels if group.contest.kind == "classification" else ()
    predictions: dict[Fold, list[StoredPredictions]] = {
        fold: [read_predictions(run.folder, labels)["test"] for run in runs] for fold, runs in group.by_fold.items()
    }
    counts = sorted({len(runs) for runs in predictions.values()})
    seeds = f"{counts[0]} seed{'s' if counts[0] > 1 else ''}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]} seeds"
    if len(predictions) > 1 and len(set.union(*utterances)) == 1:
        joined = Sample.of(ensemble([item for items in predictions.values() for item in items]))
        return {fold: [joined] for fold in predictions}, f"{len(predictions)} folds × {seeds}"
    joined_seeds = {fold: [Sample.of(ensemble(items))] for fold, items in predictions.items()}
    return joined_seeds, seeds if len(predictions) == 1 else f"{seeds}, a fold each"
