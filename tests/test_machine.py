"""Claims about what a process may use of the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emorec import machine
from tests.conftest import REPOSITORY


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a control group "outer/inner" that takes the place of this process's own."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    read = machine._read
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(
        machine, "_read", lambda path: "0::/outer/inner" if path == Path("/proc/self/cgroup") else read(path)
    )
    return inner


def test_cores_are_limited_by_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    monkeypatch.setattr(machine, "_cpu_quota", lambda: None)
    assert machine.usable_cores() == 3


def test_cores_are_limited_by_the_smallest_quota_around_the_process(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert machine.usable_cores() == 16
    (group / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores() == 16
    (group / "cpu.max").write_text("800000 100000\n")
    assert machine.usable_cores() == 8
    (group.parent / "cpu.max").write_text("250000 100000\n")
    assert machine.usable_cores() == 2
    (group.parent / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores() == 1


def test_memory_is_limited_by_the_smallest_of_the_groups(group: Path) -> None:
    for folder, limit, used in ((group, 4000, 1000), (group.parent, 5000, 4500)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    assert machine.usable_memory() == 500


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    code = (
        "import resource\n"
        "import torch\n"
        "from emorec.machine import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5):\n"
        "        torch.empty(20_000_000).fill_(1.0)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "mapped = faults()\n"
        "keep_freed_memory()\n"
        "for _ in range(4):\n"
        "    faults()\n"
        "print(mapped, faults())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    mapped, kept = map(int, done.stdout.split())
    assert kept < mapped / 10
