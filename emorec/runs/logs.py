"""What a command says while it runs: to stderr, and to the run's log."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emorec.storage.atomic import follow_folder_mode

RUN_LOG_ONLY = {"run_log_only": True}  # `extra` of what is for the run's log alone; tracebacks are so anyway
FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def start_logging() -> None:
    """Sends emorec's log to stderr, and only warnings of the libraries."""
    root = logging.getLogger()
    if not any(isinstance(handler, logging.StreamHandler) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.addFilter(lambda record: record.exc_info is None and not hasattr(record, "run_log_only"))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("emorec").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


class _RunLog(logging.FileHandler):
    """A full disk costs the log its lines, and nobody anything else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Appends emorec's log to a file as well."""
    handler = _RunLog(path)
    follow_folder_mode(path)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger = logging.getLogger("emorec")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def quiet(really: bool = True) -> Iterator[None]:
    """Says only warnings, where `really`."""
    logger = logging.getLogger("emorec")
    level = logger.level
    logger.setLevel(logging.WARNING if really else level)
    try:
        yield
    finally:
        logger.setLevel(level)
