"""Decodes media in processes of their own: a clip that hangs, crashes or fills the memory costs that clip alone.

A process serves one clip after the other. It is replaced when it ends, or when a clip takes too long. A clip is at
fault that also ends a new process, as those before it may have damaged the first. All that is decoded goes this way,
plain WAV as well: the way costs about 0.2 ms a clip, and a process that starts 0.15 s. So a few that have done their
work wait for more of it.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emorec.machine import ONE_THREAD
from emorec.media.connection import Array, Connection, Words
from emorec.media.frames import Size
from emorec.media.resizing import Frames
from emorec.media.signal import Waveform
from emorec.media.source import MediaError, Reader, UnfinishedDecodingError

ROOT = Path(__file__).resolve().parents[2]  # from where emorec is imported
CLIP_SECONDS = 600.0  # to decode one clip
CLIP_BYTES = 4_000_000_000  # of memory to decode one clip
START_SECONDS = 120.0  # to import the decoders
MOST_KEPT = 2  # processes that wait for another extraction, of about 50 MB each
END_SECONDS = 10.0  # until a process has ended that has closed its connection, or is killed
SIGNALS = {item.value: item.name for item in signal.Signals}
# no signal to the group interrupts the imports, and `emorec` is the one that this process runs
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path.insert(0, sys.argv[2])
import emorec
del sys.path[0]
from emorec.media.decoder import serve
serve(int(sys.argv[1]))
"""


class _DecodingProcess:
    """A process that decodes: it has imported the decoders and waits for a request.

    Raises:
        RuntimeError: it cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", COMMAND, str(theirs.fileno()), str(ROOT)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={
                    name: value
                    for name, value in {**os.environ, **ONE_THREAD}.items()
                    if not name.startswith("EMOREC_")
                },
                cwd="/",
            )
        self._connection = Connection(ours)
        try:
            self._connection.receive(until=time.monotonic() + START_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            reason = "" if isinstance(error, TimeoutError) else f": it ended with {self.ending()}"
            self.end()
            raise RuntimeError(f"expected a process that decodes media within {START_SECONDS:g} s{reason}") from error

    def ask(self, request: Words, seconds: float, most_bytes: int) -> tuple[Words, Array]:
        """The answer to a request.

        Raises:
            TimeoutError: it takes longer.
            UnfinishedDecodingError: the process ends, or the memory does not suffice.
        """
        try:
            self._connection.send(request)
            words, values = self._connection.receive(until=time.monotonic() + seconds, most_bytes=most_bytes)
        except TimeoutError:
            raise
        except (OSError, EOFError, ValueError) as error:
            raise UnfinishedDecodingError(f"decoding ended with {self.ending()}") from error
        if "lacks_memory" in words:
            raise UnfinishedDecodingError(
                f"decoding took more than {most_bytes / 1e9:g} GB of memory (extraction.clip_bytes)"
            )
        return words, values

    def ending(self) -> str:
        """With what it ends: the name of a signal, or its exit code."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        code = self._process.returncode
        if code is None:
            return "an answer that cannot be read"
        return SIGNALS.get(-code, f"exit code {code}")

    def kill(self) -> None:
        """Kills it while another thread waits for its answer."""
        self._process.kill()

    def end(self) -> None:
        """Kills it and forgets it."""
        self._process.kill()
        self._connection.socket.close()
        with suppress(subprocess.TimeoutExpired):  # a disk that hangs keeps it
            self._process.wait(END_SECONDS)


class _Kept:
    """Decoding processes without work, which the next that needs one takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_DecodingProcess] = []

    def keep(self, process: _DecodingProcess) -> bool:
        """Whether there is room for one more; else its owner ends it."""
        with self._lock:
            has_room = len(self._idle) < MOST_KEPT
            if has_room:
                self._idle.append(process)
            return has_room

    def take(self) -> _DecodingProcess | None:
        """The one that worked last, if there is any."""
        with self._lock:
            return self._idle.pop() if self._idle else None


_kept = _Kept()


def _forget_kept() -> None:
    """After a fork: they are those of the other process."""
    global _kept
    _kept = _Kept()


os.register_at_fork(after_in_child=_forget_kept)


class DecodingProcesses:
    """As many decoding processes as threads decode at once: started when they are needed, and kept.

    What hangs ends with the block of `with`, whose threads then get an error, and all end with this process. A few that
    have no work are kept for the next that decodes.

    Args:
        seconds: to decode one clip.
        most_bytes: of memory to decode one clip.
    """

    def __init__(self, *, seconds: float = CLIP_SECONDS, most_bytes: int = CLIP_BYTES) -> None:
        self._seconds, self._most_bytes = seconds, most_bytes
        self._lock = threading.Lock()
        self._all: set[_DecodingProcess] = set()
        self._idle: list[_DecodingProcess] = []
        self._owner = os.getpid()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            busy = self._all.difference(idle)
        for process in busy:
            process.kill()
        for process in idle:
            if not _kept.keep(process):
                process.end()

    def sound(
        self, path: Path, *, start: float | None, end: float | None, maximum_seconds: float
    ) -> tuple[Waveform, int]:
        """As `emorec.media.sound.decode_sound`; raises `UnfinishedDecodingError` as well."""
        words, waveform = self._decoded("sound", path, start=start, end=end, maximum_seconds=maximum_seconds)
        return waveform, int(words["rate"])

    def frames(
        self,
        path: Path,
        *,
        start: float | None,
        end: float | None,
        count: int,
        size: int | None,
        crop: str | None,
        reader: Reader,
    ) -> tuple[Frames, Size]:
        """As `emorec.media.sampling.decode_frames`; raises `UnfinishedDecodingError` as well."""
        words, frames = self._decoded(
            "frames", path, start=start, end=end, count=count, size=size, crop=crop, reader=reader
        )
        return frames, (int(words["height"]), int(words["width"]))

    def stated_seconds(self, path: Path) -> float:
        """As `emorec.media.video_track.stated_seconds`; raises `UnfinishedDecodingError` as well."""
        return float(self._decoded("seconds", path)[0]["seconds"])

    def recorded_seconds(self, path: Path) -> float:
        """As `emorec.media.length.recorded_seconds`; raises `UnfinishedDecodingError` as well."""
        return float(self._decoded("length", path)[0]["seconds"])

    def _decoded(self, task: str, path: Path, **options: Any) -> tuple[Words, Array]:
        request = {"task": task, "path": os.path.abspath(path), "most_bytes": self._most_bytes, **options}
        try:
            try:
                words, values = self._answer(self._taken(), request)
            except UnfinishedDecodingError:  # an earlier clip may have damaged the process
                words, values = self._answer(self._started(), request)
        except TimeoutError as error:
            raise UnfinishedDecodingError(
                f"decoding took longer than {self._seconds:g} seconds (extraction.clip_seconds)"
            ) from error
        if "problem" in words:
            raise MediaError(words["problem"])
        if "errno" in words:
            raise OSError(words["errno"], words["strerror"], str(path))
        return words, values

    def _answer(self, process: _DecodingProcess, request: Words) -> tuple[Words, Array]:
        """Raises as `_DecodingProcess.ask` does; only a process that answers is kept."""
        try:
            answer = process.ask(request, self._seconds, self._most_bytes)
        except BaseException:
            with self._lock:
                self._all.discard(process)
            process.end()
            raise
        with self._lock:
            self._idle.append(process)
        return answer

    def _taken(self) -> _DecodingProcess:
        """The idle process that decoded last, or a new one."""
        with self._lock:
            if self._owner != os.getpid():  # this process was forked from the one that started them
                self._owner, self._all, self._idle = os.getpid(), set(), []
            if self._idle:
                return self._idle.pop()
        return self._started(_kept.take())

    def _started(self, process: _DecodingProcess | None = None) -> _DecodingProcess:
        """The process, by default a new one, as one of these."""
        if not self._is_closed:
            process = process or _DecodingProcess()
            with self._lock:
                if not self._is_closed:
                    self._all.add(process)
                    return process
            process.end()
        raise UnfinishedDecodingError("decoding was stopped")


SHARED = DecodingProcesses()  # of all that is read outside of extraction
