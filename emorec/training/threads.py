"""How many threads a training computes with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from emorec.config.schema import TrainerConfig
from emorec.machine import usable_cores


def thread_limit() -> int:
    """How many threads this process may compute with: as its environment says, else one for each usable core."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(limit)) if limit.isdigit() else usable_cores()


@contextmanager
def training_threads(settings: TrainerConfig, *, trains_encoders: bool) -> Iterator[int]:
    """Sets the number of threads for a training, and yields it: by default all cores if encoders train, else one.

    A step of a head on stored features takes about a millisecond on a CPU. A second thread makes it slower, for the
    threads wait for each other, and much slower beside another busy process.
    """
    before = torch.get_num_threads()
    automatic = max(1, thread_limit() // settings.devices) if trains_encoders else 1
    wanted = automatic if settings.threads == "auto" else min(settings.threads, thread_limit())
    torch.set_num_threads(wanted)
    try:
        yield wanted
    finally:
        torch.set_num_threads(before)
