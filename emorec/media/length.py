"""How long a recording is, without decoding it."""

from pathlib import Path
from typing import Any

from emorec.media.source import MICROSECONDS, MediaError, clock_start, open_container
from emorec.media.tracks import LATEST, STATES_LENGTH

WRAPPED = 1 << 31  # the last packet of Vorbis may end before it begins: a negative duration, read as an unsigned one


def recorded_seconds(path: Path) -> float:
    """When the last sound or picture of a file ends, seconds on the file's clock.

    The header says it in formats that have a place for it; of others the packets are read.

    Raises:
        MediaError: the file holds no sound and no picture.
        OSError: the file is missing or may not be read.
    """
    with open_container(path, _unreadable) as container:
        if container.format.name in STATES_LENGTH and container.duration:
            return min(float(container.duration / MICROSECONDS), LATEST)
        start = clock_start(container)
        end = max((_end(packet) for packet in container.demux()), default=start)
    return min(max(0.0, end - start), LATEST)


def _end(packet: Any) -> float:
    """Seconds on the clock of its track; 0 for the last packet, which is empty."""
    time, duration = packet.dts if packet.pts is None else packet.pts, packet.duration or 0
    if duration >= WRAPPED:
        duration -= 2 * WRAPPED
    return 0.0 if time is None else float((time + duration) * packet.time_base)


def _unreadable(reason: str) -> MediaError:
    return MediaError(f"its length cannot be read: {reason}")
