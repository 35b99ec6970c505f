"""One attempt at a run that is claimed: written down first, then carried out here or on several ranks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from emorec.training.fit import fit, read_test
from emorec.training.run_context import Job, now
from emorec.datamodules.leakage import splits_csv
from emorec.training.distributed import Order, outer_rank, run_ranks, tell_ranks
from emorec.loggers.factory import trackers
from emorec.errors import Preempted
from emorec.runs.checkpoint_store import RunRecord
from emorec.loggers.base import RunObserver, StopRun
from emorec.training.preemption import Preemption
from emorec.training.callbacks.save_states import newest_state
from emorec.storage.atomic import write_text
from emorec.storage.claims import Claim

log = logging.getLogger(__name__)


def stay_in_sweep(job: Job) -> None:
    """A run that goes on stays in the sweep, and so in the group of its trackers, in which it began, unless another is
    named."""
    config, stored = job.composed.config, job.folder / "config.yaml"
    if stored.is_file() and not any(word.startswith("sweep.name=") for word in job.composed.overrides):
        config["sweep"] = {**config["sweep"], "name": OmegaConf.select(OmegaConf.load(stored), "sweep.name")}


def read_test_later(job: Job, record: RunRecord) -> None:
    """Reads test of a run that was trained with `test=false`, and tells the trackers."""
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


def begin(job: Job, record: RunRecord, *, resumes: bool) -> Path | None:
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


def train_on_ranks(
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
        return carry_out(job, record, state, owned=lambda: not claim.lost, observers=watching, preemption=preemption)
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


def carry_out(
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
