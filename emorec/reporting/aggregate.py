"""Groups finished runs; the runs of a group differ only in seed and fold."""

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from emorec.config.keys import GROUPED_KEYS, OPERATIONAL_KEYS, flat, is_location, is_unused
from emorec.errors import UserError
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord, runs_in, stored_config
from emorec.runs.results import read_history, read_metrics, read_missing, scalar_metrics

SUMMARY_METRICS = {
    "classification": ("weighted_f1", "macro_f1", "uar", "accuracy"),
    "regression": ("ccc", "mae", "rmse", "pearson"),
}
HIDDEN_CHOICES = {"experiment", "paths", "logger", "launcher", "dataset"}
# Each is shown wherever one group uses the speakers' own utterances there.
NORMALISATION, FUSED_NORMALISATION = "model.normalisation", "model.fused_normalisation"
OWN_FILTERS = ("folder", "run", "sweep", "tags")  # of what is no value of a config; `finished_runs` reads the folders
SHOWN_DIGITS = 8  # of the digest of a corpus


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

    @property
    def normalises_speakers(self) -> bool:
        """Whether features are standardised by each speaker's own utterances, those of test included."""
        return "speaker" in (self.config.get(NORMALISATION), self.config.get(FUSED_NORMALISATION))


class Contest(NamedTuple):
    """What groups have in common that are comparable: the content of the corpus, the task and the protocol."""

    dataset: str  # the corpus, with the name of its table if it has one
    task: str
    protocol: str
    corpus: str  # digest of its content; empty for runs of version 0.1, which do not record it
    kind: str
    labels: tuple[str, ...]
    monitor: str
    direction: str

    @classmethod
    def of(cls, run: Run) -> "Contest":
        """The contest that a run belongs to."""
        data, task, table = run.record.data, run.record.task, run.config.get("dataset.table")
        dataset, labels = str(data.get("dataset", "")), task.get("labels")
        return cls(
            dataset=f"{dataset} ({Path(str(table)).name})" if table else dataset,
            task=str(task.get("name", "")),
            protocol=str(data.get("protocol", "")),
            corpus=str(data.get("corpus", "")),
            kind=str(task.get("kind", "classification")),
            labels=tuple(map(str, labels)) if isinstance(labels, list) else (),
            monitor=str(task.get("monitor", "")),
            direction=str(task.get("direction", "")),
        )


def headings(contests: Iterable[Contest]) -> dict[Contest, str]:
    """A heading for each contest: the corpus, the task and the protocol, and what else tells two of them apart."""
    texts: dict[Contest, str] = {}
    contests = list(dict.fromkeys(contests))
    for contest in contests:
        alike = [other for other in contests if other[:3] == contest[:3]]
        text = f"{contest.dataset}: {contest.task}, {contest.protocol}"
        if len({other.corpus for other in alike}) > 1:
            text += f", corpus {contest.corpus[:SHOWN_DIGITS] or 'of unknown content'}"
        if len({other.labels for other in alike}) > 1:
            text += f", {', '.join(contest.labels)}"
        if len({other[-2:] for other in alike}) > 1:
            text += f", by {contest.monitor} ({contest.direction})"
        texts[contest] = text
    return texts


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

    def score(self, metric: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation of a metric; the deviation is `None` for a single run.

        Returns `None` if a run lacks the metric, or has a value that is not finite.
        """
        values = [run.numbers[metric] for run in self.runs if metric in run.numbers]
        if len(values) < len(self.runs):
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


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
    that cannot be read a warning is given once."""
    own = ((record, store.folder(record.run_id)) for record in store.records())
    runs = []
    for record, folder in runs_in(folders) if folders else own:
        if record.status == "finished":
            try:
                runs.append(_read_run(record, folder))
            except (UserError, FileNotFoundError) as error:
                if folder.is_dir():  # else the run was removed in the meantime
                    store.warn(folder, f"{folder.name} is left out: {error}")
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


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Groups runs; in each contest the group with the best validation score is first, groups without one are last."""
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
    groups = [Group(name, tuple(group), contest) for (name, contest), group in members.items()]
    return sorted(groups, key=lambda group: (group.contest, -_quality(group)))


def _quality(group: Group) -> float:
    """The validation score of the task's monitor with such a sign that larger is better; -inf if there is none."""
    score = group.score(f"val/{group.contest.monitor}")
    if score is None:
        return -math.inf
    return score[0] if group.contest.direction == "max" else -score[0]


def distinctions(groups: Sequence[Group]) -> list[str]:
    """The keys in which groups differ: composed choices, and config values that do not belong to such a choice."""
    choices = {key for group in groups for key in group.first.choices} - HIDDEN_CHOICES
    differing = [key for key in sorted(choices) if len({group.first.choices.get(key) for group in groups}) > 1]
    hidden = [".".join(keys) for keys in OPERATIONAL_KEYS + GROUPED_KEYS]
    hidden += [key.replace("/", ".") for key in differing]  # the choice stands for its values
    for key in sorted({key for group in groups for key in group.runs[0].config}):
        if is_location(key) or any(f"{key}.".startswith(f"{name}.") for name in hidden):
            continue
        if len({str(group.runs[0].config.get(key)) for group in groups}) > 1:
            differing.append(key)
    configs = [group.runs[0].config for group in groups]
    for key in (NORMALISATION, FUSED_NORMALISATION):
        if key not in differing and any(config.get(key) == "speaker" for config in configs):
            differing.append(key)
    return differing


def distinction(group: Group, key: str) -> str:
    """The group's value for a key of `distinctions`."""
    return _choice_or_value(group.runs[0], key)


def _choice_or_value(run: Run, key: str) -> str:
    """A composed choice, or a config value as it is written on a command line; a dash for one that does nothing."""
    if key == "head" and key not in run.record.choices:  # an older run
        return "neural"
    if is_unused(key, run.config):
        return "–"
    if key in run.record.choices:
        return run.record.choices[key]
    value = run.config.get(key)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
