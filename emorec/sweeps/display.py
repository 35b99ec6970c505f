"""Shows the progress of a sweep: a live table on a terminal, otherwise a log line when a job starts or ends."""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emorec.markdown import markdown_table
from emorec.sweeps.expansion import varying
from emorec.sweeps.record import ENDED, FAILED, JobRecord, SweepRecord

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)

COLUMNS = 6  # columns of the live table: up to the first metric
SHOWN = 12  # number of ended jobs in the live table, beside all running ones
COLOURS = {"running": "cyan", "finished": "green", "interrupted": "yellow", "failed": "red", "invalid": "red"}


def job_cells(jobs: Sequence[JobRecord]) -> tuple[list[str], list[list[str]]]:
    """The headers and one row for each job: overrides that vary, status, seconds, run and metrics."""
    names = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    varied = varying([job.overrides for job in jobs])
    rows = [
        [
            str(job.number),
            " ".join(overrides),
            job.status,
            f"{job.elapsed():.1f}",
            job.run_id or "",
            *(f"{job.metrics[name]:.4f}" if name in job.metrics else "" for name in names),
        ]
        for job, overrides in zip(jobs, varied, strict=True)
    ]
    return ["job", "overrides", "status", "seconds", "run", *names], rows


def summary(jobs: Sequence[JobRecord]) -> str:
    """`2 finished, 1 failed, 3 running, 2 waiting`."""
    counts = Counter(job.status for job in jobs)
    order = ("finished", "skipped", "interrupted", "failed", "invalid", "running", "waiting")
    return ", ".join(f"{counts[status]} {status}" for status in order if counts[status])


def sweep_page(sweep: SweepRecord) -> str:
    """A table of the jobs of a sweep, and a summary."""
    return f"{markdown_table(*job_cells(sweep.all_jobs))}\n{summary(sweep.all_jobs)}  {sweep.folder}"


def sweeps_table(sweeps: Sequence[SweepRecord]) -> str:
    """A table of sweeps."""
    rows = [
        [sweep.name, sweep.started, sweep.launcher, str(len(sweep.all_jobs)), summary(sweep.all_jobs)]
        for sweep in sweeps
    ]
    return markdown_table(["sweep", "started", "launcher", "jobs", "status"], rows)


class Display:
    """A context manager that shows jobs: a live table if stderr is a terminal, else `changed` logs lines."""

    def __init__(self, jobs: Sequence[JobRecord], *, live: bool) -> None:
        self.jobs = jobs
        self._varied = varying([job.overrides for job in jobs])
        self._is_live = live and sys.stderr.isatty()
        self._live: Any = None

    def __enter__(self) -> "Display":
        if self._is_live:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def changed(self, job: JobRecord) -> None:
        """Logs that a job has started or ended, if there is no live table."""
        if self._live is not None:
            return
        name = f"job {job.number}"
        if job.status == "running":
            log.info("%s started: %s", name, " ".join(self._varied[self.jobs.index(job)]) or " ".join(job.overrides))
        elif job.status in FAILED:
            log.error("%s %s after %.1f s: %s (%s)", name, job.status, job.seconds, job.error, job.log or "no log")
        elif job.status in ENDED:
            log.info("%s %s after %.1f s: run %s", name, job.status, job.seconds, job.run_id or "unknown")

    def _table(self) -> "Table":
        from rich.markup import escape
        from rich.table import Table

        running = [job for job in self.jobs if job.status == "running"]
        ended = sorted((job for job in self.jobs if job.ended), key=lambda job: job.ended or "")[-SHOWN:]
        shown = {job.number for job in (*ended, *running)}
        headers, rows = job_cells(self.jobs)
        table = Table(caption=summary(self.jobs))
        for header in headers[:COLUMNS]:
            is_long = header == "overrides"
            table.add_column(header, no_wrap=not is_long, overflow="fold" if is_long else "ellipsis")
        for job, row in zip(self.jobs, rows, strict=True):
            if job.number in shown:
                table.add_row(*map(escape, row[:COLUMNS]), style=COLOURS.get(job.status))
        return table
