"""Several workers of one study on this machine: processes that are forked from the warm parent where that is safe."""

import logging
import multiprocessing
import os
import signal

from emorec.config.command_line import CommandLine
from emorec.errors import Preempted
from emorec.training.processes import end_children, start_child, when_parent_ends

log = logging.getLogger(__name__)

GRACE_SECONDS = 30.0  # for a worker to give its trial up


def follow_parent() -> None:
    """A worker that another worker has started ends with it."""
    if multiprocessing.parent_process() is not None:
        when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM), os.getppid())


def run_workers(line: CommandLine, count: int) -> None:
    """Runs `count` workers until the study has its trials. One that fails is reported; the others go on."""
    arguments = ["tune", *line.flags, *line.overrides, "study.workers=1"]
    workers = [start_child(arguments, os.environ) for _ in range(count)]
    try:
        for worker in workers:
            if code := worker.wait():
                log.warning("a worker of the study ended with exit code %d", code)
    except (KeyboardInterrupt, Preempted):
        end_children(workers, signal.SIGTERM, GRACE_SECONDS)
        raise
    finally:
        end_children(workers, signal.SIGTERM, 0.0)
