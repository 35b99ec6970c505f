"""How long a recording is, without decoding it."""

from pathlib import Path

from emorec.media.source import MICROSECONDS, MediaError, open_container, packets_end
from emorec.media.tracks import LATEST, STATES_LENGTH


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
        return min(max(0.0, packets_end(container)), LATEST)


def _unreadable(reason: str) -> MediaError:
    return MediaError(f"its length cannot be read: {reason}")
