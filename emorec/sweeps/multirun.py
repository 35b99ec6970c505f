"""Runs the jobs of a multirun, in this process or each in its own."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from emorec.config.composition import Composer
from emorec.config.launchers import BasicLauncherConfig, LocalLauncherConfig, SlurmLauncherConfig
from emorec.config.schema import TrainConfig
from emorec.errors import Preempted, UserError, raise_interruption
from emorec.markdown import markdown_table
from emorec.runs.logs import log_to
from emorec.runs.results import line_metrics
from emorec.storage.atomic import make_folder
from emorec.storage.digests import digest_of
from emorec.sweeps.display import Display, job_cells
from emorec.sweeps.launcher import launch
from emorec.sweeps.launchers import make_launcher, make_tasks, resolve_launcher
from emorec.sweeps.plan import PlannedJob, Preparers, jobs_to_start, plan
from emorec.sweeps.record import FAILED, JobRecord, SweepRecord, timestamp
from emorec.sweeps.stop import Stop
from emorec.training.lifecycle import train
from emorec.training.processes import forks, start_warm_parent

log = logging.getLogger(__name__)


def run_all(composer: Composer[TrainConfig]) -> int:
    """Runs all jobs and prints a table of them.

    Returns:
        The exit code: 0; 1 if a job failed; 75 if one was interrupted; after a signal, that of `Stop` (130 for ctrl-C).

    Raises:
        UserError: the configs of all jobs are wrong for the same reason, or the sweep already runs.
    """
    preparers = Preparers()
    planned = plan(composer, preparers)
    jobs = [job.record for job in planned]
    configs = [job.composed.config for job in planned if job.composed is not None]
    if not configs:
        errors = {str(job.error) for job in jobs}
        if len(errors) == 1:  # of what all jobs have in common, such as the launcher
            raise UserError(errors.pop())
        _print_result(jobs, None)
        return 1
    first = configs[0]
    if any(config.launcher != first.launcher for config in configs):
        raise UserError("expected one launcher for all jobs of a multirun, got several values of launcher")
    launcher, name = resolve_launcher(first.launcher, configs), first.sweep.name
    folder = (first.paths.checkpoints / "sweeps" / name).absolute()
    sweep = SweepRecord(folder, name, launcher.name, jobs)
    with sweep.claim(first.extraction.stale_after):
        sweep.resume()
        sweep.write()
        try:
            if isinstance(launcher, BasicLauncherConfig):
                stopped = _run_here(planned, preparers, sweep)
            else:
                stopped = _run_in_processes(launcher, planned, preparers, sweep, configs)
        finally:
            sweep.ended = timestamp()
            sweep.write()
    _print_result(jobs, folder)
    if stopped:
        print("emorec train: interrupted; the same command resumes", file=sys.stderr)
    return stopped or sweep.exit_code


def _run_here(planned: Sequence[PlannedJob], preparers: Preparers, sweep: SweepRecord) -> int:
    """Runs the jobs in this process; returns the exit code after an interruption, else 0."""
    first: dict[str, JobRecord] = {}  # {digest of the config: its first job}
    make_folder(sweep.folder / "logs")
    for index, job in enumerate(planned):
        record = job.record
        if job.composed is None:
            continue
        same = first.setdefault(digest_of(job.composed.values), record)
        if same is not record:
            record.copy_outcome(same)
            continue
        log.info("job %d of %d: %s", index + 1, len(planned), " ".join(record.overrides))
        earlier = record.started, record.ended, record.seconds
        record.start()
        record.log = f"logs/{record.number}.txt"
        sweep.write()
        try:
            with log_to(sweep.folder / record.log):
                trained = _run_one(job, preparers)
            if not trained:
                record.started, record.ended, record.seconds = earlier
        except (KeyboardInterrupt, Preempted) as stopped:
            for rest in planned[index:]:
                if rest.record.status in ("running", "waiting"):
                    rest.record.end("interrupted")
            return Preempted.exit_code if isinstance(stopped, Preempted) else 130
        finally:
            sweep.write()
    return 0


def _run_one(job: PlannedJob, preparers: Preparers) -> bool:
    """Runs a job; false if its run had been finished before."""
    record, composed = job.record, job.composed
    assert composed is not None
    try:
        outcome = train(composed, preparers.of(composed.config))
    except Exception as error:  # no error of one job stops the others; the run's log has the traceback
        raise_interruption(error)
        record.end("failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        log.error("job %d failed: %s", record.number, record.error)
        return True
    log.info("%s", outcome.line)
    record.run_id, record.metrics = outcome.run_id, line_metrics(outcome.folder)
    record.end(outcome.status)
    return outcome.trained


def _run_in_processes(
    settings: LocalLauncherConfig | SlurmLauncherConfig,
    planned: Sequence[PlannedJob],
    preparers: Preparers,
    sweep: SweepRecord,
    configs: Sequence[TrainConfig],
) -> int:
    """Runs each job in its own process; returns the exit code after a signal, else 0."""
    launcher = make_launcher(settings, configs, sweep.folder)
    if isinstance(settings, LocalLauncherConfig) and forks(settings.start):
        start_warm_parent()  # imports while this process prepares the jobs
    with Stop() as stop:
        try:
            chosen = jobs_to_start(planned, preparers, sweep.folder)
            tasks = make_tasks(chosen, launcher, preparers, folder=sweep.folder, sweep=sweep.name)
            preparers.clear()
            sweep.write()
            log.info("%d of %d jobs are to be run: %s", len(tasks), len(planned), sweep.folder)
            with Display(sweep.jobs, live=configs[0].progress) as display:

                def changed(record: JobRecord) -> None:
                    sweep.write()
                    display.changed(record)

                launcher.changed = changed
                launch(launcher, tasks, stop)
        except KeyboardInterrupt:  # before any job was started
            for job in sweep.jobs:
                if job.status == "waiting":
                    job.end("interrupted")
    by_number = {job.number: job for job in sweep.jobs}
    for job in sweep.jobs:
        if job.same_as is not None:
            job.copy_outcome(by_number[job.same_as])
    return stop.exit_code if stop.count else 0


def _print_result(jobs: Sequence[JobRecord], folder: Path | None) -> None:
    print(markdown_table(*job_cells(jobs)))
    for job in jobs:
        if job.status in FAILED:
            path = f"  {folder / job.log}" if folder is not None and job.log else ""
            print(f"job {job.number} {job.status}: {job.error}{path}")
    count = sum(job.status in ("finished", "skipped") for job in jobs)
    print(f"{count} of {len(jobs)} jobs have a result{'' if folder is None else f'  {folder}'}")
