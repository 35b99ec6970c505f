"""Logging of commands to stderr and to the log file of a run."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO, TextIOWrapper
from pathlib import Path

from emorec.escaping import for_terminal
from emorec.storage.atomic import follow_folder_mode
from emorec.storage.regular_files import open_descriptor

RUN_LOG_ONLY = {"run_log_only": True}  # `extra` of records that are not for stderr, which never shows tracebacks
FORMAT = "%(asctime)s %(levelname)-7s %(message)s"


def start_logging() -> None:
    """Logs to stderr: emorec from INFO on, libraries from WARNING on."""
    root = logging.getLogger()
    if not any(isinstance(handler, logging.StreamHandler) for handler in root.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Escaped("%(message)s"))
        handler.addFilter(lambda record: record.exc_info is None and not hasattr(record, "run_log_only"))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("emorec").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


class _Escaped(logging.Formatter):
    """Formats records for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


class _RunLog(logging.FileHandler):
    """A log file, never behind a link; errors such as a full disk lose lines of the log, but do not stop the run."""

    def _open(self) -> TextIOWrapper:
        descriptor = open_descriptor(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT, follow=False)
        return TextIOWrapper(FileIO(descriptor, "a"), encoding=self.encoding, errors=self.errors, write_through=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Also appends emorec's log to a file."""
    handler = _RunLog(path, encoding="utf-8", errors="backslashreplace")
    follow_folder_mode(path)
    handler.setFormatter(_Escaped(FORMAT))
    logger = logging.getLogger("emorec")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def quiet(enabled: bool = True, *, level: int = logging.WARNING) -> Iterator[None]:
    """If enabled, logs only what is at a level or above: warnings and errors by default."""
    logger = logging.getLogger("emorec")
    before = logger.level
    logger.setLevel(level if enabled else before)
    try:
        yield
    finally:
        logger.setLevel(before)
