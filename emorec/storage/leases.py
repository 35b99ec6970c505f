"""A lease says that a process reads a folder, so that a clean-up leaves it alone. Any number may be held at once."""

import time
import uuid
from contextlib import suppress
from pathlib import Path

from emorec.storage.claims import Claim, is_dead, read_holder, try_claim

SUFFIX = ".lease"
STALE_SECONDS = 900.0  # long: a clean-up can wait, a reader cannot


def take_lease(folder: Path) -> Claim | None:
    """A lease on a folder, to be released; `None` where the folder cannot be written, which no clean-up can either."""
    try:
        return try_claim(folder / f"{uuid.uuid4().hex}{SUFFIX}")
    except OSError:
        return None


def time_at(folder: Path) -> float:
    """The time by the clock that stamps files in `folder`: on a network disk that is the server's.

    Raises:
        OSError: the folder cannot be written.
    """
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def is_live(claim: Path, now: float) -> bool:
    """Whether a claim's or a lease's holder still works: not known to be dead, and its file touched not long ago."""
    holder = read_holder(claim)
    with suppress(FileNotFoundError):
        return holder is not None and not is_dead(holder) and now - claim.stat().st_mtime < STALE_SECONDS
    return False


def in_use(folder: Path, now: float | None = None) -> bool:
    """Whether a live process holds a lease or a claim in the folder; leftovers of dead ones are removed."""
    now = time.time() if now is None else now
    used = False
    for path in [*folder.glob(f"*{SUFFIX}"), *folder.glob("*.claim")]:
        if is_live(path, now):
            used = True
        elif path.suffix == SUFFIX:
            path.unlink(missing_ok=True)
    return used
