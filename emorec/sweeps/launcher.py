"""What launchers have in common: jobs are handed to one, and watched until all have ended."""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.errors import Preempted
from emorec.sweeps.record import JobRecord
from emorec.sweeps.report import JobReport
from emorec.sweeps.stop import Stop


@dataclass(frozen=True)
class Task:
    """A job to be started.

    Attributes:
        record: kept up to date while it runs.
        words: of `emorec`, in a process of its own.
        folder: of the sweep.
        devices: how many devices the run trains on, on each machine.
        nodes: how many machines.
        on_gpu: whether these are GPUs where there are any.
    """

    record: JobRecord
    words: tuple[str, ...]
    folder: Path
    devices: int = 1
    nodes: int = 1
    on_gpu: bool = True

    @property
    def report(self) -> Path:
        """What the job's process writes at its end."""
        return self.folder / "jobs" / f"{self.record.number}.json"

    @property
    def log(self) -> Path:
        """What the job's processes print."""
        return self.folder / "logs" / f"{self.record.number}.txt"


class Launcher(ABC):
    """Starts jobs and watches them.

    Attributes:
        changed: is called with each record that has changed.
        interval: seconds between two looks.
    """

    interval = 0.1

    def __init__(self) -> None:
        self.changed: Callable[[JobRecord], None] = lambda _: None

    def refusal(self, task: Task) -> str | None:
        """Why a task can never be started here; `None` where it can."""
        return None

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Takes the tasks over."""

    @abstractmethod
    def poll(self) -> bool:
        """Moves on; false once no job is running or waiting."""

    @abstractmethod
    def stop(self, *, at_once: bool) -> None:
        """Starts no more, and asks what runs to save and end, or kills it; `poll` tells when they have ended."""

    @abstractmethod
    def close(self) -> None:
        """Leaves no process behind."""

    def _started(self, task: Task) -> None:
        task.record.start()
        task.record.log = str(task.log.relative_to(task.folder))
        self.changed(task.record)

    def _ended(self, task: Task, status: str, error: str | None = None) -> None:
        task.record.end(status, error)
        self.changed(task.record)


def judge(
    report: JobReport | None, exit_code: int, *, stopped: bool = False, why: str | None = None
) -> tuple[str, str | None]:
    """(status, error) of a job whose process has ended.

    Args:
        report: what it wrote, if it did.
        exit_code: negative for the signal that killed it.
        stopped: whether it was ended because the sweep is to stop.
        why: why it was ended otherwise.
    """
    own = None if report is None else report.status
    if report is not None and own in ("finished", "skipped"):
        return report.status, None
    if stopped:
        return "interrupted", None
    if why is None and (own == "interrupted" or exit_code == Preempted.exit_code):
        return "interrupted", None if report is None else report.error
    if why is None and report is None:
        signalled = f"killed by signal {-exit_code} ({_name(-exit_code)})"
        why = signalled if exit_code < 0 else f"ended with exit code {exit_code} and without a report"
    return "failed", why or (report.error if report is not None else None)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def take_report(record: JobRecord, report: JobReport | None, exit_code: int) -> None:
    """Notes in a record what a job said of itself."""
    record.exit_code = exit_code
    if report is not None:
        record.run_id, record.metrics = report.run_id or record.run_id, report.metrics


def launch(launcher: Launcher, tasks: Sequence[Task], stop: Stop) -> None:
    """Hands tasks to a launcher and returns when all have ended; a second signal ends them at once."""
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
