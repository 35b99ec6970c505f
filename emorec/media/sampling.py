"""Chooses the frames of a segment, evenly spaced, and decodes them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emorec.media.frames import FRAME_READERS, DecodingError, FrameReader, Size
from emorec.media.resizing import Frames
from emorec.media.source import MediaError, Reader, read_head
from emorec.media.video_track import read_track


def decode_frames(
    path: Path,
    *,
    start: float | None,
    end: float | None,
    count: int,
    size: int | None,
    crop: str | None,
    reader: Reader,
) -> tuple[Frames, Size]:
    """Frames of a file from `start` to `end` (seconds; `None` for its own), and height and width of the video as shown.

    The frames (count, H, W, 3) have the video's own size, or the `scaled_size` where the decoder can scale to it;
    `size` is `None` for the video's own in any case.

    Raises:
        MediaError: the video is not decodable, or has no frame in the segment.
        OSError: the file is missing or may not be read.
    """
    read_head(path)
    track = read_track(path)
    reason = ""
    for opened in FRAME_READERS[reader]:
        try:
            video = opened(path, track)
            wanted = None if size is None else scaled_size(video.size, crop, size)
            return video.read(_indices(video, start, end, count), wanted), video.size
        except DecodingError as error:
            reason = str(error)
    raise MediaError(f"the video is not decodable: {reason}")


def _indices(video: FrameReader, start: float | None, end: float | None, count: int) -> NDArray[np.int64]:
    """Numbers of frames (count,) at the middle of as many equal stretches."""
    starts, half = video.starts, video.tick / 2  # the ends of a segment are rounded to ticks, as by FFmpeg
    first = 0 if start is None else int(np.searchsorted(starts, start - half))
    last = len(starts) if end is None else int(np.searchsorted(starts, end - half))
    if last <= first:
        raise MediaError(f"the video has no frame between {start} and {end} s")
    return first + ((np.arange(count) + 0.5) * (last - first) / count).astype(np.int64)


def shown_columns(width: int, crop: str | None) -> tuple[int, int]:
    """The first column of a picture that is shown, and the one after the last."""
    halves = {"left": (0, width // 2), "right": (width // 2, width)}
    return halves.get(crop or "", (0, width))


def scaled_size(shown: Size, crop: str | None, size: int) -> Size:
    """Height and width of a whole picture whose shown part has a shorter side of `size` pixels."""
    height, width = shown
    left, right = shown_columns(width, crop)
    scale = size / min(height, right - left)
    return max(size, round(height * scale)), max(size, round(width * scale))
