"""`emorec train -m`: one run after the other in this process, or each in a process of its own."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from emorec.config.composition import CommandLine, Composer
from emorec.sweeps.launchers import check_launcher, launcher_for, tasks_for
from emorec.runs.logs import log_to
from emorec.sweeps.plan import PlannedJob, Workbenches, plan, to_start
from emorec.runs.results import line_metrics
from emorec.training.lifecycle import train
from emorec.errors import Preempted, UserError
from emorec.markdown import markdown_table
from emorec.storage.atomic import make_folder
from emorec.storage.digests import digest_of
from emorec.sweeps.display import Display, job_cells
from emorec.sweeps.launcher import launch
from emorec.sweeps.record import FAILED, JobRecord, SweepRecord, moment
from emorec.sweeps.stop import Stop

log = logging.getLogger(__name__)


def run_all(composer: Composer) -> int:
    """Runs all jobs and prints a table of them.

    Returns:
        0; 1 if any failed, 75 if any was interrupted, or what a signal to this process asks for (130 for ctrl-C).
    """
    benches = Workbenches()
    planned = plan(composer, benches)
    jobs = [job.record for job in planned]
    configs = [job.composed.config for job in planned if job.composed is not None]
    if not configs:
        _print_outcome(jobs, None)
        return 1
    settings = _common_launcher(configs)
    name = str(configs[0]["sweep"]["name"])
    folder = (Path(configs[0]["paths"]["checkpoints"]) / "sweeps" / name).absolute()
    sweep = SweepRecord(folder, name, settings["name"], jobs)
    with sweep.claim(configs[0]["extraction"]["stale_after"]):
        sweep.recall()
        sweep.write()
        try:
            if settings["name"] == "basic":
                stopped = _run_here(planned, benches, sweep)
            else:
                stopped = _run_in_processes(planned, benches, sweep, composer.line, configs)
        finally:
            sweep.ended = moment()
            sweep.write()
    _print_outcome(jobs, folder)
    if stopped:
        print("emorec train: interrupted; the same command goes on from here", file=sys.stderr)
    return stopped or sweep.exit_code


def _common_launcher(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    settings: dict[str, Any] = configs[0]["launcher"]
    if len({digest_of(config["launcher"]) for config in configs}) > 1:
        raise UserError("expected one launcher for all jobs of a multirun, got several values of launcher")
    check_launcher(settings)
    return settings


def _run_here(planned: Sequence[PlannedJob], benches: Workbenches, sweep: SweepRecord) -> int:
    """Runs the jobs one after the other; returns the exit code that an interruption asks for, else 0."""
    seen: dict[str, JobRecord] = {}
    make_folder(sweep.folder / "logs")
    for number, job in enumerate(planned):
        record = job.record
        if job.composed is None:
            continue
        first = seen.setdefault(digest_of(job.composed.config), record)
        if first is not record:
            record.take_over(first)
            continue
        log.info("job %d of %d: %s", number + 1, len(planned), " ".join(record.overrides))
        before = replace(record)
        record.start()
        record.log = f"logs/{record.number}.txt"
        sweep.write()
        try:
            with log_to(sweep.folder / record.log):
                trained = _run_one(job, benches)
            if not trained:
                record.started, record.ended, record.seconds = before.started, before.ended, before.seconds
        except (KeyboardInterrupt, Preempted) as stopped:
            for rest in planned[number:]:
                if rest.record.status in ("running", "waiting"):
                    rest.record.end("interrupted")
            return Preempted.exit_code if isinstance(stopped, Preempted) else 130
        finally:
            sweep.write()
    return 0


def _run_one(job: PlannedJob, benches: Workbenches) -> bool:
    """Runs a job; false where its run was finished before."""
    record, composed = job.record, job.composed
    assert composed is not None
    try:
        outcome = train(composed, benches.of(composed.config))
    except Exception as error:  # whatever breaks one job, the others go on; the run's log keeps the traceback
        record.end("failed", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        log.error("job %d failed: %s", record.number, record.error)
        return True
    log.info("%s", outcome.line)
    record.run_id, record.metrics = outcome.run_id, line_metrics(outcome.folder)
    record.end(outcome.status)
    return outcome.trained


def _run_in_processes(
    planned: Sequence[PlannedJob],
    benches: Workbenches,
    sweep: SweepRecord,
    line: CommandLine,
    configs: Sequence[dict[str, Any]],
) -> int:
    """Runs each job in a process of its own; returns the exit code that a signal asks for, else 0."""
    launcher = launcher_for(configs[0]["launcher"], configs, sweep.folder)
    with Stop() as stop:
        try:
            chosen = to_start(planned, benches, sweep.folder)
            benches.clear()
            tasks = tasks_for(chosen, launcher, line, folder=sweep.folder, sweep=sweep.name)
            sweep.write()
            log.info("%d of %d jobs are to be run: %s", len(tasks), len(planned), sweep.folder)
            with Display(sweep.jobs, live=configs[0]["progress"]) as display:

                def changed(record: JobRecord) -> None:
                    sweep.write()
                    display.changed(record)

                launcher.changed = changed
                launch(launcher, tasks, stop)
        except KeyboardInterrupt:  # before anything was started
            for job in sweep.jobs:
                if job.status == "waiting":
                    job.end("interrupted")
    by_number = {job.number: job for job in sweep.jobs}
    for job in sweep.jobs:
        if job.same_as is not None:
            job.take_over(by_number[job.same_as])
    return stop.exit_code if stop.count else 0


def _print_outcome(jobs: Sequence[JobRecord], folder: Path | None) -> None:
    print(markdown_table(*job_cells(jobs)))
    for job in jobs:
        if job.status in FAILED:
            where = f"  {folder / job.log}" if folder is not None and job.log else ""
            print(f"job {job.number} {job.status}: {job.error}{where}")
    done = sum(job.status in ("finished", "skipped") for job in jobs)
    print(f"{done} of {len(jobs)} jobs have a result{'' if folder is None else f'  {folder}'}")
