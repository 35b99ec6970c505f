"""The launcher that a config asks for, and the tasks that it is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emorec.config.composition import CommandLine
from emorec.sweeps.plan import PlannedJob, refuse
from emorec.errors import UserError, raise_problems
from emorec.sweeps.launcher import Launcher, Task
from emorec.sweeps.local import LocalLauncher, usable_cores, usable_gpus
from emorec.sweeps.process import train_command

NAMES = ("basic", "local", "slurm")


def check_launcher(settings: Any) -> None:
    """Raises a `UserError` that lists everything in a config's `launcher` that is not as it must be."""
    if not isinstance(settings, Mapping) or settings.get("name") not in NAMES:
        raise UserError(f"expected launcher in {NAMES}, got {settings!r}")
    least = {"local": {"slots": 1, "timeout": 0, "grace": 0}, "slurm": {"gpus": 0, "cpus_per_task": 1, "grace": 0}}
    more = {"time_minutes": 1, "mem_gb": 0, "array_parallelism": 1}
    may_be_null = ("slots", "timeout", "mem_gb")
    problems = []
    for key, lowest in (least.get(settings["name"], {}) | (more if settings["name"] == "slurm" else {})).items():
        value = settings.get(key)
        fraction = key in ("timeout", "grace", "mem_gb")
        kinds = (int, float) if fraction else (int,)
        if value is None and key in may_be_null:
            continue
        if not isinstance(value, kinds) or isinstance(value, bool) or value < lowest:
            kind = "number" if fraction else "whole number"
            problems.append(f"expected launcher.{key} to be a {kind} from {lowest}, got {value!r}")
    if settings["name"] == "slurm" and settings["cluster"] not in ("slurm", "local"):
        problems.append(f"expected launcher.cluster in ('slurm', 'local'), got {settings['cluster']!r}")
    raise_problems("the launcher", problems)


def launcher_for(settings: Mapping[str, Any], configs: Sequence[Mapping[str, Any]], folder: Path) -> Launcher:
    """The launcher of jobs that are processes of their own.

    Args:
        settings: the config's `launcher`.
        configs: of the jobs.
        folder: of the sweep.

    Raises:
        UserError: what it needs is not installed.
    """
    if settings["name"] == "slurm":
        from emorec.sweeps.cluster import ClusterLauncher

        options = {key: value for key, value in settings.items() if key != "name"}
        return ClusterLauncher(folder, **options)
    import torch

    gpus = usable_gpus(torch.cuda.device_count())
    cores = usable_cores()
    shared = len(gpus) if gpus and any(map(_on_gpu, configs)) else max(1, cores // 2)
    return LocalLauncher(
        slots=settings["slots"] or shared,
        gpus=gpus,
        cores=cores,
        timeout=settings["timeout"],
        grace=settings["grace"],
    )


def _on_gpu(config: Mapping[str, Any]) -> bool:
    return str(config["trainer"]["accelerator"]) != "cpu"


def tasks_for(
    jobs: Sequence[PlannedJob], launcher: Launcher, line: CommandLine, *, folder: Path, sweep: str
) -> list[Task]:
    """The tasks of jobs; a job that the launcher can never start is invalid."""
    flags = [] if line.config_dir is None else ["--config-dir", line.config_dir]
    flags += [] if line.config_name == "train" else ["--config-name", line.config_name]
    tasks = []
    for job in jobs:
        assert job.composed is not None
        config, overrides = job.composed.config, job.record.overrides
        task = Task(
            record=job.record,
            command=tuple(train_command(overrides, flags=flags, sweep=sweep)),
            folder=folder,
            devices=config["trainer"]["devices"],
            nodes=config["trainer"]["num_nodes"],
            on_gpu=_on_gpu(config),
        )
        reason = launcher.refusal(task)
        if reason is None:
            tasks.append(task)
        else:
            refuse(job.record, reason)
    return tasks
