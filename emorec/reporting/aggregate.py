"""Finished runs, grouped: a group's runs differ only in seed and fold."""

import csv
import json
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


@dataclass(frozen=True)
class Run:
    """A finished run as read from its directory.

    Attributes:
        record: `run.json`.
        folder: its directory.
        config: {dotted key: value}.
        metrics: `metrics.json`.
    """

    record: RunRecord
    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]

    def history(self) -> list[dict[str, float]]:
        """The epochs of `history.csv`."""
        with (self.folder / "history.csv").open(newline="") as stream:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


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
        """Of its task: "classification" or "regression"."""
        return str(self.first.task.get("kind", "classification"))

    @property
    def contest(self) -> tuple[str, str, str]:
        """(dataset, task, protocol): only groups of one contest compare."""
        return (self.first.data["dataset"], self.first.task["name"], self.first.data["protocol"])

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.record.seed for run in self.runs}))

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(sorted({run.record.fold for run in self.runs if run.record.fold is not None}))

    def score(self, metric: str) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation (`None` for one run) of a metric; `None` unless every run has it."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if len(values) < len(self.runs):
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def finished_runs(store: CheckpointStore) -> list[Run]:
    """All finished runs of a store, oldest first."""
    runs = []
    for record in store.records():
        folder = store.folder(record.run_id)
        if record.status == "finished":
            try:
                config = stored_config(folder)
                metrics = json.loads((folder / "metrics.json").read_text())
            except FileNotFoundError:
                if folder.is_dir():
                    raise
                continue  # the run was removed in the meantime
            runs.append(Run(record, folder, flat(config), metrics))
    return runs


def matching(runs: Iterable[Run], filters: Mapping[str, Sequence[str]]) -> list[Run]:
    """The runs that have one of the wanted values for each key: a composed choice, or a value of the config.

    Raises:
        UserError: no run has such a key.
    """
    runs = list(runs)
    for key in filters:
        if runs and not any(key in run.record.choices or key in run.config for run in runs):
            known = sorted({name for run in runs for name in (*run.record.choices, *run.config)})
            raise UserError(f"expected a filter in {known}, got {key!r}")

    def value(run: Run, key: str) -> str:
        return run.record.choices.get(key, _written(run.config.get(key)))

    return [run for run in runs if all(value(run, key) in wanted for key, wanted in filters.items())]


def grouped(runs: Iterable[Run]) -> list[Group]:
    """The runs' groups, the best by validation first within each contest."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.record.group_id].append(run)
    groups = [Group(name, tuple(members)) for name, members in found.items()]
    return sorted(groups, key=lambda group: (group.contest, -_rank(group)))


def _rank(group: Group) -> float:
    """How good the group is on validation by its task's monitor; larger is better."""
    score = group.score(f"val/{group.first.task['monitor']}")
    if score is None:
        return float("-inf")
    return score[0] if group.first.task["direction"] == "max" else -score[0]


def distinctions(groups: Sequence[Group]) -> list[str]:
    """The keys in which groups differ: composed choices, and config values outside of choices that differ."""
    hidden = tuple(".".join(keys) for keys in OPERATIONAL_KEYS + GROUPED_KEYS)
    choices = {key for group in groups for key in group.first.choices}
    varied = [key for key in sorted(choices) if len({group.first.choices.get(key) for group in groups}) > 1]
    varied = [key for key in varied if key not in ("experiment", "paths", "logger", "launcher", "dataset")]
    keys = sorted({key for group in groups for key in group.runs[0].config})
    for key in keys:
        covered = any(
            key == f"{name.replace('/', '.')}" or key.startswith(f"{name.replace('/', '.')}.") for name in varied
        )
        operational = any(key == name or key.startswith(f"{name}.") for name in hidden) or is_location(key)
        if not covered and not operational and len({str(group.runs[0].config.get(key)) for group in groups}) > 1:
            varied.append(key)
    return varied


def distinction(group: Group, key: str) -> str:
    """The group's value for a key of `distinctions`."""
    return group.first.choices.get(key, _written(group.runs[0].config.get(key)))


def _written(value: Any) -> str:
    """A value as it is written on a command line."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else str(value)
