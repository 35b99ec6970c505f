"""One attempt at a run whose claim is held: recorded first, then trained here or on several ranks."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from emorec.config.composition import Composed
from emorec.config.schema import SweepConfig, TrainConfig
from emorec.config.validation import validated
from emorec.datamodules.leakage import splits_csv
from emorec.errors import Preempted, RunTakenOverError
from emorec.loggers.base import StopRun
from emorec.runs.checkpoint_store import RunRecord, stored_config
from emorec.storage.atomic import write_text
from emorec.storage.claims import Claim
from emorec.storage.documents import yaml_text
from emorec.training import evaluation
from emorec.training.distributed import Assignment, external_rank, launch_ranks, send_assignment
from emorec.training.fit import fit
from emorec.training.preemption import Preemption
from emorec.training.run_context import RunContext, now
from emorec.training.states import check_state, newest_state

log = logging.getLogger(__name__)


def keep_sweep(composed: Composed[TrainConfig], folder: Path) -> Composed[TrainConfig]:
    """A resumed run stays in the sweep, and so in the group of its loggers, in which it began, unless the command line
    names another."""
    stored = folder / "config.yaml"
    if not stored.is_file() or any(word.startswith("sweep.name=") for word in composed.overrides):
        return composed
    sweep = validated(SweepConfig, stored_config(folder).get("sweep") or {}, heading=str(stored), path="sweep")
    return composed.with_values(sweep={**composed.values["sweep"], "name": sweep.name})


def read_test_later(context: RunContext, record: RunRecord) -> None:
    """Reads test of a run that was trained with `test=false`, and logs it."""
    try:
        for logger in context.loggers:
            logger.started(record, context.composed.values, context.folder)
        metrics = evaluation.read_test_later(context, record)
        for logger in context.loggers:
            logger.finished(record, metrics)
    finally:
        for logger in context.loggers:
            logger.closed(record.status)  # the run stays finished, even where test could not be read


def begin(context: RunContext, record: RunRecord, *, resumes: bool) -> Path | None:
    """Writes the config, the splits and the record, and returns the state to resume from."""
    folder = context.folder
    state = newest_state(folder / "resume") if resumes else None
    if state is not None:
        check_state(state)  # before anything is written
    write_text(folder / "config.yaml", yaml_text(context.composed.values))
    write_text(folder / "splits.csv", splits_csv(context.data))
    context.store.write(record)
    if state is not None:
        log.info("run %s was interrupted: resuming from %s", record.run_id, state.name)
    elif resumes:
        log.warning("run %s was interrupted before its first state was saved: it starts again", record.run_id)
    return state


def train_attempt(
    context: RunContext, record: RunRecord, state: Path | None, claim: Claim, preemption: Preemption
) -> RunRecord:
    """Trains on as many ranks as the config asks for, from a state if there is one.

    Returns:
        The record of this start, with the results.

    Raises:
        RunTakenOverError: another process has taken the run over.
    """
    config = context.config
    assignment = Assignment(trains=True, state=None if state is None else str(state))
    is_external = external_rank(config.trainer) is not None
    held = _while_held(claim)
    if config.trainer.world_size > 1 and not is_external:
        with held:
            return _train_on_own_ranks(context, record, assignment, claim, preemption)
    if is_external:
        send_assignment(record.run_id, assignment)
    return train_here(context, record, state, owned=lambda: not claim.lost, preemption=preemption, held=held)


@contextmanager
def _while_held(claim: Claim) -> Iterator[None]:
    """Raises a `RunTakenOverError` at the end of a block, in place of its own error, if the claim was taken over.

    Two processes in one directory remove each other's files: what this one meets then is no error of the run.
    """
    try:
        yield
    except BaseException as error:
        if claim.is_held() or not isinstance(error, Exception):
            raise
        raise RunTakenOverError from error
    if not claim.is_held():
        raise RunTakenOverError


def _train_on_own_ranks(
    context: RunContext, record: RunRecord, assignment: Assignment, claim: Claim, preemption: Preemption
) -> RunRecord:
    """Starts the ranks, and returns the record that rank 0 has written."""
    code = launch_ranks(context.composed, assignment, owned=lambda: not claim.lost)
    written = context.store.read(record.run_id) or record
    if code == Preempted.exit_code:
        raise preemption.error()
    if code or written.status != "finished":
        reason = f"a rank ended with exit code {code}"
        if written.status == "running" and claim.is_held():
            written = replace(written, status="failed", ended=now(), error=reason)
            context.store.write(written)
        raise RuntimeError(written.error or reason)
    return written


def train_here(
    context: RunContext,
    record: RunRecord,
    state: Path | None,
    *,
    owned: Callable[[], bool],
    preemption: Preemption,
    held: AbstractContextManager[None] | None = None,
) -> RunRecord:
    """Trains in this process, and returns the record with the results; `held` is entered for the training."""
    loggers, status = context.loggers, "failed"
    try:
        for logger in loggers:
            logger.started(record, context.composed.values, context.folder)
        with held or nullcontext():
            metrics = fit(context, record, state, owned=owned, preemption=preemption, loggers=loggers)
        for logger in loggers:
            logger.finished(record, metrics)
        status = record.status
    except (KeyboardInterrupt, Preempted, StopRun) as ended:
        status = "stopped" if isinstance(ended, StopRun) else "interrupted"
        if owned():  # else the run and its record belong to another process
            context.store.write(replace(record, status=status, ended=now()))
        raise
    except BaseException as error:
        log.error("run %s failed", record.run_id, exc_info=True)
        if owned():
            message = f"{type(error).__name__}: {error}"
            context.store.write(replace(record, status="failed", ended=now(), error=message))
        raise
    finally:
        for logger in loggers:
            logger.closed(status)
    return record
