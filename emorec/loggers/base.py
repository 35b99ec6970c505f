"""Who watches a run: trackers that show it elsewhere, and a study that may end it early."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emorec.runs.checkpoint_store import RunRecord


class StopRun(Exception):  # noqa: N818
    """Raised by an observer to end a run after an epoch; its status becomes "stopped"."""


class RunObserver:
    """Is told what happens to a run; does nothing by itself. Only the process that leads a run has observers."""

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        """Training begins, anew or from a saved state; or a finished run reads test.

        Args:
            record: the run; `record.restarts` counts how often it was begun anew.
            config: resolved, primitives only.
            folder: the run's directory.
        """

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Training goes on after epochs of an earlier start.

        Args:
            rows: what `epoch` was told of each.
        """

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch has ended.

        Args:
            row: `epoch`, `step`, `lr`, `seconds`, `train/loss` and the metrics of validation.

        Raises:
            StopRun: the run is to end here.
        """

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        """The run has its results.

        Args:
            record: with its timings, best epoch and weights.
            metrics: what `metrics.json` holds.
        """

    def closed(self, status: str) -> None:
        """Nothing more will come, whatever became of the run.

        Args:
            status: "finished", "failed", "interrupted" or "stopped".
        """
