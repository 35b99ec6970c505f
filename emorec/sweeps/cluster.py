"""Runs jobs on a Slurm cluster with submitit. Their state is read from files, so no Slurm accounting is needed."""

import importlib.util
import json
import logging
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emorec.config.launchers import SlurmLauncherConfig
from emorec.errors import Preempted, UserError
from emorec.storage.atomic import write_json
from emorec.sweeps.launcher import Launcher, Task
from emorec.sweeps.process import JobProcess
from emorec.sweeps.report import read_report

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

log = logging.getLogger(__name__)

QUEUE_SECONDS = 10.0  # between two queries of Slurm's queue
SQUEUE_SECONDS = 60.0  # timeout of a query
FILE_SECONDS = 15.0  # after a job has left the queue, until its files are visible on a slow network disk


@dataclass
class ClusterJob:
    """The function that submitit calls on a node for each task of a job: it runs `emorec train` and waits for it."""

    arguments: tuple[str, ...]  # of `emorec`
    report: Path
    state: Path  # written when the job starts, and again with the exit code when it ends
    log: Path  # output of the first task; each other task has its own file beside it
    environment: dict[str, str]  # the `EMOREC_` variables of the process that started the sweep
    grace: float  # seconds between SIGTERM and SIGKILL, in which the job can save
    _process: JobProcess | None = field(default=None, repr=False)

    def __call__(self) -> int:
        from submitit import JobEnvironment

        node = JobEnvironment()
        rank = node.global_rank
        self._process = process = JobProcess(
            self.arguments,
            report=self.report if rank == 0 else None,
            log=self.log if rank == 0 else self.log.with_suffix(f".rank{rank}{self.log.suffix}"),
            environment=self.environment,
            grace=self.grace,
        )
        if node.cluster == "local":  # Slurm sends SIGTERM to all processes of a job
            signal.signal(signal.SIGTERM, lambda *_: process.ask_to_end())
        if rank == 0:
            write_json(self.state, {"host": node.hostname})
        try:
            code = process.wait()
        finally:
            process.ask_to_end()
            process.wait()
        if rank == 0 and "rank" not in (_read_state(self.state) or {}):
            write_json(self.state, {"host": node.hostname, "exit_code": code})
        if rank and code not in (0, Preempted.exit_code):
            write_json(self.state, {"host": node.hostname, "exit_code": code, "rank": rank})
            raise SystemExit(1)  # srun then ends the other tasks, which would wait for this one forever
        return code

    def checkpoint(self) -> "DelayedSubmission":
        """Called by submitit when the job is preempted or out of time: the job saves and is queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.ask_to_end()
            self._process.wait()
        return DelayedSubmission(replace(self, _process=None))


def _state_path(task: Task) -> Path:
    return task.folder / "jobs" / f"{task.record.number}.process.json"


@dataclass
class _Submitted:
    task: Task
    job: "Job[int]"
    missing_since: float | None = None  # time at which it was first missing from the queue


class ClusterLauncher(Launcher):
    """Submits jobs as Slurm arrays, one for each number of machines and devices, and watches them.

    The folder of the sweep must have the same path on all nodes.
    """

    interval = 0.5

    def __init__(self, folder: Path, settings: SlurmLauncherConfig) -> None:
        super().__init__()
        if importlib.util.find_spec("submitit") is None:
            raise UserError("expected submitit for launcher=slurm, which is not installed: pip install 'emorec[sweep]'")
        self.folder, self.cluster, self.gpus, self.grace = folder, settings.cluster, settings.gpus, settings.grace
        self._parameters: dict[str, Any] = {
            "name": f"emorec-{folder.name}",
            "timeout_min": settings.time_minutes,
            "gpus_per_node": settings.gpus or None,
            "cpus_per_task": settings.cpus_per_task,
            "mem_gb": settings.mem_gb,
            "slurm_partition": settings.partition,
            "slurm_account": settings.account,
            "slurm_qos": settings.qos,
            "slurm_array_parallelism": settings.array_parallelism,
            "slurm_setup": settings.setup or None,
            "slurm_additional_parameters": settings.extra or None,
            "slurm_srun_args": ["--kill-on-bad-exit=1"],
        }
        self._submitted: list[_Submitted] = []
        self._queried = 0.0

    def refusal(self, task: Task) -> str | None:
        if not task.on_gpu or not self.gpus or task.devices <= self.gpus:
            return None
        return f"expected trainer.devices of at most launcher.gpus={self.gpus}, got {task.devices}"

    def submit(self, tasks: Sequence[Task]) -> None:
        arrays: dict[tuple[int, int], list[Task]] = defaultdict(list)
        for task in tasks:
            _state_path(task).unlink(missing_ok=True)
            arrays[task.nodes, task.devices].append(task)
        variables = {name: value for name, value in os.environ.items() if name.startswith("EMOREC_")}
        for (nodes, devices), members in arrays.items():
            functions = [
                ClusterJob(task.arguments, task.report, _state_path(task), task.log, variables, self.grace)
                for task in members
            ]
            jobs = self._submit_array(functions, nodes=nodes, tasks_per_node=devices)
            self._submitted += map(_Submitted, members, jobs)
            log.info("submitted %d jobs: %s", len(jobs), ", ".join(job.job_id for job in jobs))

    def poll(self) -> bool:
        for submitted in list(self._submitted):
            state = _read_state(_state_path(submitted.task))
            if state is not None and submitted.task.record.status == "waiting":
                self._started(submitted.task)
            code = None if state is None else state.get("exit_code")
            # A preempted job may be queued again; if it is not, it disappears from the queue.
            if state is not None and code is not None and (self._stopped or code != Preempted.exit_code):
                rank = state.get("rank")
                self._finish(submitted, code, None if rank is None else f"rank {rank} ended with exit code {code}")
        self._finish_lost()
        return bool(self._submitted)

    def stop(self, *, at_once: bool) -> None:
        self._stopped = True
        for submitted in self._submitted:
            process = getattr(submitted.job, "_process", None)  # of submitit's local executor
            if self.cluster == "slurm":
                submitted.job.cancel(check=False)  # SIGTERM, and SIGKILL after the cluster's own grace period
            elif process is not None and process.poll() is None:
                process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def close(self) -> None:
        if self._submitted:
            self.stop(at_once=True)
        for submitted in list(self._submitted):
            self._finish(submitted, -signal.SIGTERM)

    def _submit_array(self, functions: Sequence[ClusterJob], **shape: int) -> "list[Job[int]]":
        from submitit import AutoExecutor
        from submitit.core.utils import FailedJobError

        try:
            executor = AutoExecutor(folder=str(self.folder / "submitit"), cluster=self.cluster)
            parameters = {key: value for key, value in self._parameters.items() if value is not None}
            executor.update_parameters(**(shape if self.cluster == "slurm" else {}), **parameters)
            with executor.batch():
                return [executor.submit(function) for function in functions]
        except (RuntimeError, ValueError, NameError, FailedJobError) as error:
            raise UserError(f"launcher=slurm (launcher.cluster={self.cluster}) could not submit: {error}") from error

    def _finish_lost(self) -> None:
        """Ends the records of jobs that left the queue without an exit code: out of memory, node failure, scancel."""
        now = time.monotonic()
        if now - self._queried < (QUEUE_SECONDS if self.cluster == "slurm" and not self._stopped else 1.0):
            return
        self._queried = now
        queued = self._queued()
        for submitted in list(self._submitted):
            patience = FILE_SECONDS if self.cluster == "slurm" and submitted.task.record.status == "running" else 0.0
            if submitted.job.job_id in queued:
                submitted.missing_since = None
            elif submitted.missing_since is None:
                submitted.missing_since = now
            elif now - submitted.missing_since > patience:
                self._finish_lost_job(submitted)

    def _finish_lost_job(self, submitted: _Submitted) -> None:
        state = _read_state(_state_path(submitted.task)) or {}
        has_result = "exit_code" in state or read_report(submitted.task.report) is not None
        reason = f"the cluster ended job {submitted.job.job_id} without a result ({self.folder / 'submitit'})"
        self._finish(submitted, state.get("exit_code", 1), None if has_result else reason)

    def _queued(self) -> set[str]:
        """Ids of the jobs that wait or run; the ids of all jobs if the cluster does not answer."""
        if self.cluster == "local":
            return {item.job.job_id for item in self._submitted if not item.job.done()}
        submitted = {item.job.job_id for item in self._submitted}
        arrays = sorted({name.partition("_")[0] for name in submitted})
        command = ["squeue", "--array", "--noheader", "--format=%i", f"--jobs={','.join(arrays)}"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SQUEUE_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return submitted
        if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
            return submitted
        return set(answer.stdout.split())

    def _finish(self, submitted: _Submitted, code: int, reason: str | None = None) -> None:
        self._submitted.remove(submitted)
        self._exited(submitted.task, code, None if self._stopped else reason)


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return state
