"""The process of a job. It leads its own process group, so that its children end with it."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from emorec.storage.atomic import follow_folder_mode, make_folder
from emorec.storage.regular_files import open_descriptor
from emorec.sweeps.report import GRACE_VARIABLE, JOB_VARIABLE, PARENT_VARIABLE
from emorec.training.processes import ForkedProcess, Handover, fresh_command

POLL_SECONDS = 0.1


class JobProcess:
    """A running job.

    Args:
        arguments: of `emorec`.
        report: file for the job's report; an earlier one is removed. `None`: no report is written.
        log: file to which its output is appended.
        environment: variables in addition to those of this process.
        grace: seconds between SIGTERM and SIGKILL, in which it can save.
        forked: whether it is forked from the warm parent.
        handover: of the run that these arguments name, for a forked job.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        report: Path | None,
        log: Path,
        environment: Mapping[str, str],
        grace: float,
        forked: bool = False,
        handover: Handover | None = None,
    ) -> None:
        self.grace = grace
        self._code: int | None = None
        self._kill_at: float | None = None
        make_folder(log.parent)
        variables = {PARENT_VARIABLE: str(os.getpid()), GRACE_VARIABLE: str(grace)}
        if report is not None:
            make_folder(report.parent)
            report.unlink(missing_ok=True)
            variables[JOB_VARIABLE] = str(report)
        with os.fdopen(open_descriptor(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, follow=False), "ab") as output:
            follow_folder_mode(log)
            environment = {**os.environ, **environment, **variables}
            self._process: ForkedProcess | subprocess.Popen[bytes]
            if forked:
                self._process = ForkedProcess(
                    arguments,
                    environment=environment,
                    stdout=output,
                    stderr=output,
                    new_session=True,
                    handover=handover,
                )
            else:
                self._process = subprocess.Popen(
                    fresh_command(arguments),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def poll(self) -> int | None:
        """Returns the exit code once it has ended and its group is killed; kills it once its grace period is over."""
        if self._code is None:
            if self._has_ended():
                self._signal(signal.SIGKILL)
                self._code = self._process.wait()
            elif self._kill_at is not None and time.monotonic() > self._kill_at:
                self._signal(signal.SIGKILL)
        return self._code

    @property
    def is_ending(self) -> bool:
        """Whether it has been asked to end."""
        return self._kill_at is not None

    def ask_to_end(self) -> None:
        """Sends SIGTERM to the group; `poll` kills it once its grace period is over."""
        if self._code is None and not self.is_ending:
            self._kill_at = time.monotonic() + self.grace
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to the group."""
        if self._code is None:
            self._kill_at = time.monotonic()
            self._signal(signal.SIGKILL)

    def wait(self) -> int:
        """Waits for the end and returns the exit code."""
        while (code := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def _has_ended(self) -> bool:
        if isinstance(self._process, ForkedProcess) or not hasattr(os, "waitid"):
            return self._process.poll() is not None
        # WNOWAIT: the process id of the group must not be reused before the rest of the group has been killed.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
