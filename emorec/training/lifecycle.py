"""Brings the run of a config to its end, whatever state it is in and whoever else works on it."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emorec.config.composition import Composed
from emorec.config.schema import TrainConfig
from emorec.datamodules.preparer import DataPreparer
from emorec.errors import UserError
from emorec.loggers.base import RunLogger
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore, RunRecord
from emorec.runs.logs import RUN_LOG_ONLY, log_to, quiet
from emorec.runs.provenance import source_digest
from emorec.runs.results import read_metrics, result_line
from emorec.storage.atomic import make_folder
from emorec.storage.claims import Claim, Holder, acquire, read_holder
from emorec.training.attempt import begin, keep_sweep, read_test_later, train_attempt, train_here
from emorec.training.distributed import (
    Assignment,
    exit_with_parent,
    external_rank,
    own_assignment,
    receive_assignment,
    send_assignment,
)
from emorec.training.fit import fit
from emorec.training.preemption import Preemption
from emorec.training.processes import forks, is_parent_alive, start_warm_parent
from emorec.training.publishing import lacks_backbones
from emorec.training.run_context import RunContext, now, prepare_run
from emorec.training.trainer import check_devices

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of `train`."""

    run_id: str
    status: str  # of the run, or "skipped" where another process runs it
    folder: Path
    line: str  # what is printed
    trained: bool = False  # whether this call trained it


def finished_run(composed: Composed[TrainConfig], preparer: DataPreparer) -> tuple[RunRecord, Path]:
    """Trains as `train` does, and logs the line of the run; returns its record and folder.

    Raises:
        UserError: as `train`, and where the run is not finished.
    """
    outcome = train(composed, preparer)
    record = CheckpointStore(composed.config.paths.checkpoints).read(outcome.run_id)
    if record is None or outcome.status != "finished":
        raise UserError(f"expected a finished run, got {outcome.line or outcome.run_id}")
    log.info("%s", outcome.line)
    return record, outcome.folder


def train(composed: Composed[TrainConfig], preparer: DataPreparer, loggers: Sequence[RunLogger] = ()) -> Outcome:
    """Makes sure that the run of a config is finished.

    A finished run is reported; an interrupted one resumes from its newest state; a failed one starts again; one that
    another process runs is waited for, or skipped.

    Args:
        composed: the config.
        preparer: what the runs of this process share.
        loggers: log the run, beside the config's own loggers.

    Raises:
        UserError: the config, the data or the store is not as expected.
    """
    with Preemption() as preemption:
        assignment = own_assignment()
        if assignment is not None and assignment.parent is not None:
            exit_with_parent(assignment.parent)
        settings = composed.config.trainer
        rank = external_rank(settings)
        with quiet(assignment is not None or bool(rank)):  # rank 0, or the parent, says it
            launches = assignment is None and rank is None and settings.world_size > 1
            if launches and forks():
                start_warm_parent()  # of the ranks; it imports while this process prepares the run
            context = prepare_run(composed, preparer, loggers, load_features=not launches)
        if assignment is None and rank:
            assignment = receive_assignment(context.identity.run_id)
        if assignment is not None:
            return _work_as_rank(context, assignment, preemption)
        try:
            return _train_or_report(context, preemption)
        except (UserError, OSError):
            _release_ranks(context)
            raise


def finished_record(context: RunContext) -> RunRecord | None:
    """The record of a run that has nothing left to do, else `None`."""
    record = context.store.check_identity(context.identity)
    if record is None or record.status != "finished" or context.config.rerun:
        return None
    lacks_test = context.reads_test and "test/loss" not in read_metrics(context.folder)
    return None if lacks_test else record


def _release_ranks(context: RunContext) -> None:
    """Tells ranks that torchrun or Slurm has started that there is nothing to train."""
    if external_rank(context.config.trainer) is not None:
        send_assignment(context.identity.run_id, Assignment(trains=False))


def _work_as_rank(context: RunContext, assignment: Assignment, preemption: Preemption) -> Outcome:
    """Trains as one rank of a run whose claim another process holds: rank 0 keeps the record."""
    run_id, state = context.identity.run_id, None if assignment.state is None else Path(assignment.state)
    record = context.store.read(run_id)
    if record is None or not assignment.trains:
        return Outcome(run_id, "skipped" if record is None else record.status, context.folder, "")

    def owned() -> bool:  # an error here may come from a rank that noticed first that the parent is gone
        return assignment.parent is None or is_parent_alive(assignment.parent)

    if os.environ["RANK"] == "0":
        with log_to(context.folder / "log.txt"):
            record = train_here(context, record, state, owned=owned, preemption=preemption)
            context.store.write(replace(record, ended=now()))
    else:
        with quiet():
            fit(context, record, state, owned=owned, preemption=preemption)
    return Outcome(run_id, record.status, context.folder, "")


def _train_or_report(context: RunContext, preemption: Preemption) -> Outcome:
    record = finished_record(context)
    if record is None:
        check_devices(context.config.trainer)  # only now: a finished run is reported on any machine
        make_folder(context.folder)
        claim = _claim(context)
        if claim is None:
            _release_ranks(context)
            run_id, holder = context.identity.run_id, read_holder(context.folder / CLAIM)
            line = f"run {run_id}  skipped: {holder} runs it  {context.folder}"
            return Outcome(run_id, "skipped", context.folder, line)
        with claim:
            record = finished_record(context)
            if record is None:
                earlier = context.store.check_identity(context.identity)
                return _run(context, earlier, claim, preemption)
    _release_ranks(context)
    log.info("run %s is finished (%s)", record.run_id, record.ended)
    if lacks_backbones(context, record):
        log.warning("checkpoint.backbone=link stores nothing with a finished run; rerun=true trains it again")
    if record.provenance.get("source") != source_digest():
        log.warning("run %s was made by another version of emorec; rerun=true trains it again", record.run_id)
    return Outcome(record.run_id, record.status, context.folder, result_line(record, context.folder))


def _claim(context: RunContext) -> Claim | None:
    """The claim of the run; `None` where another process holds it and `on_running` is "skip"."""
    run_id, known = context.identity.run_id, set[Holder]()

    def waiting(holder: Holder | None) -> bool:
        if context.config.on_running == "skip":
            return False
        if holder is not None and holder not in known:
            known.add(holder)
            log.info("run %s is run by %s: waiting for it (on_running=skip does not wait)", run_id, holder)
        return True

    return acquire(context.folder / CLAIM, stale_after=context.config.extraction.stale_after, waiting=waiting)


def _run(context: RunContext, earlier: RunRecord | None, claim: Claim, preemption: Preemption) -> Outcome:
    """Works on a run whose claim is held: trains it, or only reads test where that is all that is missing."""
    rerun = context.config.rerun
    only_test = earlier is not None and earlier.status == "finished" and not rerun
    resumes = earlier is not None and earlier.status in ("running", "interrupted") and not rerun
    folder = context.store.prepare(context.identity.run_id, keep_resume=resumes or only_test)
    if resumes or only_test:
        context = replace(context, composed=keep_sweep(context.composed, folder))
    with log_to(folder / "log.txt"):
        if only_test and earlier is not None:
            _release_ranks(context)
            record = earlier
            read_test_later(context, record)
        else:
            record = context.new_record(earlier, resumes=resumes)
            state = begin(context, record, resumes=resumes)
            record = train_attempt(context, record, state, claim, preemption)
        record = replace(record, ended=now())
        context.store.write(record)
        shutil.rmtree(folder / "resume", ignore_errors=True)  # only now: after a kill before this the run resumes
        line = result_line(record, folder)
        log.info("%s", line, extra=RUN_LOG_ONLY)
    return Outcome(record.run_id, record.status, folder, line, trained=True)
