"""Benchmark of training on a store five times larger than the memory of its control group."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.benchmarks.figure import Figure, emorec
from tests.benchmarks.training import FLAGS

LIMIT = 1 << 30  # bytes
LONG = ["dataset=synthetic", "encoder/text=random", "encoder/audio=none", "encoder/video=none", "test=false"]
LONG += ["encoder.text.shortest=1300", "encoder.text.longest=1500", "encoder.text.dtype=float16", "batch_size=8"]
LONG += ["dataset.train=2300", "dataset.val=150", "dataset.test=50", "model.hidden=16", "model.normalisation=none"]
LONG += ["features.preload=none", "trainer.max_epochs=2", "extraction.batch_size=8", "progress=false"]


def control_group(name: str, limit: int) -> tuple[Path, Callable[[], None]] | None:
    """A control group with a limit of bytes and a function that joins it; `None` where none can be created."""
    for base, file in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = base / name
        with suppress(OSError):
            group.mkdir()
            (group / file).write_text(str(limit))
            return group, lambda group=group: (group / "cgroup.procs").write_text(str(os.getpid()))  # type: ignore[misc]
    return None


def larger_than_memory(root: Path) -> Figure:
    """Trains two epochs under the limit."""
    name, goal = "store_vs_memory_limit", ">= 5"
    created = control_group(f"emorec_bench_{os.getpid()}", LIMIT)
    if created is None:
        return Figure(name, None, "ratio", goal, "control groups cannot be created here")
    group, join = created
    try:
        environment = {**os.environ, "EMOREC_ROOT": str(root)}
        emorec("extract", *[word for word in LONG if word.split("=")[0] not in TRAINING_KEYS], *FLAGS, env=environment)
        size = sum(path.stat().st_size for path in (root / "cache").glob("random_vectors-*/*.safetensors"))
        done = subprocess.run(
            [sys.executable, "-m", "emorec", "train", *LONG, *FLAGS],
            env=environment,
            preexec_fn=join,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        with suppress(OSError):
            group.rmdir()
    ratio = size / LIMIT if done.returncode == 0 else 0.0
    note = f"a store of {size / 1e9:.1f} GB under {LIMIT / 1e9:.1f} GB, exit code {done.returncode}"
    return Figure(name, ratio, "ratio", goal, note)


TRAINING_KEYS = {"test", "batch_size", "model.hidden", "model.normalisation", "features.preload", "trainer.max_epochs"}
