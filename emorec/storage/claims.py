"""Claims: files that let one process at a time do a piece of work.

A claim is a file that is created atomically and exclusively. It names the host, the boot, the PID namespace, the
process and the start time of the process, and a thread touches it while the work goes on. A claim is stale once its
process is known to be dead, or once its file has not been touched for `stale_after` seconds by the clock of the waiting
process (the clocks of other hosts may differ).

Only a process of the same boot and PID namespace can be known to be dead. Names of hosts say nothing: containers share
them.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from emorec.storage.atomic import follow_folder_mode, make_folder
from emorec.storage.folders import temporary_path
from emorec.storage.regular_files import read_regular

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
LARGEST_CLAIM = 1 << 16  # bytes


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim."""

    host: str
    boot: str
    pid: int
    started: str  # start time of the process in clock ticks since boot: it differs for a reused pid
    token: str
    namespace: str = ""  # the PID namespace; empty where it is unknown

    def __post_init__(self) -> None:
        """Raises a `TypeError` for the content of a file that is no claim."""
        words = (self.host, self.boot, self.started, self.token, self.namespace)
        if not all(isinstance(word, str) and word.isprintable() for word in words) or type(self.pid) is not int:
            raise TypeError(f"expected the holder of a claim, got {words} and process {self.pid!r}")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _pid_namespace() -> str:
    """The PID namespace of this process; empty where it is unknown, or where `/proc` shows another one."""
    with suppress(OSError):
        if Path("/proc/self").readlink() == Path(str(os.getpid())):
            return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _process_state(pid: int) -> tuple[str, str]:
    """The state of a process, "Z" for a zombie, and its start time; both are empty where they are unknown."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    return "", ""


def this_process() -> Holder:
    """This process as a holder, with a new token."""
    pid = os.getpid()
    started = _process_state(pid)[1]
    return Holder(socket.gethostname(), _boot_id(), pid, started, uuid.uuid4().hex, _pid_namespace())


def read_holder(path: Path) -> Holder | None:
    """The holder named in a claim file, or `None` where the file is missing or not readable."""
    try:
        return Holder(**json.loads(read_regular(path, most=LARGEST_CLAIM, follow=False)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def is_alive(holder: Holder) -> bool | None:
    """Whether the holder's process is alive; `None` where this process cannot know it, so that only the heartbeat
    counts: it is in another container or on another host, or `/proc` hides the processes of other users."""
    own = (_boot_id(), _pid_namespace())
    if (holder.boot, holder.namespace) != own or not all(own) or not holder.started or holder.pid < 1:
        return None
    with suppress(PermissionError):  # another user's process
        try:
            os.kill(holder.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    state, started = _process_state(holder.pid)
    return started == holder.started and state != "Z" if started else None


def is_dead(holder: Holder) -> bool:
    """Whether the holder's process is known to have ended."""
    return is_alive(holder) is False


class Claim:
    """A held claim, until `release` or the end of the `with` block.

    `lost` becomes true at the next heartbeat after another process has taken the claim over; `is_held` looks now.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path = path
        self.holder = holder
        self.lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {path.name}", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS) and self.is_held():
            with suppress(OSError):
                os.utime(self.path, follow_symlinks=False)

    def is_held(self) -> bool:
        """Whether the file of the claim still names this process; a file that cannot be read now says nothing."""
        holder = read_holder(self.path)
        if not self.lost and holder != self.holder and (holder is not None or not os.path.lexists(self.path)):
            self.lost = True
            log.warning("the claim %s was taken over by %s", self.path, holder or "another process")
        return not self.lost

    def release(self) -> None:
        """Removes the claim, unless another process has taken it over."""
        self._stop.set()
        self._thread.join()
        if read_holder(self.path) == self.holder:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _create(path: Path, holder: Holder) -> bool:
    """Creates the claim file atomically and exclusively; false where it exists."""
    temporary = temporary_path(path)
    text = json.dumps(asdict(holder))
    try:
        temporary.write_text(text)
        follow_folder_mode(temporary)
        os.link(temporary, path)  # atomic on network disks too
    except FileExistsError:
        return False
    except OSError as error:
        if not temporary.exists() or error.errno in (errno.ENOSPC, errno.EROFS):
            error.filename = error.filename or str(path)
            raise
        return _create_without_link(path, text)  # a filesystem without hard links
    finally:
        with suppress(OSError):
            temporary.unlink()
    return True


def _create_without_link(path: Path, text: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    follow_folder_mode(path)
    return True


def remove_stale(path: Path, stale: Holder | None) -> None:
    """Removes the claim if `stale` still holds it, under an advisory lock on the folder.

    On a disk where locks have no effect two processes can take a claim over at once; one of them loses it later.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        if read_holder(path) == stale:
            path.unlink(missing_ok=True)
    finally:
        os.close(folder)


class Watch:
    """Watches the claim of another process and reports when it is stale."""

    def __init__(self, path: Path, stale_after: float) -> None:
        self.path = path
        self.stale_after = stale_after
        self.holder: Holder | None = None  # as last seen
        self._seen: tuple[Holder | None, int] | None = None
        self._since = time.monotonic()

    def stale(self) -> bool:
        """Whether the holder is dead or has not touched its claim for `stale_after` seconds of this process's clock."""
        try:
            seen = (read_holder(self.path), self.path.lstat().st_mtime_ns)
        except FileNotFoundError:
            return False
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        self.holder = seen[0]
        return (self.holder is not None and is_dead(self.holder)) or time.monotonic() - self._since > self.stale_after


def try_claim(path: Path) -> Claim | None:
    """Takes the claim without waiting, also from a process that is known to be dead; `None` where it is held."""
    make_folder(path.parent)
    while True:
        holder = this_process()
        if _create(path, holder):
            return Claim(path, holder)
        other = read_holder(path)
        if other is None or not is_dead(other):
            return None
        log.warning("taking over from %s, which ended without finishing (%s)", other, path)
        remove_stale(path, other)


def acquire(
    path: Path,
    *,
    stale_after: float = STALE_SECONDS,
    poll: float = 0.2,
    waiting: Callable[[Holder | None], bool | None] | None = None,
) -> Claim | None:
    """Waits until this process holds the claim at `path`, which the caller releases; `None` where `waiting` gave up.

    Args:
        path: the file of the claim.
        stale_after: seconds without a heartbeat after which a claim is taken over.
        poll: seconds between two attempts.
        waiting: called with the holder after each failed attempt; gives up if it returns `False`.
    """
    watch = Watch(path, stale_after)
    while (claim := try_claim(path)) is None:
        if watch.stale():
            log.warning("taking over from %s: no sign of life for %.0f s (%s)", watch.holder, stale_after, path)
            remove_stale(path, watch.holder)
            continue
        if waiting is not None and waiting(read_holder(path)) is False:
            return None
        time.sleep(poll)
    return claim


@contextmanager
def claimed(
    path: Path,
    *,
    stale_after: float = STALE_SECONDS,
    poll: float = 0.2,
    waiting: Callable[[Holder | None], None] | None = None,
) -> Iterator[Claim]:
    """Holds the claim at `path` inside the block and waits for it without a limit. Arguments as for `acquire`."""
    claim = acquire(path, stale_after=stale_after, poll=poll, waiting=waiting)
    assert claim is not None
    with claim:
        yield claim
