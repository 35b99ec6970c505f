"""One run from its config to its directory, whoever else is at it and whatever became of it before."""

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emorec.training.attempt import begin, carry_out, read_test_later, stay_in_sweep, train_on_ranks
from emorec.models.builder import check_parts
from emorec.config.composition import Composed
from emorec.training.fit import fit
from emorec.training.run_context import Job, now
from emorec.datamodules.leakage import check_apart
from emorec.runs.logs import RUN_LOG_ONLY, log_to, quiet
from emorec.datamodules.prepared_data import identify_run
from emorec.training.distributed import (
    Order,
    follow_leader,
    hear_order,
    outer_rank,
    own_order,
    tell_ranks,
    world_size,
)
from emorec.runs.results import read_metrics, result_line
from emorec.loggers.factory import trackers
from emorec.training.validation import (
    check_classes,
    check_devices,
    check_loss,
    check_monitor,
    check_ranks,
    check_training,
)
from emorec.datamodules.preparer import Workbench
from emorec.errors import UserError
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore, RunRecord
from emorec.loggers.base import RunObserver
from emorec.training.preemption import Preemption
from emorec.runs.provenance import source_digest
from emorec.storage.atomic import make_folder
from emorec.storage.claims import Claim, Holder, acquire, read_holder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        run_id: the run.
        status: its status, or "skipped" where somebody else runs it.
        folder: its directory.
        line: what is printed.
        trained: whether it was worked on now.
    """

    run_id: str
    status: str
    folder: Path
    line: str
    trained: bool = False


def train(composed: Composed, workbench: Workbench, observers: Sequence[RunObserver] = ()) -> Outcome:
    """Makes sure that the run of a config is finished, and returns what became of it.

    Args:
        composed: the config.
        workbench: what the runs of this process share.
        observers: watch the run where it is trained now, beside the config's own trackers.

    A finished run is only told of; an interrupted one goes on from its newest state; a failed one starts again; one
    that somebody else runs is waited for, or skipped.

    Raises:
        UserError: the config, the data or the store is not as it must be.
    """
    with Preemption() as preemption:
        order = own_order()
        if order is not None and order.leader is not None:
            follow_leader(order.leader)
        rank = outer_rank(composed.config)
        with quiet(order is not None or bool(rank)):  # whoever leads has said it, or will
            leads = order is None and rank is None and world_size(composed.config) > 1
            job = prepare(composed, workbench, loads=not leads)
        if order is None and rank:
            order = hear_order(job.identity.run_id)
        if order is not None:
            return _work_as_rank(job, order, observers, preemption)
        try:
            return _train_or_tell(job, observers, preemption)
        except (UserError, OSError):  # the other ranks wait to hear what to do
            if rank is not None:
                tell_ranks(job.identity.run_id, Order(trains=False))
            raise


def prepare(composed: Composed, workbench: Workbench, *, loads: bool = True) -> Job:
    """Checks a config, computes the features that it lacks, and names its run.

    Args:
        composed: the config.
        workbench: what the runs of this process share.
        loads: whether features are loaded as the config says; not in a process that leaves training to others.

    Raises:
        UserError: the config or the data is not as it must be.
    """
    check_training(composed.config)
    trackers(composed.config)  # a logger that cannot be is told of before anything is computed
    task = workbench.task(composed.config)
    check_loss(composed.config["loss"], task)
    check_monitor(task)
    check_parts(composed.config, task)
    features = composed.config["features"] if loads else {**composed.config["features"], "preload": "none"}
    data = workbench.data({**composed.config, "features": features})
    check_classes(task, data.splits)
    check_ranks(data.splits, world_size(composed.config))
    check_apart(data)
    store = CheckpointStore(Path(composed.config["paths"]["checkpoints"]))
    return Job(composed, data, identify_run(composed, data), store)


def finished_record(job: Job) -> RunRecord | None:
    """The record of a run that has nothing left to do, else `None`."""
    record = job.store.check_identity(job.identity)
    return record if record is not None and _is_done(record, job) else None


def _work_as_rank(job: Job, order: Order, observers: Sequence[RunObserver], preemption: Preemption) -> Outcome:
    """Takes part in a run that another process leads: rank 0 keeps its record, the others only train."""
    run_id, state = job.identity.run_id, None if order.state is None else Path(order.state)
    record = job.store.read(run_id)
    if record is None or not order.trains:
        return Outcome(run_id, "skipped" if record is None else record.status, job.folder, "")

    def owned() -> bool:  # an error of ours may be of a rank that has seen before us that the leader is gone
        return order.leader is None or os.getppid() == order.leader

    if os.environ["RANK"] == "0":
        with log_to(job.folder / "log.txt"):
            watching = [*trackers(job.composed.config), *observers]
            record = carry_out(job, record, state, owned=owned, observers=watching, preemption=preemption)
            job.store.write(replace(record, ended=now()))
    else:
        with quiet():
            fit(job, record, state, owned=owned, preemption=preemption)
    return Outcome(run_id, record.status, job.folder, "")


def _train_or_tell(job: Job, observers: Sequence[RunObserver], preemption: Preemption) -> Outcome:
    store, outer = job.store, outer_rank(job.composed.config) is not None
    record = store.check_identity(job.identity)
    if record is None or not _is_done(record, job):
        check_devices(job.composed.config["trainer"])  # only now: what is finished is told of anywhere
        make_folder(job.folder)
        claim = _claim(job)
        if claim is None:
            if outer:
                tell_ranks(job.identity.run_id, Order(trains=False))
            line = f"run {job.identity.run_id}  skipped: {read_holder(job.folder / CLAIM)} runs it  {job.folder}"
            return Outcome(job.identity.run_id, "skipped", job.folder, line)
        with claim:
            record = store.check_identity(job.identity)
            if record is None or not _is_done(record, job):
                return _run(job, record, claim, observers, preemption)
    if outer:
        tell_ranks(job.identity.run_id, Order(trains=False))
    _tell_finished(record, job)
    return Outcome(record.run_id, record.status, job.folder, result_line(record, job.folder))


def _is_done(record: RunRecord, job: Job) -> bool:
    config = job.composed.config
    if record.status != "finished" or config["rerun"]:
        return False
    return not config["test"] or "test/loss" in read_metrics(job.folder)


def _tell_finished(record: RunRecord, job: Job) -> None:
    log.info("run %s is finished (%s)", record.run_id, record.ended)
    if record.provenance.get("source") != source_digest():
        log.warning("run %s was made by other code of emorec; rerun=true trains it anew", record.run_id)


def _claim(job: Job) -> Claim | None:
    """The claim of the run; `None` where somebody else holds it and `on_running` is "skip"."""
    config, told = job.composed.config, set[Holder]()

    def waiting(holder: Holder | None) -> bool:
        if config["on_running"] == "skip":
            return False
        if holder is not None and holder not in told:
            told.add(holder)
            log.info("run %s is run by %s: waiting for it (on_running=skip goes on)", job.identity.run_id, holder)
        return True

    return acquire(job.folder / CLAIM, stale_after=config["extraction"]["stale_after"], waiting=waiting)


def _run(
    job: Job, earlier: RunRecord | None, claim: Claim, observers: Sequence[RunObserver], preemption: Preemption
) -> Outcome:
    """Runs a claimed run: trains it, or only reads test where that is all that is missing."""
    config = job.composed.config
    only_test = earlier is not None and earlier.status == "finished" and not config["rerun"]
    resumes = earlier is not None and earlier.status in ("running", "interrupted") and not config["rerun"]
    folder = job.store.prepare(job.identity.run_id, keep_resume=resumes or only_test)
    if resumes or only_test:
        stay_in_sweep(job)
    with log_to(folder / "log.txt"):
        if only_test and earlier is not None:
            if outer_rank(config) is not None:
                tell_ranks(job.identity.run_id, Order(trains=False))
            record = earlier
            read_test_later(job, record)
        else:
            record = job.new_record(earlier, resumes=resumes)
            state = begin(job, record, resumes=resumes)
            if world_size(config) > 1:
                record = train_on_ranks(job, record, state, claim, observers=observers, preemption=preemption)
            else:
                watching = [*trackers(config), *observers]
                record = carry_out(
                    job, record, state, owned=lambda: not claim.lost, observers=watching, preemption=preemption
                )
        record = replace(record, ended=now())
        job.store.write(record)
        shutil.rmtree(folder / "resume", ignore_errors=True)  # only now: a kill before this resumes
        line = result_line(record, folder)
        log.info("%s", line, extra=RUN_LOG_ONLY)
    return Outcome(record.run_id, record.status, folder, line, trained=True)
