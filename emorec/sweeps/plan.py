"""Plans a multirun: composes and checks its jobs, computes their features and identifies their runs."""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.config.composition import Composed, Composer
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.errors import UserError, choose, raise_interruption
from emorec.features.devices import release_memory
from emorec.runs.results import line_metrics
from emorec.storage.atomic import write_text
from emorec.sweeps.expansion import OF_LINES, expand, expand_folds, expand_lines, key_of
from emorec.sweeps.record import JobRecord
from emorec.training.lifecycle import finished_record
from emorec.training.run_context import prepare_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedJob:
    """A job and its config, which is `None` for an invalid job."""

    record: JobRecord
    composed: Composed[TrainConfig] | None


class Preparers:
    """One `DataPreparer` for each cache that the jobs of a multirun use."""

    def __init__(self) -> None:
        self._preparers: dict[tuple[Path, bool], DataPreparer] = {}

    def of(self, config: TrainConfig) -> DataPreparer:
        """The preparer for a config."""
        key = (config.paths.cache, config.extraction.verify)
        if key not in self._preparers:
            self._preparers[key] = DataPreparer.of(config)
        return self._preparers[key]

    def clear(self) -> None:
        """Frees their memory, also on a GPU."""
        self._preparers.clear()
        release_memory()


def plan(composer: Composer[TrainConfig], preparers: Preparers) -> list[PlannedJob]:
    """All jobs of a command line; a job whose config is wrong is marked as invalid."""
    planned: list[PlannedJob] = []
    waiting, lines = expand(composer.line.overrides), _Lines(composer)
    while waiting:
        overrides = waiting.pop(0)
        record, composed = JobRecord(len(planned) + 1, overrides), None
        try:
            if jobs := lines.jobs(overrides):
                waiting[:0] = jobs
                continue
            composed = composer.compose(overrides)
            if composed.wants_all_folds:
                folds = _count_folds(composed.for_fold(0).config, preparers)
                waiting[:0] = expand_folds(overrides, folds)
                continue
            _ = composed.config
        except UserError as error:
            raise_interruption(error)
            composed = None
            mark_invalid(record, str(error))
        planned.append(PlannedJob(record, composed))
    return planned


class _Lines:
    """The jobs that experiments such as `benchmark_demo` stand for."""

    def __init__(self, composer: Composer[TrainConfig]) -> None:
        self._composer = composer
        self._known: dict[tuple[str, ...], Composed[TrainConfig]] = {}  # {overrides that choose: what they compose to}

    def jobs(self, overrides: Sequence[str]) -> list[list[str]]:
        """The overrides of each job; empty where the overrides are those of a single one."""
        chosen = tuple(override for override in overrides if key_of(override) in OF_LINES)
        if not chosen:
            return []
        if chosen not in self._known:  # other overrides are for the jobs, whose configs may have other keys
            self._known[chosen] = self._composer.compose(chosen)
        composed = self._known[chosen]
        return expand_lines(composed.jobs, overrides, composed.values["sweep"]["name"]) if composed.jobs else []


def mark_invalid(record: JobRecord, error: str) -> None:
    """Marks a job as invalid and logs the error."""
    record.status, record.error = "invalid", error
    log.error("job %d is invalid: %s", record.number, error)


def _count_folds(config: TrainConfig, preparers: Preparers) -> int:
    preparer = preparers.of(config)
    corpus, _ = preparer.components(config)
    protocols = preparer.manifest(config, corpus).protocols
    return choose(protocols, corpus.protocol, f"dataset.protocol (dataset={corpus.name})").folds


def jobs_to_start(planned: Sequence[PlannedJob], preparers: Preparers, folder: Path) -> list[PlannedJob]:
    """Computes the features of all jobs and returns the jobs to start.

    The others are invalid or finished, or have the same run as an earlier job (`same_as`).
    """
    first: dict[Path, JobRecord] = {}  # {directory of the run: its first job}
    chosen = []
    for job in planned:
        if job.composed is None or not _prepare(job.record, job.composed, preparers, folder):
            continue
        assert job.record.run_id is not None
        run = job.composed.config.paths.checkpoints / job.record.run_id
        if run in first:
            job.record.same_as = first[run].number
            continue
        first[run] = job.record
        if job.record.status == "waiting":
            chosen.append(job)
    return chosen


def _prepare(record: JobRecord, composed: Composed[TrainConfig], preparers: Preparers, folder: Path) -> bool:
    """Computes missing features and identifies a job's run; false if that fails."""
    try:
        context = prepare_run(composed, preparers.of(composed.config), load_features=False)
        finished = finished_record(context)
    except UserError as error:
        raise_interruption(error)
        mark_invalid(record, str(error))
        return False
    except Exception as error:  # no error of one job stops the others
        raise_interruption(error)
        record.log = f"logs/{record.number}.txt"
        write_text(folder / record.log, traceback.format_exc())
        record.end("failed", f"{type(error).__name__}: {error}")
        log.error("job %d failed: %s (%s)", record.number, record.error, folder / record.log)
        return False
    record.run_id, record.status = context.identity.run_id, "waiting"
    if finished is not None:
        record.status, record.metrics = "finished", line_metrics(context.folder)
    return True
