"""Jobs in parallel on this machine, each with GPUs of its own."""

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emorec.sweeps.launcher import Launcher, Task, judge, take_report
from emorec.sweeps.process import JobProcess
from emorec.sweeps.report import read_report

THREADS_VARIABLE = "OMP_NUM_THREADS"
GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def usable_gpus(count: int, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them.

    Args:
        count: how many are visible to it.
        environment: its own may name some only, by number or by identifier.
    """
    named = [name.strip() for name in environment.get(GPUS_VARIABLE, "").split(",") if name.strip()]
    if named and named[0].startswith("MIG-") and count:  # of these a process counts but one
        return tuple(named)
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


@dataclass
class _Running:
    task: Task
    process: JobProcess
    gpus: tuple[str, ...]
    why: str | None = None
    since: float = field(default_factory=time.monotonic)


class LocalLauncher(Launcher):
    """Starts a process for each job, as many at a time as there are slots and GPUs for them.

    Args:
        slots: how many jobs run at a time.
        gpus: names of the GPUs; each belongs to one job at a time.
        cores: shared evenly by the slots.
        timeout: seconds after which a job is ended.
        grace: seconds that a job has to save, once it is to end, before it is killed.
        forked: whether jobs are forked from the warm parent.
    """

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
        self._stopped = False

    def refusal(self, task: Task) -> str | None:
        if self._wanted(task) <= len(self._free):  # asked before anything runs
            return None
        return f"expected trainer.devices of at most {len(self._free)}, the GPUs of this machine, got {task.devices}"

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend(tasks)

    def poll(self) -> bool:
        for running in list(self._running):
            code = running.process.poll()
            if code is not None:
                self._settle(running, code)
            elif self._is_late(running):
                running.why = f"ended after {self.timeout:g} s (launcher.timeout)"
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
            self._settle(running, running.process.wait())

    def _is_late(self, running: _Running) -> bool:
        late = self.timeout is not None and time.monotonic() - running.since > self.timeout
        return late and not running.process.is_ending

    def _wanted(self, task: Task) -> int:
        return task.devices if task.on_gpu and self._machine_has_gpus else 0

    def _fits(self, task: Task) -> bool:
        return len(self._running) < self.slots and self._wanted(task) <= len(self._free)

    def _start(self, task: Task) -> None:
        wanted = self._wanted(task)
        gpus = tuple(self._free[:wanted])
        environment = {} if THREADS_VARIABLE in os.environ else {THREADS_VARIABLE: self._threads}
        if self._machine_has_gpus:
            environment[GPUS_VARIABLE] = ",".join(gpus)
        try:
            process = JobProcess(
                task.words,
                report=task.report,
                log=task.log,
                environment=environment,
                grace=self.grace,
                forked=self.forked,
            )
        except OSError as error:  # no more processes, or a full disk: the others go on
            self._ended(task, "failed", f"could not be started: {error}")
            return
        del self._free[:wanted]
        self._running.append(_Running(task, process, gpus))
        self._started(task)

    def _settle(self, running: _Running, code: int) -> None:
        self._running.remove(running)
        self._free.extend(running.gpus)
        report = read_report(running.task.report)
        take_report(running.task.record, report, code)
        self._ended(running.task, *judge(report, code, stopped=self._stopped and not running.why, why=running.why))
