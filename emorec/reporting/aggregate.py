"""Groups finished runs; the runs of a group differ only in seed and fold."""

import logging
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from emorec.config.keys import GROUPED_KEYS, OPERATIONAL_KEYS, flat, is_location, is_unused
from emorec.errors import UserError
from emorec.reporting.contests import Contest, FoldSplits
from emorec.reporting.samples import Sample
from emorec.runs.checkpoint_store import NEURAL, CheckpointStore, RunRecord, runs_in, stored_config
from emorec.runs.results import read_history, read_metrics, read_missing, scalar_metrics
from emorec.runs.stored_predictions import read_predictions

log = logging.getLogger(__name__)

SUMMARY_METRICS = {
    "classification": ("weighted_f1", "macro_f1", "uar", "accuracy"),
    "regression": ("ccc", "mae", "rmse", "pearson"),
}
HIDDEN_CHOICES = {"experiment", "paths", "logger", "launcher", "dataset"}
# Each is shown wherever one group uses the speakers' own utterances there.
NORMALISATION, FUSED_NORMALISATION = "model.normalisation", "model.fused_normalisation"
LOWER_IS_BETTER = ("loss", "mae", "rmse", "calibration_error", "brier", "ece", "nll")
MOST_NAMED = 10  # runs that are not finished
TOLERANCE = 1e-3  # of a metric and that of the stored predictions: between two machines an argmax may differ
OWN_FILTERS = ("folder", "run", "sweep", "tags")  # of what is no value of a config; `finished_runs` reads the folders


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory."""

    record: RunRecord
    folder: Path
    config: dict[str, Any]  # {dotted key: value}
    metrics: dict[str, Any]  # content of `metrics.json`
    history: list[dict[str, float]]  # a row for each epoch
    missing: dict[str, dict[str, float]] = field(default_factory=dict)  # {modalities: metrics of test with these alone}

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The metrics that are finite numbers."""
        return scalar_metrics(self.metrics)

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """{split: what it predicted}; empty where nothing is stored. Read at first use.

        Raises:
            UserError: the predictions are not readable, or their scores are not those of the run's metrics.
        """
        labels = self.record.task.get("labels", ()) if self.kind == "classification" else ()
        samples = {split: Sample.of(item) for split, item in read_predictions(self.folder, labels).items()}
        for split, sample in samples.items():
            for name, value in sample.scores.items():
                known = self.numbers.get(f"{split}/{name}", value)
                if sample.is_finite and name in SUMMARY_METRICS.get(self.kind, ()) and abs(known - value) > TOLERANCE:
                    found = f"{split}/{name}={value:.4f} of its predictions, got {known:.4f}"
                    raise UserError(f"expected metrics.json of {self.folder} to have {found}")
        return samples

    @property
    def kind(self) -> str:
        """Of the task."""
        return str(self.record.task.get("kind", "classification"))

    @property
    def normalises_speakers(self) -> bool:
        """Whether features are standardised by each speaker's own utterances, those of test included."""
        return "speaker" in (self.config.get(NORMALISATION), self.config.get(FUSED_NORMALISATION))


@dataclass(frozen=True)
class Group:
    """Runs that differ only in seed and fold."""

    group_id: str
    runs: tuple[Run, ...]
    contest: Contest  # only groups with equal ones are comparable

    @property
    def first(self) -> RunRecord:
        return self.runs[0].record

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.record.seed for run in self.runs}))

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(sorted({run.record.fold for run in self.runs if run.record.fold is not None}))

    @cached_property
    def by_fold(self) -> dict[int | None, list[Run]]:
        """{fold: its runs}, in order."""
        folds: dict[int | None, list[Run]] = defaultdict(list)
        for run in sorted(self.runs, key=lambda run: -1 if run.record.fold is None else run.record.fold):
            folds[run.record.fold].append(run)
        return dict(folds)

    def score(self, metric: str) -> tuple[float, float | None] | None:
        """Mean and deviation of a metric of the runs; see `mean`."""
        return self.mean(lambda run: run.numbers.get(metric))

    def mean(self, value: Callable[[Run], float | None]) -> tuple[float, float | None] | None:
        """Mean of a value of each run, and its sample standard deviation over what `over` says.

        The mean is that over folds of the means over the seeds of each fold. With several folds the deviation is that
        over folds, of their means; with one it is that over seeds. A single run has none.

        Returns `None` if a run lacks the value.
        """
        folds = [[value(run) for run in runs] for runs in self.by_fold.values()]
        known = [[item for item in values if item is not None] for values in folds]
        if [len(values) for values in known] != [len(values) for values in folds]:
            return None
        means = [statistics.fmean(values) for values in known]
        varying = means if len(means) > 1 else known[0]
        return statistics.fmean(means), statistics.stdev(varying) if len(varying) > 1 else None

    @property
    def over(self) -> str:
        """What a standard deviation is over: `3 seeds`, `5 folds`, `4 folds (mean of 2 seeds)`; "" for a single run."""
        counts = sorted({len(runs) for runs in self.by_fold.values()})
        if len(self.by_fold) == 1:
            return f"{counts[0]} seeds" if counts[0] > 1 else ""
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        return f"{len(self.by_fold)} folds" + ("" if counts == [1] else f" (mean of {seeds} seeds)")

    def samples(self, split: str) -> dict[int | None, list[Sample]]:
        """{fold: what its runs predicted for a split}; empty where a run has no predictions for it."""
        found = {fold: [run.samples.get(split) for run in runs] for fold, runs in self.by_fold.items()}
        known = {fold: [sample for sample in samples if sample is not None] for fold, samples in found.items()}
        return known if all(len(known[fold]) == len(samples) for fold, samples in found.items()) else {}


def missing_scores(group: Group) -> dict[str, float]:
    """{modalities: mean of the monitor on test with these alone} over the runs of a group; empty unless all have it."""
    names = list(dict.fromkeys(name for run in group.runs for name in run.missing))
    values = {name: [run.missing.get(name, {}).get(group.contest.monitor) for run in group.runs] for name in names}
    return {
        name: statistics.fmean(known)
        for name, found in values.items()
        if len(known := [value for value in found if isinstance(value, int | float)]) == len(group.runs)
    }


def finished_runs(store: CheckpointStore, folders: Sequence[Path] = ()) -> list[Run]:
    """Reads all finished runs of a store or, if there are `folders`, of these (see `runs_in`), oldest first. Of each
    that cannot be read a warning is given once; those that are not finished are named too."""
    own = ((record, store.folder(record.run_id)) for record in store.records())
    runs, unfinished = [], []
    for record, folder in runs_in(folders) if folders else own:
        if record.status != "finished":
            unfinished.append(f"{record.run_id} ({record.status})")
            continue
        try:
            runs.append(_read_run(record, folder))
        except (UserError, FileNotFoundError) as error:
            if folder.is_dir():  # else the run was removed in the meantime
                store.warn(folder, f"{folder.name} is left out: {error}")
    if unfinished:
        more = f" and {len(unfinished) - MOST_NAMED} more" if len(unfinished) > MOST_NAMED else ""
        log.info("left out, since they are not finished: %s%s", ", ".join(unfinished[:MOST_NAMED]), more)
    return runs


def _read_run(record: RunRecord, folder: Path) -> Run:
    """Reads what a finished run has left.

    Raises:
        UserError: something in it is missing or not readable.
    """
    lacking = [name for name in ("metrics.json", "config.yaml") if not os.path.lexists(folder / name)]
    if lacking:
        raise UserError(f"expected {', '.join(lacking)} of a finished run in {folder}, found none")
    missing = read_missing(folder, record)
    return Run(record, folder, flat(stored_config(folder)), read_metrics(folder), read_history(folder), missing)


def with_predictions(runs: Iterable[Run], store: CheckpointStore) -> list[Run]:
    """The runs whose predictions are readable, or that have none; of each other one a warning is given once."""
    kept = []
    for run in runs:
        try:
            run.samples  # noqa: B018  (reads them)
        except UserError as error:
            store.warn(run.folder, f"{run.folder.name} is left out: {error}")
        else:
            kept.append(run)
    return kept


def matching(runs: Iterable[Run], filters: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs that `filters` accept: {a composed choice or config key, or one of `OWN_FILTERS`: accepted values}.

    Raises:
        UserError: no run has one of the keys.
    """
    runs = list(runs)
    for key in filters:
        if runs and key not in OWN_FILTERS and not any(key in run.record.choices or key in run.config for run in runs):
            known = sorted({*OWN_FILTERS, *(name for run in runs for name in (*run.record.choices, *run.config))})
            raise UserError(f"expected a filter in {known}, got {key!r}")
    return [run for run in runs if all(_accepts(run, key, values) for key, values in filters.items())]


def _accepts(run: Run, key: str, values: Sequence[str]) -> bool:
    if key == "run":
        return any(run.record.run_id.startswith(value) for value in values)
    if key == "tags":
        return bool({*run.record.tags} & {*values})
    return _choice_or_value(run, "sweep.name" if key == "sweep" else key) in values


def grouped(runs: Iterable[Run], *, rank: str | None = None) -> list[Group]:
    """Groups runs; in each contest the group with the best validation score is first, groups without one are last.

    Args:
        runs: to group.
        rank: the metric of validation to rank by, such as "val/uar"; `None` for each task's monitor.

    Raises:
        UserError: `rank` is no metric of validation, or no run has it.
    """
    runs = list(runs)
    check_rank(rank)
    if rank is not None and runs and not any(rank in run.numbers for run in runs):
        known = sorted({name for run in runs for name in run.numbers if name.startswith("val/")})
        raise UserError(f"rank: expected a metric that the runs have, one of {known}, got {rank}")
    contests = [(run, Contest.of(run)) for run in runs]
    corpora = {run.record.group_id: contest.corpus for run, contest in contests if contest.corpus}
    datasets: dict[tuple[Any, ...], str] = {}
    members: dict[tuple[str, Contest], list[Run]] = defaultdict(list)
    for run, recorded in contests:
        name = run.record.group_id  # a digest of the corpus among others: it is the same for runs that do not record it
        contest = recorded._replace(corpus=recorded.corpus or corpora.get(name, ""))
        if contest.corpus:  # a table that was renamed is still the same corpus
            contest = contest._replace(dataset=datasets.setdefault(contest[1:], contest.dataset))
        members[name, contest].append(run)
    groups = _with_splits([Group(name, tuple(group), contest) for (name, contest), group in members.items()])
    return sorted(groups, key=lambda group: (group.contest, -quality(group, rank)))


def _with_splits(groups: Sequence[Group]) -> list[Group]:
    """The groups with their splits as part of their contests. A group that did not read test is in the contest of those
    that did, if these agree on it."""
    read: dict[tuple[Any, ...], set[tuple[FoldSplits, ...]]] = defaultdict(set)
    splits = {id(group): _splits_of(group) for group in groups}

    def without_test(group: Group) -> tuple[Any, ...]:
        return group.contest, tuple(item._replace(test="") for item in splits[id(group)])

    for group in groups:
        if all(item.test for item in splits[id(group)]):
            read[without_test(group)].add(splits[id(group)])
    result = []
    for group in groups:
        own, others = splits[id(group)], read[without_test(group)]
        if others and not all(item.test for item in own):
            own = next(iter(others)) if len(others) == 1 else tuple(item._replace(test="") for item in own)
        result.append(replace(group, contest=group.contest._replace(splits=own)))
    return result


def _splits_of(group: Group) -> tuple[FoldSplits, ...]:
    splits = []
    for fold, runs in group.by_fold.items():
        digests = [
            "+".join(sorted({run.samples[split].utterances for run in runs if split in run.samples}))
            for split in ("val", "test")
        ]
        splits.append(FoldSplits(-1 if fold is None else fold, *digests))
    return () if splits == [FoldSplits(-1, "", "")] else tuple(splits)


def check_rank(rank: str | None) -> None:
    """Raises a `UserError` for what groups are not ranked by."""
    if rank is not None and (not rank.startswith("val/") or rank == "val/"):
        raise UserError(
            f"rank: expected a metric of validation, such as val/uar, got {rank}; what is ranked by test is selected "
            "on test, and its figures are then too good"
        )


def ranked_by(contest: Contest, rank: str | None = None) -> tuple[str, str]:
    """The metric that the groups of a contest are ranked by, and its direction, "max" or "min"."""
    monitor = f"val/{contest.monitor}"
    if rank is None or rank == monitor:
        return monitor, contest.direction
    return rank, "min" if rank.partition("/")[2] in LOWER_IS_BETTER else "max"


def quality(group: Group, rank: str | None = None) -> float:
    """The validation score that groups are ranked by, with such a sign that larger is better; -inf without one."""
    metric, direction = ranked_by(group.contest, rank)
    score = group.score(metric)
    if score is None:
        return -math.inf
    return score[0] if direction == "max" else -score[0]


def distinctions(groups: Sequence[Group]) -> list[str]:
    """The keys in which groups differ: composed choices, and config values that do not belong to such a choice. A key
    that changes nothing in a group does not count for it."""

    def users(key: str) -> list[Run]:
        return [group.runs[0] for group in groups if not is_unused(key, group.runs[0].config)]

    choices = {key for group in groups for key in group.first.choices} - HIDDEN_CHOICES
    differing = [key for key in sorted(choices) if len({_choice(run.record, key) for run in users(key)}) > 1]
    hidden = [".".join(keys) for keys in OPERATIONAL_KEYS + GROUPED_KEYS]
    hidden += [key.replace("/", ".") for key in differing]  # the choice stands for its values
    for key in sorted({key for group in groups for key in group.runs[0].config}):
        if is_location(key) or any(f"{key}.".startswith(f"{name}.") for name in hidden):
            continue
        if len({str(run.config.get(key)) for run in users(key)}) > 1:
            differing.append(key)
    configs = [group.runs[0].config for group in groups]
    for key in (NORMALISATION, FUSED_NORMALISATION):
        if key not in differing and any(config.get(key) == "speaker" for config in configs):
            differing.append(key)
    return differing


def distinction(group: Group, key: str) -> str:
    """The group's value for a key of `distinctions`."""
    return _choice_or_value(group.runs[0], key)


def _choice(record: RunRecord, key: str) -> str | None:
    """A composed choice; older runs, which name no head, have a neural one."""
    return record.choices.get(key, NEURAL if key == "head" else None)


def _choice_or_value(run: Run, key: str) -> str:
    """A composed choice, or a config value as it is written on a command line; a dash for one that does nothing."""
    if is_unused(key, run.config):
        return "–"
    if (choice := _choice(run.record, key)) is not None:
        return choice
    value = run.config.get(key)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
