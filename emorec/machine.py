"""What this process may use of the machine."""

import ctypes
import os
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # of numerical libraries
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of glibc's mallopt, from its malloc.h
KEPT_BYTES = 2**31 - 1
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, and that of Windows' Linux


def has_gpu_driver() -> bool:
    """Whether this machine has the driver of a GPU; torch knows better, but takes seconds to import."""
    return any(Path(path).exists() for path in GPU_DRIVERS)


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quotas of its control groups; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def usable_memory() -> int | None:
    """Bytes that are free for this process: of the machine, and of its control groups; `None` where it is unknown."""
    known = [size for size in (_available_memory(), _group_memory()) if size is not None]
    return min(known) if known else None


def keep_freed_memory() -> None:
    """Lets this process keep memory that it has freed, up to `KEPT_BYTES`, where its C library is glibc.

    By default glibc gives large blocks back at once. Where a network trains on a CPU, each step then maps the memory of
    all its activations anew, and the system fills it with zeros.
    """
    if sys.platform.startswith("linux") and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)


def _cpu_quota() -> float | None:
    """Cores' worth of time that the control groups allow; `None` where there is no limit."""
    quotas = []
    for group in _groups("cpu"):
        unified = _read(group / "cpu.max").split()
        period, quota = _read(group / "cpu.cfs_period_us"), _read(group / "cpu.cfs_quota_us")
        if len(unified) == 2 and unified[0] != "max":
            quotas.append(int(unified[0]) / int(unified[1]))
        elif quota and period and int(quota) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _available_memory() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_memory() -> int | None:
    free = []
    for group in _groups("memory"):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            allowed, used = _read(group / limit), _read(group / usage)
            if allowed.isdigit() and used.isdigit():
                free.append(max(0, int(allowed) - int(used)))
    return min(free, default=None)


def _groups(controller: str) -> list[Path]:
    """The folders of this process's control group and of the groups around it."""
    folders = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = CGROUPS if controllers == "" else CGROUPS / controllers
            group = root / path.lstrip("/")
            folders += [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
