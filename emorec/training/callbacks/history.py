"""What a run keeps of its epochs: their metrics, and the weights of the best."""

import csv
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from torch import Tensor

from emorec.progress import Progress
from emorec.models.lightning_overhead import EpochCallback
from emorec.loggers.base import RunObserver
from emorec.storage.atomic import write_text


class History(EpochCallback):
    """Keeps each epoch's metrics and the weights of the best epoch by the monitor; the first of equals counts.

    Args:
        path: the CSV file.
        monitor: such as "val/uar".
        direction: "max" or "min".
        progress: shows the epochs.
        observers: are told of each epoch.
    """

    def __init__(
        self,
        *,
        path: Path,
        monitor: str,
        direction: str,
        progress: Progress,
        observers: Sequence[RunObserver] = (),
    ) -> None:
        self.path, self.monitor, self.direction, self.progress = path, monitor, direction, progress
        self.observers = tuple(observers)
        self.rows: list[dict[str, float]] = []
        self.best_epoch: int | None = None
        self.best_score: float | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.first_step: float | None = None  # when, by the monotonic clock
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "lr": rate,
                "seconds": self._seconds(),
                **metrics,
            }
        )
        score = metrics[self.monitor]
        sign = 1 if self.direction == "max" else -1
        if not math.isnan(score) and (self.best_score is None or sign * score > sign * self.best_score):
            self.best_epoch, self.best_score = trainer.current_epoch, score
            weights = trainer.strategy.lightning_module_state_dict()  # whole, also where ranks hold parts of it
            self.best_weights = {name: value.detach().clone().cpu() for name, value in weights.items()}
        self.progress.advance(1, f"{self.monitor}={score:.3f}")
        for observer in self.observers:
            observer.epoch(self.rows[-1])

    def on_train_batch_end(self, *_: Any) -> None:
        self.first_step = time.monotonic()
        self.on_train_batch_end = None  # type: ignore[assignment,method-assign]  # it has seen what it waited for

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._last = time.monotonic()

    def _seconds(self) -> float:
        """Since the last epoch ended."""
        last, self._last = self._last, time.monotonic()
        return round(self._last - last, 4)

    def write(self) -> None:
        """Writes the epochs as CSV, a column a metric."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        stream = io.StringIO()
        table = csv.DictWriter(stream, names, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text(self.path, stream.getvalue())

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]
        self.best_epoch, self.best_score = state_dict["best_epoch"], state_dict["best_score"]
        self.best_weights = dict(state_dict["best_weights"])
        self.progress.advance(len(self.rows))
        for observer in self.observers:
            observer.resumed(self.rows)
