"""Repairs the journal of a study before it is read."""

import json
import logging
from pathlib import Path

from emorec.storage.atomic import write_bytes

log = logging.getLogger(__name__)


def drop_broken_lines(journal: Path) -> None:
    """Removes lines that are incomplete after a kill or a full disk; Optuna could not read the lines after them."""
    try:
        lines = journal.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    complete = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if complete and len(complete) < len(lines):  # a file without any complete line is no journal
        log.warning("%s: removed %d incomplete lines", journal, len(lines) - len(complete))
        write_bytes(journal, b"".join(complete))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
