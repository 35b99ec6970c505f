"""The trials of a study: each is an ordinary run, whose config is the command line's with values drawn for it."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.tuning.experiment_file import Experiment, defining, key_of, write_experiment
from emorec.config.composition import Composed, Composer
from emorec.runs.results import read_metrics
from emorec.loggers.factory import trackers
from emorec.training.lifecycle import train
from emorec.training.validation import check_training
from emorec.datamodules.preparer import Workbench, workbench_for
from emorec.config.instantiation import config_folder
from emorec.errors import Preempted, UserError, raise_problems
from emorec.runs.checkpoint_store import RunRecord
from emorec.loggers.base import RunObserver, StopRun
from emorec.tuning.search_space import Entry, check_keys, hydra_override, parse_space
from emorec.tuning.study import Study, StudySettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

OWN_KEYS = ("study", "search")  # of the config of `emorec tune`: no part of a trial's
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What a worker needs for its trials.

    Attributes:
        composer: of the command line.
        base: the config that the trials' values are laid over.
        entries: the search space.
        study: open.
        monitor: what a trial is judged by, such as "val/uar".
        workbench: what the runs share.
    """

    composer: Composer
    base: Composed
    entries: list[Entry]
    study: Study
    monitor: str
    workbench: Workbench

    def trial_config(self, parameters: Mapping[str, Any]) -> Composed:
        """The config of a trial's run: that of `emorec train` with the same overrides."""
        given = self.composer.line.overrides
        drawn = [hydra_override(key, value) for key, value in parameters.items()]
        composed = self.composer.compose([*given, *drawn, "on_running=wait"])
        told = [word for word in given if key_of(word).partition(".")[0] not in OWN_KEYS]
        return Composed(
            config={key: value for key, value in composed.config.items() if key not in OWN_KEYS},
            choices={group: name for group, name in composed.choices.items() if group not in OWN_KEYS},
            overrides=[*told, *drawn, "test=false"],
        )


def prepare(open_composer: Composer) -> Search:
    """Checks everything before the first trial, and joins the study."""
    base = open_composer.compose(open_composer.line.overrides)
    settings, entries = _checked(open_composer, base)

    config = base.config
    check_training(config)
    trackers(config)
    workbench = workbench_for(config)
    manifest = workbench.manifest(config)
    task = workbench.corpus(config).chosen_task(manifest)
    definition: dict[str, dict[str, Any]] = {
        "objective": {"monitor": task.monitor, "direction": task.direction},
        "corpus": {"digest": manifest.digest},
        "search": {entry.key: entry.settings for entry in entries},
        "study": {name: getattr(settings, name) for name in ("seed", "startup", "pruner", "warmup")},
        "config": defining({key: value for key, value in config.items() if key not in OWN_KEYS}),
    }
    folder = Path(config["paths"]["checkpoints"]).absolute() / "studies" / settings.name
    stale_after = config["extraction"]["stale_after"]
    study = Study(folder, settings, direction=task.direction, definition=definition, stale_after=stale_after)
    return Search(open_composer, base, entries, study, f"val/{task.monitor}", workbench)


def _checked(open_composer: Composer, base: Composed) -> tuple[StudySettings, list[Entry]]:
    """The study's settings and its search space.

    Raises:
        UserError: lists everything that is not as it must be.
    """
    config, line = base.config, open_composer.line
    known = {item.name for item in fields(StudySettings)}
    if set(config["study"]) != known:
        raise UserError(f"expected study to have {sorted(known)}, got {sorted(config['study'])}")
    settings = StudySettings(**config["study"])
    problems = settings.problems()
    folders = [config_folder(), *([Path(line.config_dir)] if line.config_dir else [])]
    taken = [folder for folder in folders if (folder / "experiment" / f"{settings.name}.yaml").is_file()]
    if taken:
        problems.append(f"expected study.name to be no experiment that is there, got {settings.name!r} ({taken[0]})")
    if config["test"]:
        problems.append("expected test=false, for tuning leaves the test split alone, got test=true")
    if (launcher := base.choices.get("launcher", "basic")) != "basic":
        more = "a worker trains its trials itself, and each further start of the command is one more worker"
        problems.append(f"expected launcher=basic, for {more}, got {launcher!r}")
    if (devices := config["trainer"]["devices"]) != 1:
        problems.append(f"expected trainer.devices=1, for pruning looks at one process, got {devices}")
    entries = parse_space(config.get("search") or {}, problems)
    groups = {group: name for group, name in base.choices.items() if group not in OWN_KEYS}
    plain = {key: value for key, value in config.items() if key not in OWN_KEYS}
    wrong = check_keys(entries, config=plain, groups=groups, given=[key_of(word) for word in line.overrides])
    told = {line.partition(":")[0] for line in (*problems, *wrong)}
    sound = [entry for entry in entries if f"search.{entry.key}" not in told]
    refused = _refused_values(open_composer, sound) if settings.name else []  # without a name nothing composes
    raise_problems("the study", [*problems, *wrong, *refused])
    return settings, entries


def _refused_values(open_composer: Composer, entries: Sequence[Entry]) -> list[str]:
    """A line for each choice, and each end of a range, that cannot be composed or trained."""
    problems = []
    for entry in entries:
        values = entry.settings.get("values") or [entry.settings["low"], entry.settings["high"]]
        for value in values:
            try:
                composed = open_composer.compose([*open_composer.line.overrides, hydra_override(entry.key, value)])
                check_training(composed.config)
            except UserError as error:
                problems.append(f"search.{entry.key}: {' '.join(str(error).split())}")
    return problems


class ReportToStudy(RunObserver):
    """Tells a study of each epoch of a trial's run, and ends the run when the study has seen enough.

    Args:
        trial: of the study.
        monitor: such as "val/uar".
    """

    def __init__(self, trial: "Trial", monitor: str) -> None:
        self.trial, self.monitor = trial, monitor

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        self.trial.set_user_attr("run_id", record.run_id)

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        for row in rows:
            self._report(row)

    def _report(self, row: Mapping[str, float]) -> None:
        if math.isfinite(row[self.monitor]):  # a run that diverges for good fails at its end
            self.trial.report(row[self.monitor], step=int(row["epoch"]) + 1)

    def epoch(self, row: Mapping[str, float]) -> None:
        self._report(row)
        value, epochs = row[self.monitor], int(row["epoch"]) + 1
        if math.isfinite(value) and self.trial.should_prune():
            raise StopRun(f"pruned after {epochs} epochs at {self.monitor}={value:.4f}")


def try_out(search: Search, trial: "Trial") -> None:
    """Trains the run of a trial, or takes the result of one that is finished; tells the study."""
    study, told = search.study, " ".join(f"{key}={short(value)}" for key, value in trial.params.items())
    try:
        composed = search.trial_config(trial.params)
        outcome = train(composed, search.workbench, observers=[ReportToStudy(trial, search.monitor)])
        value = float(read_metrics(outcome.folder)[search.monitor])
        study.tell(trial, value, outcome.run_id)
        log.info("trial %d  %s=%.4f  run %s  %s", trial.number, search.monitor, value, outcome.run_id, told)
    except StopRun as stopped:
        study.tell_pruned(trial)
        log.info("trial %d  %s  run %s  %s", trial.number, stopped, trial.user_attrs.get("run_id"), told)
    except (KeyboardInterrupt, Preempted, OSError):  # an OSError, such as a full disk, would break all that follow
        study.give_up(trial)
        raise
    except Exception as error:  # whatever breaks one trial, the study goes on; the run's log keeps the traceback
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        study.tell_failed(trial, message)
        log.error("trial %d  failed: %s  %s", trial.number, message, told)
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
    given = [key_of(word) for word in search.composer.line.overrides]
    experiment = write_experiment(
        search.composer,
        search.trial_config(best.params),
        folder=search.study.folder,
        name=name,
        note=note,
        keys=[*given, *best.params],
    )
    if experiment.differences:
        log.warning("%s does not tell all: it differs in %s", experiment.path, ", ".join(experiment.differences))
    return experiment


def run_of(trial: "FrozenTrial") -> str:
    """The id of a trial's run; empty where it never came to one."""
    return str(trial.user_attrs.get("run_id", ""))


def short(value: Any) -> str:
    """A value of the search space, for a line or a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
