"""What a job's process reports to the sweep that started it: in a file, so that nothing it prints is ever parsed.

The sweep passes the file's path and its own process id by the environment; a process without them is in no sweep.
"""

import json
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emorec.errors import Preempted
from emorec.storage.atomic import write_json
from emorec.training.processes import when_parent_ends

JOB_VARIABLE = "EMOREC_JOB"  # path of the report
PARENT_VARIABLE = "EMOREC_JOB_PARENT"  # process id of who waits for it
GRACE_VARIABLE = "EMOREC_JOB_GRACE"  # seconds to save after the parent's death

log = logging.getLogger(__name__)


@dataclass
class JobReport:
    """The outcome of a job.

    Attributes:
        status: "finished", "skipped", "interrupted" or "failed".
        run_id: its run.
        metrics: {name: value} for the sweep's table.
        error: why it failed.
    """

    status: str = "failed"
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def succeed(self, *, run_id: str, status: str, metrics: Mapping[str, float]) -> None:
        """Notes the outcome of a run."""
        self.status, self.run_id, self.metrics = status, run_id, dict(metrics)


def read_report(path: Path) -> JobReport | None:
    """The report of a job; `None` where it died before it wrote one."""
    try:
        return JobReport(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def reporting() -> Iterator[JobReport]:
    """In a job of a sweep, writes the yielded report when the block ends, however it ends, and ends the job soon after
    the sweep has died. Processes that the job starts are no jobs: the variables are removed."""
    path = os.environ.pop(JOB_VARIABLE, None)
    parent = os.environ.pop(PARENT_VARIABLE, None)
    grace = float(os.environ.pop(GRACE_VARIABLE, "30"))
    if parent is not None:
        end_with_parent(int(parent), grace)
    report = JobReport()
    try:
        yield report
    except (KeyboardInterrupt, Preempted) as error:
        report.status, report.error = "interrupted", str(error) or "ctrl-C"
        raise
    except BaseException as error:
        report.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        if path is not None:
            _write(Path(path), report)


def _write(path: Path, report: JobReport) -> None:
    try:
        write_json(path, asdict(report))
    except OSError as error:  # the sweep sees the exit code all the same
        log.warning("the report of this job could not be written: %s", error)


def end_with_parent(parent: int, grace: float) -> None:
    """Ends this process's group soon after its parent has ended: SIGTERM first, and SIGKILL `grace` seconds later."""

    def end() -> None:
        log.warning("the sweep that started this job has died: saving and ending")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(OSError):
                os.killpg(os.getpgrp(), number)
            time.sleep(grace)

    if os.getpgrp() == os.getpid():  # else the group is not ours to end
        when_parent_ends(end, parent)
