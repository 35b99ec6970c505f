"""Processes that compute the features of one corpus together, each as `emorec extract` of its own."""

import logging
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from emorec.config.command_line import CommandLine
from emorec.config.launchers import LocalLauncherConfig, SlurmLauncherConfig
from emorec.config.schema import ExtractConfig
from emorec.encoders.encoder import Encoder
from emorec.errors import UserError
from emorec.features.maintenance import WORKERS
from emorec.storage.folders import remove_tree
from emorec.sweeps.launcher import Launcher, Task
from emorec.sweeps.launchers import cores_and_memory_allow, local_launcher
from emorec.sweeps.local import usable_gpus
from emorec.sweeps.record import FAILED, JobRecord
from emorec.sweeps.report import read_report
from emorec.training.processes import forks, start_warm_parent

log = logging.getLogger(__name__)


class ExtractionProcesses:
    """Processes that extract. They are started when this object is first called; it tells whether they still run.

    One that is killed is named, and the others take its work over; the error of one that fails ends all.

    Args:
        line: the command line that they share.
        settings: how they are started.
        config: the config of the command line.
        encoders: that compute the features.
    """

    def __init__(
        self,
        line: CommandLine,
        settings: LocalLauncherConfig | SlurmLauncherConfig,
        config: ExtractConfig,
        encoders: Sequence[Encoder],
    ) -> None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.folder = (config.paths.cache / WORKERS / name).absolute()
        self._arguments = ("extract", *worker_arguments(line))
        self._on_gpu = not all(encoder.on_cpu for encoder in encoders) and config.extraction.device != "cpu"
        self._launcher, self._count = _make_launcher(settings, self.folder, on_gpu=self._on_gpu)
        self._launcher.changed = self._changed
        self._tasks: list[Task] = []

    def __call__(self) -> bool:
        """Whether they still run.

        Raises:
            UserError: one of them has failed, or all have ended and none has finished.
        """
        if not self._tasks:
            self._start()
        runs = self._launcher.poll()
        failed = [task for task in self._tasks if task.record.status in FAILED]
        has_failed = any(read_report(task.report) is not None for task in failed)
        if has_failed or not (runs or any(task.record.status == "finished" for task in self._tasks)):
            logs = {str(task.record.error).removeprefix("UserError: "): task.log for task in failed or self._tasks}
            raise UserError("\n".join(f"{error} (log of the process: {log})" for error, log in logs.items()))
        return runs

    def finish(self) -> None:
        """Waits for the end of those that have begun; ends the others, for which nothing is left.

        Raises:
            UserError: as a call.
        """
        while self._tasks and self() and any(task.record.status == "running" for task in self._tasks):
            time.sleep(self._launcher.interval)
        self.close()

    def close(self) -> None:
        """Asks those that run to write what they have and to end, and waits for it; logs stay where one failed."""
        try:
            self._launcher.stop(at_once=False)
            while self._launcher.poll():
                time.sleep(self._launcher.interval)
        finally:
            self._launcher.close()
        if not any(task.record.status in FAILED for task in self._tasks):
            with suppress(OSError):  # submitit's own processes may write there yet; `cache gc` removes what is left
                remove_tree(self.folder)
                self.folder.parent.rmdir()

    def _start(self) -> None:
        self._tasks = [
            Task(
                record=JobRecord(number, list(self._arguments[1:])),
                arguments=self._arguments,
                folder=self.folder,
                on_gpu=self._on_gpu,
            )
            for number in range(1, self._count + 1)
        ]
        log.info("%d processes share the work: %s", self._count, self.folder)
        self._launcher.submit(self._tasks)

    def _changed(self, record: JobRecord) -> None:
        if record.status in FAILED:
            log.warning("process %d ended: %s; the others take its work over", record.number, record.error)


def worker_arguments(line: CommandLine) -> list[str]:
    """The flags and overrides of a command line, but with `launcher=basic`."""
    overrides = [word for word in line.overrides if word.lstrip("+~").partition("=")[0].partition(".")[0] != "launcher"]
    return [*line.flags, *overrides, "launcher=basic"]


def _make_launcher(
    settings: LocalLauncherConfig | SlurmLauncherConfig, folder: Path, *, on_gpu: bool
) -> tuple[Launcher, int]:
    """The launcher, and the number of processes."""
    if isinstance(settings, SlurmLauncherConfig):
        from emorec.sweeps.cluster import ClusterLauncher

        return ClusterLauncher(folder, settings), settings.jobs
    import torch

    gpus = usable_gpus(torch.cuda.device_count())
    possible = len(gpus) if gpus and on_gpu else cores_and_memory_allow()
    slots = min(settings.slots or possible, possible) if gpus and on_gpu else settings.slots or possible
    if forks(settings.start):
        start_warm_parent()  # imports while this process reads the corpus
    return local_launcher(settings, slots=slots, gpus=gpus), slots
