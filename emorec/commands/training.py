"""One run from its config to its directory, whoever else is at it and whatever became of it before."""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from emorec.commands.composition import Composed
from emorec.commands.fitting import fit, read_test
from emorec.commands.job import Job, now
from emorec.commands.leakage import check_apart, splits_csv
from emorec.commands.logs import RUN_LOG_ONLY, log_to, quiet
from emorec.commands.ranks import (
    Order,
    follow_leader,
    hear_order,
    outer_rank,
    own_order,
    run_ranks,
    tell_ranks,
    world_size,
)
from emorec.commands.results import read_metrics, result_line
from emorec.commands.trackers import trackers
from emorec.commands.validation import check_classes, check_devices, check_loss, check_monitor, check_training
from emorec.commands.workbench import Workbench, identify_run
from emorec.errors import Preempted
from emorec.runs.checkpoint_store import CLAIM, CheckpointStore, RunRecord
from emorec.runs.observer import RunObserver, StopRun
from emorec.runs.preemption import Preemption
from emorec.runs.provenance import source_digest
from emorec.runs.resume import newest_state
from emorec.storage.atomic import make_folder, write_text
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
            job = prepare(composed, workbench)
        if order is None and rank:
            order = hear_order(job.identity.run_id)
        if order is not None:
            return _work_as_rank(job, order, observers, preemption)
        return _train_or_tell(job, observers, preemption)


def prepare(composed: Composed, workbench: Workbench) -> Job:
    """Checks a config, computes the features that it lacks, and names its run.

    Raises:
        UserError: the config or the data is not as it must be.
    """
    check_training(composed.config)
    trackers(composed.config)  # a logger that cannot be is told of before anything is computed
    data = workbench.data(composed.config)
    check_loss(composed.config["loss"], data.task)
    check_classes(data.task, data.splits["train"])
    check_monitor(data.task)
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
    assert record is not None

    def owned() -> bool:  # an error of ours may be of a rank that has seen before us that the leader is gone
        return order.leader is None or os.getppid() == order.leader

    if order.trains and os.environ["RANK"] == "0":
        with log_to(job.folder / "log.txt"):
            watching = [*trackers(job.composed.config), *observers]
            record = _carry_out(job, record, state, owned=owned, observers=watching, preemption=preemption)
            job.store.write(replace(record, ended=now()))
    elif order.trains:
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
        _stay_in_sweep(job)
    with log_to(folder / "log.txt"):
        if only_test and earlier is not None:
            if outer_rank(config) is not None:
                tell_ranks(job.identity.run_id, Order(trains=False))
            record = earlier
            _read_test(job, record)
        else:
            record = job.new_record(earlier, resumes=resumes)
            state = _begin(job, record, resumes=resumes)
            if world_size(config) > 1:
                record = _train_on_ranks(job, record, state, claim, observers=observers, preemption=preemption)
            else:
                watching = [*trackers(config), *observers]
                record = _carry_out(
                    job, record, state, owned=lambda: not claim.lost, observers=watching, preemption=preemption
                )
        record = replace(record, ended=now())
        job.store.write(record)
        shutil.rmtree(folder / "resume", ignore_errors=True)  # only now: a kill before this resumes
        line = result_line(record, folder)
        log.info("%s", line, extra=RUN_LOG_ONLY)
    return Outcome(record.run_id, record.status, folder, line, trained=True)


def _stay_in_sweep(job: Job) -> None:
    """A run that goes on stays in the sweep, and so in the group of its trackers, in which it began, unless another is
    named."""
    config, stored = job.composed.config, job.folder / "config.yaml"
    if stored.is_file() and not any(word.startswith("sweep.name=") for word in job.composed.overrides):
        config["sweep"] = {**config["sweep"], "name": OmegaConf.select(OmegaConf.load(stored), "sweep.name")}


def _read_test(job: Job, record: RunRecord) -> None:
    watching = trackers(job.composed.config)
    try:
        for tracker in watching:
            tracker.started(record, job.composed.config, job.folder)
        metrics = read_test(job, record)
        for tracker in watching:
            tracker.finished(record, metrics)
    finally:
        for tracker in watching:
            tracker.closed(record.status)  # whatever becomes of test, the run is finished


def _begin(job: Job, record: RunRecord, *, resumes: bool) -> Path | None:
    """Writes down what will be run, and returns the state to go on from."""
    config, folder = job.composed.config, job.folder
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    write_text(folder / "splits.csv", splits_csv(job.data))
    job.store.write(record)
    state = newest_state(folder / "resume") if resumes else None
    if state is not None:
        log.info("run %s was interrupted: going on from %s", record.run_id, state.name)
    elif resumes:
        log.warning("run %s was interrupted before its first state was saved: it starts again", record.run_id)
    return state


def _train_on_ranks(
    job: Job,
    record: RunRecord,
    state: Path | None,
    claim: Claim,
    *,
    observers: Sequence[RunObserver],
    preemption: Preemption,
) -> RunRecord:
    """Trains on several ranks, and returns the record that rank 0 has written."""
    config, order = job.composed.config, Order(trains=True, state=None if state is None else str(state))
    if outer_rank(config) is not None:
        tell_ranks(record.run_id, order)
        watching = [*trackers(config), *observers]
        return _carry_out(job, record, state, owned=lambda: not claim.lost, observers=watching, preemption=preemption)
    code = run_ranks(job.composed, order)
    found = job.store.read(record.run_id) or record
    if code == Preempted.exit_code:
        raise preemption.error()
    if code or found.status != "finished":
        reason = f"a rank ended with exit code {code}"
        if found.status == "running":
            found = replace(found, status="failed", ended=now(), error=reason)
            job.store.write(found)
        raise RuntimeError(found.error or reason)
    return found


def _carry_out(
    job: Job,
    record: RunRecord,
    state: Path | None,
    *,
    owned: Callable[[], bool],
    observers: Sequence[RunObserver],
    preemption: Preemption,
) -> RunRecord:
    """Trains in this process, and returns the record with its results."""
    config, folder = job.composed.config, job.folder
    status = "failed"
    try:
        for observer in observers:
            observer.started(record, config, folder)
        metrics = fit(job, record, state, owned=owned, preemption=preemption, observers=observers)
        for observer in observers:
            observer.finished(record, metrics)
        status = record.status
    except (KeyboardInterrupt, Preempted, StopRun) as ended:
        status = "stopped" if isinstance(ended, StopRun) else "interrupted"
        job.store.write(replace(record, status=status, ended=now()))
        raise
    except BaseException as error:
        log.error("run %s failed", record.run_id, exc_info=True)
        if owned():  # else the run is another process's, and so is its record
            job.store.write(replace(record, status="failed", ended=now(), error=f"{type(error).__name__}: {error}"))
        raise
    finally:
        for observer in observers:
            observer.closed(status)
    return record
