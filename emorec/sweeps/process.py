"""A job's process, with all that it starts: a group of its own, ended as one."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from emorec.storage.atomic import follow_folder_mode, make_folder
from emorec.sweeps.report import GRACE_VARIABLE, JOB_VARIABLE, PARENT_VARIABLE
from emorec.training.processes import ForkedProcess, fresh_command

POLL_SECONDS = 0.1


class JobProcess:
    """A running job.

    Args:
        words: of `emorec`.
        report: where the job writes what became of it; an earlier report there is removed. `None`: nowhere.
        log: its output is appended there.
        environment: added to this process's.
        grace: seconds that it has to save, once it is to end, before it is killed.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        report: Path | None,
        log: Path,
        environment: Mapping[str, str],
        grace: float,
        forked: bool = False,
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
        with log.open("ab") as output:
            follow_folder_mode(log)
            everything = {**os.environ, **environment, **variables}
            self._process: ForkedProcess | subprocess.Popen[bytes]
            if forked:
                self._process = ForkedProcess(
                    words, environment=everything, stdout=output, stderr=output, new_session=True
                )
            else:
                self._process = subprocess.Popen(
                    fresh_command(words),
                    env=everything,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def poll(self) -> int | None:
        """Its exit code once it has ended, and then nothing of its group is left; kills it when its grace is over."""
        if self._code is None:
            if self._has_ended():
                self._signal(signal.SIGKILL)
                self._code = self._process.wait()
            elif self._kill_at is not None and time.monotonic() > self._kill_at:
                self._signal(signal.SIGKILL)
        return self._code

    @property
    def is_ending(self) -> bool:
        """Whether it was asked to end."""
        return self._kill_at is not None

    def ask_to_end(self) -> None:
        """Asks the group to save and end; `poll` kills it when its grace is over."""
        if self._code is None and not self.is_ending:
            self._kill_at = time.monotonic() + self.grace
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the group."""
        if self._code is None:
            self._kill_at = time.monotonic()
            self._signal(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        while (code := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def _has_ended(self) -> bool:
        if isinstance(self._process, ForkedProcess) or not hasattr(os, "waitid"):
            return self._process.poll() is not None
        # Not reaped: the group's number stays its own until whatever is left of the group has been killed.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
