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

        The config is resolved, plain data; `folder` is the run's directory; `record.restarts` counts how often the run
        started from scratch again.
        """

    def resumed(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Training resumes after the epochs of an earlier start, with the row that `epoch` got for each of them."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch has ended. After a resume, epochs that follow the loaded state are passed again.

        Args:
            row: `epoch`, `step`, `lr`, `seconds`, `train/loss` and the validation metrics.

        Raises:
            StopRun: the run ends here.
        """

    def finished(self, record: RunRecord, metrics: Mapping[str, Any]) -> None:
        """The run has its results: timings, best epoch and weights in `record`, and the content of `metrics.json`."""

    def closed(self, status: str) -> None:
        """The run has ended as "finished", "failed", "interrupted" or "stopped". Also called without `started`."""
