"""Runs jobs in parallel on this machine, each with its own GPUs."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emorec.sweeps.launcher import Launcher, Task
from emorec.sweeps.process import JobProcess

THREADS_VARIABLE = "OMP_NUM_THREADS"
GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def usable_gpus(count: int, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that this process may use, in the terms of `CUDA_VISIBLE_DEVICES`.

    Args:
        count: number of GPUs that are visible to it.
        environment: its `CUDA_VISIBLE_DEVICES` may list some of the GPUs, by number or by identifier.
    """
    names = [name.strip() for name in environment.get(GPUS_VARIABLE, "").split(",") if name.strip()]
    if names and names[0].startswith("MIG-") and count:  # CUDA counts only one of these
        return tuple(names)
    return tuple(names[:count]) if names else tuple(map(str, range(count)))


@dataclass
class _Running:
    task: Task
    process: JobProcess
    gpus: tuple[str, ...]
    reason: str | None = None  # why the launcher ended it
    started: float = field(default_factory=time.monotonic)


class LocalLauncher(Launcher):
    """Runs each job in its own process, as many at a time as slots and GPUs allow.

    Args:
        slots: largest number of jobs at a time.
        gpus: names of the GPUs; each is used by one job at a time.
        cores: number of CPU cores, which the slots share equally.
        timeout: seconds after which a job is ended.
        grace: seconds between SIGTERM and SIGKILL, in which a job can save.
        forked: whether jobs are forked from the warm parent.
    """

    interval = 0.02  # a free slot waits for no longer

    def __init__(
        self,
        *,
        slots: int,
        gpus: Sequence[str] = (),
        cores: int = 1,
        timeout: float | None = None,
        grace: float = 30.0,
        forked: bool = False,
    ) -> None:
        super().__init__()
        self.slots, self.timeout, self.grace, self.forked = slots, timeout, grace, forked
        self._machine_has_gpus = bool(gpus)
        self._free = list(gpus)
        self._threads = str(max(1, cores // slots))
        self._waiting: deque[Task] = deque()
        self._running: list[_Running] = []

    def refusal(self, task: Task) -> str | None:
        if self._gpus_of(task) <= len(self._free):  # called before anything runs
            return None
        return f"expected trainer.devices of at most {len(self._free)}, the GPUs of this machine, got {task.devices}"

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend(tasks)

    def poll(self) -> bool:
        for running in list(self._running):
            code = running.process.poll()
            if code is not None:
                self._finish(running, code)
            elif self._is_late(running):
                running.reason = f"ended after {self.timeout:g} s (launcher.timeout)"
                running.process.ask_to_end()
        while self._waiting and self._fits(self._waiting[0]):
            self._start(self._waiting.popleft())
        return bool(self._running or self._waiting)

    def stop(self, *, at_once: bool) -> None:
        self._stopped = True
        while self._waiting:
            self._ended(self._waiting.popleft(), "interrupted")
        for running in self._running:
            running.process.kill() if at_once else running.process.ask_to_end()

    def close(self) -> None:
        self._stopped = True
        for running in self._running:
            running.process.kill()
        for running in list(self._running):
            self._finish(running, running.process.wait())

    def _is_late(self, running: _Running) -> bool:
        late = self.timeout is not None and time.monotonic() - running.started > self.timeout
        return late and not running.process.is_ending

    def _gpus_of(self, task: Task) -> int:
        return task.devices if task.on_gpu and self._machine_has_gpus else 0

    def _fits(self, task: Task) -> bool:
        return len(self._running) < self.slots and self._gpus_of(task) <= len(self._free)

    def _start(self, task: Task) -> None:
        gpus = tuple(self._free[: self._gpus_of(task)])
        environment = {} if THREADS_VARIABLE in os.environ else {THREADS_VARIABLE: self._threads}
        if self._machine_has_gpus:
            environment[GPUS_VARIABLE] = ",".join(gpus)
        try:
            process = JobProcess(
                task.arguments,
                report=task.report,
                log=task.log,
                environment=environment,
                grace=self.grace,
                forked=self.forked,
                handover=task.handover,
            )
        except OSError as error:  # too many processes, or a full disk; the other jobs continue
            self._ended(task, "failed", f"could not be started: {error}")
            return
        del self._free[: len(gpus)]
        self._running.append(_Running(task, process, gpus))
        self._started(task)

    def _finish(self, running: _Running, code: int) -> None:
        self._running.remove(running)
        self._free += running.gpus
        self._exited(running.task, code, running.reason)
