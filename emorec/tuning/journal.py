"""The journal of a study, mended before it is read."""

import json
import logging
from pathlib import Path

from emorec.storage.atomic import write_bytes

log = logging.getLogger(__name__)


def drop_broken_lines(journal: Path) -> None:
    """Removes what killed workers and full disks have left half written; Optuna would read nothing after it."""
    try:
        lines = journal.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    whole = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
    if whole and len(whole) < len(lines):  # a file without any such line is no journal
        log.warning("%s: %d lines were half written and are left out", journal, len(lines) - len(whole))
        write_bytes(journal, b"".join(whole))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
