"""The base class of launchers, which start jobs and watch them until all have ended."""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.errors import Preempted
from emorec.sweeps.record import JobRecord
from emorec.sweeps.report import JobReport, read_report
from emorec.sweeps.stop import Stop
from emorec.training.processes import Handover


@dataclass(frozen=True)
class Task:
    """A job that can be started."""

    record: JobRecord  # updated while the job runs
    arguments: tuple[str, ...]  # of `emorec` in the job's own process
    folder: Path  # of the sweep
    devices: int = 1  # on each machine
    nodes: int = 1  # number of machines
    on_gpu: bool = True  # whether the devices are GPUs on a machine that has some
    handover: Handover | None = None  # of the run that `arguments` name, if it is known

    @property
    def report(self) -> Path:
        """The file that the job's process writes when it ends."""
        return self.folder / "jobs" / f"{self.record.number}.json"

    @property
    def log(self) -> Path:
        """The output of the job's processes."""
        return self.folder / "logs" / f"{self.record.number}.txt"


class Launcher(ABC):
    """Starts jobs and watches them.

    Attributes:
        changed: called with each record that has changed.
        interval: seconds between two calls of `poll`.
    """

    interval = 0.1

    def __init__(self) -> None:
        self.changed: Callable[[JobRecord], None] = lambda _: None
        self._stopped = False

    def refusal(self, task: Task) -> str | None:
        """The reason why a task can never be started here; `None` if it can."""
        return None

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Queues tasks."""

    @abstractmethod
    def poll(self) -> bool:
        """Updates all jobs and starts waiting ones; false once no job is running or waiting."""

    @abstractmethod
    def stop(self, *, at_once: bool) -> None:
        """Starts no further job, and asks running jobs to save and end, or kills them. `poll` sees their end."""

    @abstractmethod
    def close(self) -> None:
        """Ends all processes that still run."""

    def _started(self, task: Task) -> None:
        task.record.start()
        task.record.log = str(task.log.relative_to(task.folder))
        self.changed(task.record)

    def _ended(self, task: Task, status: str, error: str | None = None) -> None:
        task.record.end(status, error)
        self.changed(task.record)

    def _exited(self, task: Task, exit_code: int, reason: str | None = None) -> None:
        """Updates the record of a task whose process has ended; `reason` as in `status_of`."""
        report, task.record.exit_code = read_report(task.report), exit_code
        if report is not None:
            task.record.run_id, task.record.metrics = report.run_id or task.record.run_id, report.metrics
        self._ended(task, *status_of(report, exit_code, stopped=self._stopped and reason is None, reason=reason))


def status_of(
    report: JobReport | None, exit_code: int, *, stopped: bool = False, reason: str | None = None
) -> tuple[str, str | None]:
    """(status, error) of a job whose process has ended.

    Args:
        report: the job's report; `None` if it wrote none.
        exit_code: negative for the signal that killed it.
        stopped: whether it was ended because the sweep was stopped.
        reason: why the launcher ended it otherwise.
    """
    status, error = (None, None) if report is None else (report.status, report.error)
    if status in ("finished", "skipped"):
        return status, None
    if stopped:
        return "interrupted", None
    if reason is None and (status == "interrupted" or exit_code == Preempted.exit_code):
        return "interrupted", error
    if reason is None and report is None:
        reason = f"ended with exit code {exit_code} and without a report"
        if exit_code < 0:
            name = next((known.name for known in signal.Signals if known == -exit_code), "unknown")
            reason = f"killed by signal {-exit_code} ({name})"
    return "failed", reason or error


def launch(launcher: Launcher, tasks: Sequence[Task], stop: Stop) -> None:
    """Runs tasks with a launcher and returns when all have ended; a second signal kills them."""
    seen = 0
    stop.raises = False
    try:
        launcher.submit(tasks)
        while launcher.poll():
            if stop.count > seen:
                seen = stop.count
                launcher.stop(at_once=seen > 1)
            time.sleep(launcher.interval)
    finally:
        launcher.close()
