"""Groups finished runs; the runs of a group differ only in seed and fold."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emorec.config.keys import GROUPED_KEYS, OPERATIONAL_KEYS, flat, is_location
from emorec.errors import UserError
from emorec.runs.checkpoint_store import CheckpointStore, RunRecord, stored_config

SUMMARY_METRICS = {
    "classification": ("weighted_f1", "macro_f1", "uar", "accuracy"),
    "regression": ("ccc", "mae", "rmse", "pearson"),
}
HIDDEN_CHOICES = {"experiment", "paths", "logger", "launcher", "dataset"}


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory."""

    record: RunRecord
    folder: Path
    config: dict[str, Any]  # {dotted key: value}
    metrics: dict[str, Any]  # content of `metrics.json`


@dataclass(frozen=True)
class Group:
    """Runs that differ only in seed and fold."""

    group_id: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> RunRecord:
        return self.runs[0].record

    @property
    def kind(self) -> str:
        """The kind of its task: "classification" or "regression"."""
        return str(self.first.task.get("kind", "classification"))

    @property
    def contest(self) -> tuple[str, str, str]:
        """(dataset, task, protocol): only groups with equal ones are comparable."""
        return (self.first.data["dataset"], self.first.task["name"], self.first.data["protocol"])

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
        values = [run.metrics.get(metric, math.nan) for run in self.runs]
        if not all(map(math.isfinite, values)):
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def finished_runs(store: CheckpointStore) -> list[Run]:
    """Reads all finished runs of a store, oldest first."""
    runs = []
    for record in store.records():
        folder = store.folder(record.run_id)
        if record.status == "finished":
            try:
                metrics = json.loads((folder / "metrics.json").read_text())
                runs.append(Run(record, folder, flat(stored_config(folder)), metrics))
            except FileNotFoundError:  # the run was removed in the meantime
                if folder.is_dir():
                    raise
    return runs


def matching(runs: Iterable[Run], filters: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs whose composed choices and config values are among those that `filters` accepts for their keys.

    Raises:
        UserError: no run has one of the keys.
    """
    runs = list(runs)
    for key in filters:
        if runs and not any(key in run.record.choices or key in run.config for run in runs):
            known = sorted({name for run in runs for name in (*run.record.choices, *run.config)})
            raise UserError(f"expected a filter in {known}, got {key!r}")
    return [run for run in runs if all(_choice_or_value(run, key) in values for key, values in filters.items())]


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Groups runs; in each contest the group with the best validation score is first, groups without one are last."""
    members: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        members[run.record.group_id].append(run)
    groups = [Group(name, tuple(group)) for name, group in members.items()]
    return sorted(groups, key=lambda group: (group.contest, -_quality(group)))


def _quality(group: Group) -> float:
    """The validation score of the task's monitor with such a sign that larger is better; -inf if there is none."""
    score = group.score(f"val/{group.first.task['monitor']}")
    if score is None:
        return -math.inf
    return score[0] if group.first.task["direction"] == "max" else -score[0]


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
    return differing


def distinction(group: Group, key: str) -> str:
    """The group's value for a key of `distinctions`."""
    return _choice_or_value(group.runs[0], key)


def _choice_or_value(run: Run, key: str) -> str:
    """A composed choice, or a config value as it is written on a command line."""
    if key in run.record.choices:
        return run.record.choices[key]
    value = run.config.get(key)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
