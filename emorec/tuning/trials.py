"""The trials of a study: each is an ordinary run, whose config is the command line's with values drawn for it."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emorec.config.composition import Composed, Composer
from emorec.config.locations import config_folder
from emorec.config.schema import TrainConfig, TuneConfig
from emorec.config.validation import build
from emorec.datamodules.preparer import DataPreparer
from emorec.errors import Preempted, UserError, raise_interruption, raise_problems
from emorec.loggers.base import RunLogger, StopRun
from emorec.models.automatic_loss import task_of
from emorec.runs.checkpoint_store import RunRecord
from emorec.runs.results import read_metrics, scalar_metrics
from emorec.training.lifecycle import train
from emorec.tuning.experiment_file import Experiment, defining, write_experiment
from emorec.tuning.search_space import Entry, check_keys, hydra_override, key_of, parse_space, top_key
from emorec.tuning.study import Definition, Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

V = TypeVar("V")
OWN_KEYS = ("study", "search")  # of the config of `emorec tune`, not of a trial's
log = logging.getLogger(__name__)


def _without_own(mapping: Mapping[str, V]) -> dict[str, V]:
    return {key: value for key, value in mapping.items() if key not in OWN_KEYS}


@dataclass(frozen=True)
class Search:
    """What a worker needs for its trials."""

    composer: Composer[TuneConfig]
    entries: list[Entry]
    study: Study
    monitor: str  # what a trial is judged by, such as "val/uar"
    preparer: DataPreparer  # what the runs share

    def trial_config(self, parameters: Mapping[str, Any]) -> Composed[TrainConfig]:
        """The config of a trial's run: that of `emorec train` with the same overrides."""
        given = self.composer.line.overrides
        drawn = [hydra_override(key, value) for key, value in parameters.items()]
        composed = self.composer.compose([*given, *drawn, "on_running=wait"])
        kept = [override for override in given if top_key(key_of(override)) not in OWN_KEYS]
        return Composed(
            schema=TrainConfig,
            values=_without_own(composed.values),
            choices=_without_own(composed.choices),
            overrides=[*kept, *drawn, "test=false"],
            config_dir=composed.config_dir,
        )


def prepare_search(composer: Composer[TuneConfig]) -> Search:
    """Checks everything before the first trial, and joins the study.

    Raises:
        UserError: lists everything in the config that does not fit.
    """
    base = composer.compose(composer.line.overrides)
    entries = _checked_space(composer, base)
    config = base.config
    preparer = DataPreparer.of(config)
    corpus, _ = preparer.components(config)
    manifest = preparer.manifest(config, corpus)
    task = task_of(config, corpus, manifest)
    definition: Definition = {
        "objective": {"monitor": task.monitor, "direction": task.direction},
        "corpus": {"digest": manifest.digest},
        "search": {entry.key: entry.settings for entry in entries},
        "study": {name: getattr(config.study, name) for name in ("seed", "startup", "pruner", "warmup")},
        "config": defining(_without_own(base.values)),
    }
    folder = config.paths.checkpoints.absolute() / "studies" / config.study.name
    stale_after = config.extraction.stale_after
    study = Study(folder, config.study, direction=task.direction, definition=definition, stale_after=stale_after)
    return Search(composer, entries, study, f"val/{task.monitor}", preparer)


def _checked_space(composer: Composer[TuneConfig], base: Composed[TuneConfig]) -> list[Entry]:
    """The search space of a config; everything in the config that does not fit is in one `UserError`."""
    line, values, problems = composer.line, base.values, list[str]()
    build(TuneConfig, values, "", problems)
    is_valid = not problems  # else each value of the search space would be refused as well
    name = str(values["study"].get("name"))
    folders = [config_folder(), *([Path(line.config_dir)] if line.config_dir else [])]
    taken = [path for folder in folders if (path := folder / "experiment" / f"{name}.yaml").is_file()]
    if taken:
        problems.append(f"study.name: expected a name that no experiment has, got {name!r} ({taken[0]})")
    entries = parse_space(values.get("search") or {}, problems)
    given = list(map(key_of, line.overrides))
    wrong = check_keys(entries, config=_without_own(values), groups=_without_own(base.choices), given=given)
    reported = {message.partition(":")[0] for message in (*problems, *wrong)}
    sound = [entry for entry in entries if f"search.{entry.key}" not in reported]
    refused = _refused_values(composer, sound) if is_valid else []
    raise_problems("the study", [*problems, *wrong, *refused])
    return entries


def _refused_values(composer: Composer[TuneConfig], entries: Sequence[Entry]) -> list[str]:
    """A line for each choice, and each end of a range, that does not fit the config."""
    overrides = [[hydra_override(entry.key, value) for value in entry.values] for entry in entries]
    rounds = zip_longest(*overrides)  # one value of each key: to compose a config for each value would take seconds
    if not any(_refusal(composer, [override for override in drawn if override is not None]) for drawn in rounds):
        return []
    return [
        f"search.{entry.key}: {problem}"
        for entry, own in zip(entries, overrides, strict=True)
        for override in own
        if (problem := _refusal(composer, [override])) is not None
    ]


def _refusal(composer: Composer[TuneConfig], drawn: Sequence[str]) -> str | None:
    """Why the config does not take some overrides, in one line; `None` where it does."""
    try:
        _ = composer.compose([*composer.line.overrides, *drawn]).config
    except UserError as error:
        return " ".join(str(error).split())
    return None


class StudyLogger(RunLogger):
    """Reports each epoch of a trial's run to the study, and ends the run when the study prunes it."""

    def __init__(self, trial: "Trial", monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        self.trial.set_user_attr("run_id", record.run_id)

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        for row in rows:
            self._report(row)

    def _report(self, row: Mapping[str, float]) -> None:
        if math.isfinite(row[self.monitor]):  # a run that keeps diverging fails at its end
            self.trial.report(row[self.monitor], step=int(row["epoch"]) + 1)

    def epoch(self, row: Mapping[str, float]) -> None:
        self._report(row)
        value, epochs = row[self.monitor], int(row["epoch"]) + 1
        if math.isfinite(value) and self.trial.should_prune():
            raise StopRun(f"pruned after {epochs} epochs at {self.monitor}={value:.4f}")


def run_trial(search: Search, trial: "Trial") -> None:
    """Trains the run of a trial, or takes the result of a finished one, and reports it to the study."""
    study, values = search.study, " ".join(f"{key}={short(value)}" for key, value in trial.params.items())
    try:
        composed = search.trial_config(trial.params)
        outcome = train(composed, search.preparer, loggers=[StudyLogger(trial, search.monitor)])
        metrics = scalar_metrics(read_metrics(outcome.folder))
        if search.monitor not in metrics:
            raise UserError(f"expected a finite {search.monitor} in {outcome.folder / 'metrics.json'}")
        value = metrics[search.monitor]
        study.tell(trial, value, outcome.run_id)
        log.info("trial %d  %s=%.4f  run %s  %s", trial.number, search.monitor, value, outcome.run_id, values)
    except StopRun as stopped:
        study.tell_pruned(trial)
        log.info("trial %d  %s  run %s  %s", trial.number, stopped, trial.user_attrs.get("run_id"), values)
    except (KeyboardInterrupt, Preempted, OSError):  # an OSError, such as a full disk, would break all that follow
        study.give_up(trial)
        raise
    except Exception as error:  # whatever breaks one trial, the study goes on; the run's log keeps the traceback
        raise_interruption(error)
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        study.tell_failed(trial, message)
        log.error("trial %d  failed: %s  %s", trial.number, message, values)
    else:
        if [best.number for best in study.complete()[:1]] == [trial.number]:
            write_best(search)  # now, for a worker may be killed at any time


def write_best(search: Search) -> Experiment | None:
    """Writes the best trial's config as an experiment; `None` where no trial is complete."""
    complete = search.study.complete()
    if not complete:
        return None
    best, name = complete[0], search.study.settings.name
    note = f"The best of study {name}: trial {best.number}, {search.monitor}={best.value:.4f}, run {run_of(best)}."
    keys = [*map(key_of, search.composer.line.overrides), *best.params]
    composed, folder = search.trial_config(best.params), search.study.folder
    experiment = write_experiment(search.composer, composed, folder=folder, name=name, note=note, keys=keys)
    if experiment.differences:
        differences, path = ", ".join(experiment.differences), experiment.path
        log.warning("%s does not compose to the whole config of the trial: it differs in %s", path, differences)
    return experiment


def run_of(trial: "FrozenTrial") -> str:
    """The id of a trial's run; empty where the trial never had one."""
    return str(trial.user_attrs.get("run_id", ""))


def short(value: Any) -> str:
    """A value of the search space, for a line or a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
