"""Cuts recordings into windows of time, or into what is spoken."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from emorec.datasets.utterance import Utterance
from emorec.media.decoding_process import SHARED
from emorec.media.source import MediaError

Window = float | Literal["speech"]
RECORDING = "is a segment of"  # key of the metadata of a segment: the id of the clip that it is cut from
OVERRUN = 1e-6  # seconds; less of a recording makes no further window


def recording_of(segment: Utterance) -> str:
    """The id of the clip that a segment is cut from; of a whole clip its own."""
    return str(segment.metadata.get(RECORDING, segment.id))


def segments_of(clip: Utterance, window: Window, hop: float | None) -> Iterator[Utterance]:
    """The segments of a clip, as turns of one dialogue. Their transcript is not known.

    Where its length cannot be read, or nobody speaks, the clip is its own and only segment.

    Args:
        clip: with sound or a picture.
        window: seconds of a segment, or "speech": from where somebody begins to speak until they pause.
        hop: seconds from the start of a window to that of the next; `None` for the window itself.
    """
    try:
        start, end = _limits(clip)
    except (MediaError, OSError):
        start = end = 0.0  # decoding gives the reason
    if window == "speech":
        from emorec.inference.speech import spoken

        borders = list(spoken(clip, start, end)) if end > start else []
    else:
        borders = [(start + first, start + last) for first, last in windows(end - start, window, hop or window)]
    for number, (first, last) in enumerate(borders or [(clip.start, clip.end)]):
        yield replace(
            clip,
            id=f"{clip.id} #{number}",
            text=None,
            start=None if first is None else round(first, 3),
            end=None if last is None else round(last, 3),
            dialogue=clip.id,
            turn=number,
            metadata={**clip.metadata, RECORDING: clip.id},
        )


def windows(length: float, window: float, hop: float) -> list[tuple[float, float]]:
    """(start, end) of windows that cover a recording of `length` seconds; the last ends where it ends."""
    if length <= 0:
        return []
    if length <= window:
        return [(0.0, length)]
    count = math.ceil((length - window) / hop - OVERRUN)
    starts = [number * hop for number in range(count)]
    return [*((start, start + window) for start in starts), (length - window, length)]


def _limits(clip: Utterance) -> tuple[float, float]:
    """Start and end of a clip, seconds on its file's clock; the end is the start for one without sound and picture."""
    start, path = clip.start or 0.0, clip.audio or clip.video
    if path is None:
        return start, start
    length = SHARED.recorded_seconds(path)
    return start, length if clip.end is None else min(clip.end, length)
