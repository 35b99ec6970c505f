"""Cuts recordings into windows of time, or into what is spoken."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from emorec.datasets.utterance import Utterance
from emorec.errors import UserError
from emorec.inference.clips import UNREADABLE
from emorec.media.decoding_process import SHARED
from emorec.media.source import MediaError

Window = float | Literal["speech"]
Border = tuple[float | None, float | None]  # start and end, seconds; `None` for those of the file
RECORDING = "is a segment of"  # key of the metadata of a segment: the id of the clip that it is cut from
UNKNOWN_TEXT = "which part of the transcript belongs to a segment is not known; text=whisper transcribes it"
OVERRUN = 1e-6  # seconds; less of a recording makes no further window


def check_window(window: Window, hop: float | None) -> None:
    """Raises a `UserError` for segments that do not cover a recording."""
    if isinstance(window, str):
        if window != "speech" or hop is not None:
            raise UserError(f'window: expected seconds, or "speech" without a hop, got {window!r} with hop={hop}')
    elif window <= 0 or not 0 < (window if hop is None else hop) <= window:
        raise UserError(f"hop: expected more than 0 and up to the seconds of a window, got {hop} with window={window}")


def recording_of(segment: Utterance) -> str:
    """The id of the clip that a segment is cut from; of a whole clip its own."""
    return str(segment.metadata.get(RECORDING, segment.id))


def segments_of(clip: Utterance, window: Window, hop: float | None) -> Iterator[Utterance]:
    """The segments of a clip, as turns of one dialogue. The transcript of a part of it is not known.

    Where nothing can be read of its media, or nobody speaks, the clip is its own and only segment.

    Args:
        clip: with sound or a picture.
        window: seconds of a segment, or "speech": from where somebody begins to speak until they pause.
        hop: seconds from the start of a window to that of the next; `None` for the window itself.
    """
    borders = _borders(clip, window, hop)
    for number, (start, end) in enumerate(borders):
        text, metadata = clip.text, {**clip.metadata, RECORDING: clip.id}
        if len(borders) > 1 and text is not None:
            text, metadata[UNREADABLE] = None, UNKNOWN_TEXT
        yield replace(
            clip,
            id=f"{clip.id} #{number}",
            text=text,
            start=None if start is None else round(start, 3),
            end=None if end is None else round(end, 3),
            dialogue=clip.id,
            turn=number,
            metadata=metadata,
        )


def _borders(clip: Utterance, window: Window, hop: float | None) -> list[Border]:
    whole: Border = (clip.start, clip.end)
    try:
        start, end = _limits(clip)
        if end <= start:
            return [whole]
        whole = (start, end)
        if isinstance(window, str):
            from emorec.inference.speech import spoken

            return [*spoken(clip, start, end)] or [whole]
    except (MediaError, OSError):  # decoding the clip gives the reason
        return [whole]
    return [(start + first, start + last) for first, last in windows(end - start, window, hop or window)]


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
