"""The process that decodes media for another one: it answers one request after the other until that one ends.

It imports what decoding needs and nothing else, and takes no part in what else may happen: no signal that asks for an
end, and no core file. See `emorec.media.decoding_process` for the other side.
"""

import fcntl
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from emorec.media.connection import Connection
from emorec.media.length import recorded_seconds
from emorec.media.sampling import decode_frames
from emorec.media.sound import decode_sound
from emorec.media.source import MediaError
from emorec.media.video_track import stated_seconds

# signals to a whole process group, on which its other members act
ASKING_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
OOM_SCORE = Path("/proc/self/oom_score_adj")

Answer = tuple[dict[str, Any], NDArray[Any] | None]


def _sound(path: Path, **options: Any) -> Answer:
    waveform, rate = decode_sound(path, **options)
    return {"rate": rate}, waveform


def _frames(path: Path, **options: Any) -> Answer:
    frames, (height, width) = decode_frames(path, **options)
    return {"height": height, "width": width}, frames


def _seconds(path: Path) -> Answer:
    return {"seconds": stated_seconds(path)}, None


def _length(path: Path) -> Answer:
    return {"seconds": recorded_seconds(path)}, None


TASKS: dict[str, Callable[..., Answer]] = {
    "sound": _sound,
    "frames": _frames,
    "seconds": _seconds,
    "length": _length,
}


def serve(descriptor: int) -> None:
    """Answers the requests that come through an open socket."""
    import av  # noqa: F401
    import soundfile  # noqa: F401

    for number in ASKING_TO_END:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # if the machine runs out of memory, this process ends and not its parent
        OOM_SCORE.write_text("1000")
    connection = Connection(socket.socket(fileno=descriptor))
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    with suppress(EOFError, ConnectionError):  # the parent has ended
        connection.send({})
        while True:
            request, _ = connection.receive()
            with _ending_with_parent(descriptor):
                words, values = _answer(**request)
            connection.send(words, values)


@contextmanager
def _ending_with_parent(descriptor: int) -> Iterator[None]:
    """Within the block the end of the parent ends this process, whatever it does: the kernel sends SIGIO.

    It does so as well if the parent sends something, which it never does before it has its answer.
    """
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _answer(*, task: str, path: str, most_bytes: int, **options: Any) -> Answer:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)  # what is allocated; libraries and their stacks do not count
    soft = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        return TASKS[task](Path(path), **options)
    except MediaError as error:
        return {"problem": str(error)}, None
    except OSError as error:
        return {"errno": error.errno, "strerror": error.strerror, "path": path}, None
    except MemoryError:
        return {"lacks_memory": True}, None
