"""The report of a job: a file that its process writes for the sweep, so that no output has to be parsed.

The sweep passes the path of the file and its own process id in environment variables.
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
PARENT_VARIABLE = "EMOREC_JOB_PARENT"  # process id of the process that waits for the job
GRACE_VARIABLE = "EMOREC_JOB_GRACE"  # seconds to save after the parent has ended

log = logging.getLogger(__name__)


@dataclass
class JobReport:
    """The outcome of a job; its status is "finished", "skipped", "interrupted" or "failed"."""

    status: str = "failed"
    run_id: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # {name: value} for the table of the sweep
    error: str | None = None

    def succeed(self, *, run_id: str, status: str, metrics: Mapping[str, float]) -> None:
        """Records the outcome of a run."""
        self.status, self.run_id, self.metrics = status, run_id, dict(metrics)


def read_report(path: Path) -> JobReport | None:
    """Reads the report of a job; `None` if the job ended before it wrote one."""
    try:
        return JobReport(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def reporting() -> Iterator[JobReport]:
    """In a job of a sweep, writes the yielded report at the end of the block, also after an error, and ends the job if
    the sweep dies. Removes the variables from the environment, as child processes of the job are no jobs."""
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
        try:
            if path is not None:
                write_json(Path(path), asdict(report))
        except OSError as error:  # the sweep still gets the exit code
            log.warning("the report of this job could not be written: %s", error)


def end_with_parent(parent: int, grace: float) -> None:
    """Sends SIGTERM to this process group once its parent has ended, and SIGKILL `grace` seconds later."""

    def end() -> None:
        log.warning("the command that started this job has ended: the job saves and ends too")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(OSError):
                os.killpg(os.getpgrp(), number)
            time.sleep(grace)

    if os.getpgrp() == os.getpid():  # otherwise the group has other processes
        when_parent_ends(end, parent)
