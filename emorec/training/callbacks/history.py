"""Keeps the metrics of each epoch."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning

from emorec.loggers.base import RunLogger
from emorec.models.lightning_overhead import EpochCallback
from emorec.progress import Progress
from emorec.storage.atomic import write_text


class History(EpochCallback):
    """Keeps each epoch's metrics and passes them to the loggers.

    Args:
        path: the CSV file.
        monitor: such as "val/uar"; shown by the progress bar.
        progress: counts the epochs.
        loggers: are called after each epoch.

    Attributes:
        rows: one for each epoch.
        first_step: when the first step had ended, by the monotonic clock.
    """

    def __init__(self, *, path: Path, monitor: str, progress: Progress, loggers: Sequence[RunLogger] = ()) -> None:
        self.path, self.monitor, self.progress, self.loggers = path, monitor, progress, tuple(loggers)
        self.rows: list[dict[str, float]] = []
        self.first_step: float | None = None
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.add(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
                "seconds": self._seconds(),
                **metrics,
            }
        )

    def add(self, row: dict[str, float]) -> None:
        """Keeps the row of an epoch, and passes it to the loggers."""
        self.rows.append(row)
        self.progress.advance(1, f"{self.monitor}={row[self.monitor]:.3f}")
        for logger in self.loggers:
            logger.epoch(row)

    def on_train_batch_end(self, *_: Any) -> None:
        self.first_step = time.monotonic()
        self.on_train_batch_end = None  # type: ignore[assignment,method-assign]  # once is enough

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._last = time.monotonic()

    def _seconds(self) -> float:
        """Since the end of the last epoch."""
        last, self._last = self._last, time.monotonic()
        return round(self._last - last, 4)

    def write(self) -> None:
        """Writes the epochs as CSV, a column for each metric."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        stream = io.StringIO()
        table = csv.DictWriter(stream, names, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.path, stream.getvalue())

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]
        self.progress.advance(len(self.rows))
        for logger in self.loggers:
            logger.resumed(self.rows)
