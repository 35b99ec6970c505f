"""Makes the launcher of a config and its tasks."""

import logging
from collections.abc import Sequence
from pathlib import Path

from emorec.config.launchers import (
    AutoLauncherConfig,
    BasicLauncherConfig,
    LauncherConfig,
    LocalLauncherConfig,
    SlurmLauncherConfig,
)
from emorec.config.schema import TrainConfig
from emorec.machine import usable_cores, usable_memory
from emorec.sweeps.expansion import FEWEST_JOBS
from emorec.sweeps.launcher import Launcher, Task
from emorec.sweeps.local import LocalLauncher, usable_gpus
from emorec.sweeps.plan import PlannedJob, Preparers, mark_invalid
from emorec.training.processes import Handover, forks

log = logging.getLogger(__name__)

JOB_BYTES = 1_500_000_000  # upper estimate of the memory of a job that trains a small head


def make_launcher(
    settings: LocalLauncherConfig | SlurmLauncherConfig, configs: Sequence[TrainConfig], folder: Path
) -> Launcher:
    """Makes a launcher that runs each job in its own process.

    Args:
        settings: `launcher` of the config.
        configs: configs of the jobs.
        folder: folder of the sweep.

    Raises:
        UserError: a package that the launcher needs is not installed.
    """
    if isinstance(settings, SlurmLauncherConfig):
        from emorec.sweeps.cluster import ClusterLauncher

        return ClusterLauncher(folder, settings)
    import torch

    gpus = usable_gpus(torch.cuda.device_count())
    slots = len(gpus) if gpus and any(map(_on_gpu, configs)) else _slots_without_gpu(configs)
    return local_launcher(settings, slots=settings.slots or slots, gpus=gpus)


def local_launcher(settings: LocalLauncherConfig, *, slots: int, gpus: Sequence[str]) -> LocalLauncher:
    """A launcher of that many jobs at a time on the cores and GPUs of this machine."""
    return LocalLauncher(
        slots=slots,
        gpus=gpus,
        cores=usable_cores(),
        timeout=settings.timeout,
        grace=settings.grace,
        forked=forks(settings.start),
    )


def resolve_launcher(
    settings: LauncherConfig, configs: Sequence[TrainConfig]
) -> BasicLauncherConfig | LocalLauncherConfig | SlurmLauncherConfig:
    """Resolves `launcher=auto` to `local` if several processes are faster than one, else to `basic`.

    Args:
        settings: `launcher` of the config.
        configs: configs of the jobs.
    """
    if not isinstance(settings, AutoLauncherConfig):
        return settings
    slots = _slots_without_gpu(configs)
    if len(configs) < FEWEST_JOBS or slots < 2 or not forks():
        return BasicLauncherConfig(name="basic")
    log.info("%d jobs, %d at a time (launcher=local); launcher=basic runs them in one process", len(configs), slots)
    return LocalLauncherConfig(name="local", slots=slots)


def _slots_without_gpu(configs: Sequence[TrainConfig]) -> int:
    """Number of jobs that the cores and the memory of this machine allow at a time; at least 1."""
    threads = max(config.trainer.devices * _threads(config) for config in configs)
    return min(cores_and_memory_allow(threads), len(configs))


def cores_and_memory_allow(threads: int = 1) -> int:
    """Number of processes with that many threads each; at least 1."""
    cores, memory = usable_cores() // threads, usable_memory()
    return max(1, cores if memory is None else min(cores, memory // JOB_BYTES))


def _threads(config: TrainConfig) -> int:
    return 1 if config.trainer.threads == "auto" else config.trainer.threads


def _on_gpu(config: TrainConfig) -> bool:
    return config.trainer.accelerator != "cpu"


def make_tasks(
    jobs: Sequence[PlannedJob], launcher: Launcher, preparers: Preparers, *, folder: Path, sweep: str
) -> list[Task]:
    """Makes the tasks of jobs; a job that the launcher can never start is marked as invalid.

    `preparers` have read the corpora of all jobs.
    """
    tasks = []
    for job in jobs:
        assert job.composed is not None
        config, composed = job.composed.config, job.composed.in_sweep(sweep)
        task = Task(
            record=job.record,
            arguments=tuple(composed.arguments),
            handover=Handover(composed, preparers.of(config).pickled_manifest(config)),
            folder=folder,
            devices=config.trainer.devices,
            nodes=config.trainer.num_nodes,
            on_gpu=_on_gpu(config),
        )
        reason = launcher.refusal(task)
        if reason is None:
            tasks.append(task)
        else:
            mark_invalid(job.record, reason)
    return tasks
