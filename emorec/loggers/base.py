"""The contract of a logger: it is called when a run starts, after each epoch, and when the run ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emorec.runs.checkpoint_store import RunRecord


class StopRun(Exception):  # noqa: N818
    """Raised by a logger to end a run after an epoch; the run's status becomes "stopped"."""


class RunLogger:
    """Base class of loggers; its methods do nothing. In a distributed run only rank 0 has loggers."""

    def started(self, record: RunRecord, config: Mapping[str, Any], folder: Path) -> None:
        """Training starts or resumes, or test is read of a run that is finished.

        Args:
            record: the run; `record.restarts` counts how often it started from scratch again.
            config: resolved, plain data.
            folder: the run's directory.
        """

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Training resumes after the epochs of an earlier start.

        Args:
            rows: what `epoch` was called with for each of them.
        """

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch has ended. After a resume, epochs that follow the loaded state are passed again.

        Args:
            row: `epoch`, `step`, `lr`, `seconds`, `train/loss` and the validation metrics.

        Raises:
            StopRun: the run ends here.
        """

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        """The run has its results.

        Args:
            record: with its timings, best epoch and weights.
            metrics: the content of `metrics.json`.
        """

    def closed(self, status: str) -> None:
        """The run has ended. Also called where `started` was not.

        Args:
            status: "finished", "failed", "interrupted" or "stopped".
        """
