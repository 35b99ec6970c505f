"""Leases: files that mark a folder as in use, so that maintenance keeps it. Any number can be held at once."""

import time
import uuid
from contextlib import suppress
from pathlib import Path

from emorec.storage.claims import Claim, is_dead, read_holder, try_claim
from emorec.storage.folders import list_folder, temporary_path

SUFFIX = ".lease"
STALE_SECONDS = 900.0  # long, for maintenance can wait and a reader cannot


def take_lease(folder: Path) -> Claim | None:
    """A lease on a folder, which the caller releases; `None` where the folder cannot be written, nor be removed."""
    try:
        return try_claim(folder / f"{uuid.uuid4().hex}{SUFFIX}")
    except OSError:
        return None


def time_at(folder: Path) -> float:
    """The time by the clock that sets file times in `folder`, which on a network disk is the server's.

    Raises:
        OSError: the folder cannot be written.
    """
    probe = temporary_path(folder / "time")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def is_live(claim: Path, now: float) -> bool:
    """Whether the holder of a claim or lease is alive: not known to be dead, and its file touched recently.

    Where the holder cannot be read, as in a file that another user has closed to this one, the heartbeat counts.
    """
    holder = read_holder(claim)
    with suppress(FileNotFoundError):
        return not (holder is not None and is_dead(holder)) and now - claim.lstat().st_mtime < STALE_SECONDS
    return False


def in_use(folder: Path, now: float | None = None) -> bool:
    """Whether a live process holds a lease or a claim in the folder; leases of dead processes are removed."""
    now = time.time() if now is None else now
    used = False
    for path in [*list_folder(folder, f"*{SUFFIX}"), *list_folder(folder, "*.claim")]:
        if is_live(path, now):
            used = True
        elif path.suffix == SUFFIX:
            path.unlink(missing_ok=True)
    return used
