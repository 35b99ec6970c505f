"""The configs of the launchers of a multirun, and of an extraction, told apart by `name`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from emorec.annotations import Count, NonNegative, PositiveCount


@dataclass(frozen=True, kw_only=True)
class AutoLauncherConfig:
    """A multirun in processes of this machine where that is faster, else in one process."""

    name: Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class BasicLauncherConfig:
    """A multirun in one process."""

    name: Literal["basic"]


@dataclass(frozen=True, kw_only=True)
class LocalLauncherConfig:
    """A multirun in processes of this machine."""

    name: Literal["local"]
    slots: PositiveCount | None = None
    start: Literal["auto", "fork", "spawn"] = "auto"
    timeout: NonNegative | None = None
    grace: NonNegative = 30.0


@dataclass(frozen=True, kw_only=True)
class SlurmLauncherConfig:
    """A multirun as arrays of Slurm jobs."""

    name: Literal["slurm"]
    cluster: Literal["slurm", "local"] = "slurm"
    jobs: PositiveCount = 1  # that share the work of `emorec extract`
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus: Count = 1
    cpus_per_task: PositiveCount = 4
    mem_gb: NonNegative | None = None
    time_minutes: PositiveCount = 1440
    array_parallelism: PositiveCount = 256
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    grace: NonNegative = 30.0


LauncherConfig = AutoLauncherConfig | BasicLauncherConfig | LocalLauncherConfig | SlurmLauncherConfig
