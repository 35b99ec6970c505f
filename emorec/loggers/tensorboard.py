"""Logs a run to TensorBoard: `tensorboard --logdir checkpoints` shows it."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emorec.errors import UserError
from emorec.loggers.base import RunLogger
from emorec.loggers.published import confusion_images
from emorec.runs.checkpoint_store import RunRecord
from emorec.runs.results import scalar_metrics
from emorec.storage.atomic import make_folder, share

FOLDER = "tensorboard"  # in the run's directory


class TensorboardLogger(RunLogger):
    """Writes each epoch's metrics, and at the end the test metrics and the confusion matrices.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "expected TensorBoard for logger=tensorboard, found none: pip install 'emorec[tensorboard]'"
            )
        self._folder: Path | None = None
        self._writer: Any = None

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        self._folder = make_folder(folder / FOLDER)

    def epoch(self, row: Mapping[str, float]) -> None:
        epoch = int(row["epoch"])
        writer = self._open(purge_step=epoch)  # hides what an earlier start wrote of this epoch and of later ones
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name, value, epoch)
        writer.flush()

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        writer, best = self._open(), record.best_epoch
        for name, value in scalar_metrics(metrics).items():
            if name.startswith("test/"):
                writer.add_scalar(name, value, best)
        for name, image in confusion_images(metrics).items():
            writer.add_image(name, image, best, dataformats="HWC")

    def closed(self, status: str) -> None:
        if self._writer is not None and self._folder is not None:
            self._writer.close()
            self._writer = None
            share(self._folder)

    def _open(self, *, purge_step: int | None = None) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            assert self._folder is not None
            self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
            share(self._folder)  # already now: a colleague resumes a run that was killed
        return self._writer
