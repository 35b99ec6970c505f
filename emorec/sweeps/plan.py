"""The jobs of a multirun before anything is started: composed, checked, their shared work done, their runs known."""

import copy
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emorec.config.composition import Composed, Composer
from emorec.runs.results import line_metrics
from emorec.loggers.factory import trackers
from emorec.training.lifecycle import finished_record, prepare
from emorec.training.validation import check_training
from emorec.datamodules.preparer import Workbench, workbench_for
from emorec.errors import UserError, choose
from emorec.features.devices import give_memory_back
from emorec.storage.atomic import write_text
from emorec.storage.digests import digest_of
from emorec.sweeps.expansion import ALL_FOLDS, expand, expand_folds
from emorec.sweeps.record import JobRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedJob:
    """A job and its config, `None` where it is invalid."""

    record: JobRecord
    composed: Composed | None


class Workbenches:
    """One workbench for each cache that the jobs of a multirun name."""

    def __init__(self) -> None:
        self._benches: dict[str, Workbench] = {}

    def of(self, config: Mapping[str, Any]) -> Workbench:
        """The workbench that a config asks for."""
        place = digest_of([config["paths"]["cache"], config["extraction"]["verify"]])
        if place not in self._benches:
            self._benches[place] = workbench_for(config)
        return self._benches[place]

    def clear(self) -> None:
        """Gives back what they hold, also of a GPU's memory."""
        self._benches.clear()
        give_memory_back()


def plan(composer: Composer, benches: Workbenches) -> list[PlannedJob]:
    """All jobs of a command line; one that does not compose, or asks for what cannot be trained, is invalid."""
    planned: list[PlannedJob] = []
    for overrides in expand(composer.line.overrides):
        for words, composed, error in _composed(composer, benches, overrides):
            record = JobRecord(len(planned) + 1, words)
            if error is not None:
                refuse(record, error)
            planned.append(PlannedJob(record, composed))
    return planned


def refuse(record: JobRecord, error: str) -> None:
    """Marks a job as invalid and says why."""
    record.status, record.error = "invalid", error
    log.error("job %d is invalid: %s", record.number, error)


def _composed(
    composer: Composer, benches: Workbenches, overrides: Sequence[str]
) -> Iterator[tuple[list[str], Composed | None, str | None]]:
    """(overrides, config, error) of a job, or of each of its folds."""
    words = list(overrides)
    try:
        composed = composer.compose(words)
        if (composed.config.get("dataset") or {}).get("fold") != ALL_FOLDS:
            check_training(composed.config)
            trackers(composed.config)
            yield words, composed, None
            return
        folds = _count_folds(composed.config, benches)
    except UserError as error:
        yield words, None, str(error)
        return
    for with_fold in expand_folds(words, folds):
        yield from _composed(composer, benches, with_fold)


def _count_folds(config: Mapping[str, Any], benches: Workbenches) -> int:
    config = copy.deepcopy(dict(config))
    config["dataset"]["fold"] = 0
    bench = benches.of(config)
    manifest, corpus = bench.manifest(config), bench.corpus(config)
    return choose(manifest.protocols, corpus.protocol, f"dataset.protocol (dataset={corpus.name})").folds


def to_start(planned: Sequence[PlannedJob], benches: Workbenches, folder: Path) -> list[PlannedJob]:
    """Does the jobs' shared work, so that they start warm, and returns those that are to be started.

    The others are invalid, or finished, or the run of an earlier job (`same_as`).
    """
    first: dict[Path, JobRecord] = {}  # by the run's directory
    chosen = []
    for job in planned:
        if job.composed is None or not _prepared(job.record, job.composed, benches, folder):
            continue
        run_id = job.record.run_id
        assert run_id is not None
        run = Path(job.composed.config["paths"]["checkpoints"]) / run_id
        if run in first:
            job.record.same_as = first[run].number
            continue
        first[run] = job.record
        if job.record.status == "waiting":
            chosen.append(job)
    return chosen


def _prepared(record: JobRecord, composed: Composed, benches: Workbenches, folder: Path) -> bool:
    """Computes missing features and finds a job's run; false where that fails."""
    try:
        job = prepare(composed, benches.of(composed.config), loads=False)
        finished = finished_record(job)
    except UserError as error:
        refuse(record, str(error))
        return False
    except Exception as error:  # whatever breaks one job, the others go on
        record.log = f"logs/{record.number}.txt"
        write_text(folder / record.log, traceback.format_exc())
        record.end("failed", f"{type(error).__name__}: {error}")
        log.error("job %d failed: %s (%s)", record.number, record.error, folder / record.log)
        return False
    record.run_id = job.identity.run_id
    record.status = "waiting" if finished is None else "finished"
    if finished is not None:
        record.metrics = line_metrics(job.folder)
    return True
