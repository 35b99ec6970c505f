"""The contract of a logger: it is called when a run starts, after each epoch, and when the run ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emorec.runs.checkpoint_store import RunRecord


class StopRun(Exception):  # noqa: N818
    """Raised by a logger to end a run after an epoch; the run's status becomes "stopped"."""


class RunLogger:
    """Logs a run somewhere; this class does nothing. Only the process that leads a run has loggers."""

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        """Training begins or resumes; or a finished run reads test.

        Args:
            record: the run; `record.restarts` counts how often it began from scratch.
            config: resolved, plain data.
            folder: the run's directory.
        """

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Training goes on after epochs of an earlier start.

        Args:
            rows: what `epoch` was called with for each of them.
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
            metrics: the content of `metrics.json`.
        """

    def closed(self, status: str) -> None:
        """The run has ended.

        Args:
            status: "finished", "failed", "interrupted" or "stopped".
        """
