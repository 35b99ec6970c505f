"""`emorec train -m` in one process: corpora, features and imports are shared by all jobs."""

import logging
import time
from pathlib import Path

from emorec.commands.composition import Composer
from emorec.commands.results import LINE_METRICS, read_metrics
from emorec.commands.training import train
from emorec.commands.workbench import Workbench, workbench_for
from emorec.errors import UserError
from emorec.reporting.tables import markdown_table
from emorec.sweeps.expansion import expand
from emorec.sweeps.record import JobRecord, SweepRecord

ALL_LINE_METRICS = tuple(key for keys in LINE_METRICS.values() for key in keys)
log = logging.getLogger(__name__)


def run_all(composer: Composer) -> int:
    """Runs all jobs, one after the other, and prints a table of them; returns 1 if any failed."""
    jobs = [JobRecord(number, overrides) for number, overrides in enumerate(expand(composer.line.overrides))]
    sweep: SweepRecord | None = None
    workbenches: dict[str, Workbench] = {}
    for job in jobs:
        log.info("job %d of %d: %s", job.number + 1, len(jobs), " ".join(job.overrides))
        started = time.monotonic()
        job.status = "running"
        try:
            composed = composer.compose(job.overrides)
            config = composed.config
            if sweep is None:
                name = config["sweep"]["name"]
                sweep = SweepRecord(Path(config["paths"]["checkpoints"]) / "sweeps" / name, name, jobs)
            place = str((config["paths"]["cache"], config["extraction"]["verify"]))
            if place not in workbenches:
                workbenches[place] = workbench_for(config)
            outcome = train(composed, workbenches[place])
        except UserError as error:
            _failed(job, str(error))
        except Exception as error:  # whatever breaks one job, the others go on; the run's log keeps the traceback
            _failed(job, f"{type(error).__name__}: {error}")
        else:
            log.info("%s", outcome.line)
            metrics = read_metrics(outcome.folder)
            job.status, job.run_id = outcome.status, outcome.run_id
            job.metrics = {key: metrics[key] for key in ALL_LINE_METRICS if key in metrics}
        finally:
            job.seconds = round(time.monotonic() - started, 3)
            if sweep is not None:
                sweep.write()
    _print_table(jobs)
    failed = sum(job.status == "failed" for job in jobs)
    where = f"  {sweep.folder}" if sweep is not None else ""
    print(f"{len(jobs) - failed} of {len(jobs)} jobs have a result{where}")
    return 1 if failed else 0


def _failed(job: JobRecord, error: str) -> None:
    job.status, job.error = "failed", error
    log.error("job %d failed: %s", job.number + 1, error)


def _print_table(jobs: list[JobRecord]) -> None:
    shown = [key for key in ALL_LINE_METRICS if any(key in job.metrics for job in jobs)]
    rows = [
        [
            str(job.number + 1),
            " ".join(job.overrides),
            job.status,
            f"{job.seconds:.1f}",
            job.run_id or "",
            *(f"{job.metrics[key]:.4f}" if key in job.metrics else "" for key in shown),
        ]
        for job in jobs
    ]
    print(markdown_table(["job", "overrides", "status", "seconds", "run", *shown], rows))
