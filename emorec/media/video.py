"""Pictures of a video as frames of one size."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emorec.media.source import MediaError, MediaSettings, Source

Frames = NDArray[np.uint8]

SMALLEST = 64  # pixels; decord does not reliably resize to less


@dataclass(frozen=True, kw_only=True)
class VideoSettings(MediaSettings):
    """How pictures are read; every field counts in a feature's identity.

    Attributes:
        frames: how many frames, evenly spaced over the utterance; a shorter clip repeats frames.
        size: pixels of the square that is cut from the middle, after the shorter side was resized to it.
    """

    frames: int = 16
    size: int = 224


def read_video(source: Source, settings: VideoSettings) -> Frames:
    """The frames of a source, RGB: (frames, size, size, 3).

    Raises:
        MediaError: the video is not decodable, or has no frame in the segment.
        OSError: the file is missing or may not be read.
    """
    path = source.path
    assert path is not None
    with path.open("rb") as stream:  # a missing file or a refused one is no fault of the content
        if not stream.read(1):
            raise MediaError("the file is empty")
    import decord

    stored = _stored_size(path)
    try:
        return _decode(path, stored, source, settings)
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise MediaError(f"the video is not decodable: {_reason(error)}") from error


def _decode(path: Path, stored: tuple[int, int], source: Source, settings: VideoSettings) -> Frames:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    first, last = _frame_range(reader, source.start, source.end)
    if last <= first:
        raise MediaError(f"the video has no frame between {source.start} and {source.end} s")
    # (N,), at the middle of N equal stretches
    places = first + ((np.arange(settings.frames) + 0.5) * (last - first) / settings.frames).astype(np.int64)
    height, width = reader[0].shape[:2]  # as it is shown: decord turns clips of a phone held upright
    left, right = _side(source.crop, width)
    scale = settings.size / min(height, right - left)
    target = max(settings.size, round(height * scale)), max(settings.size, round(width * scale))  # height, width
    if (height, width) == stored and min(target) >= SMALLEST:
        reader = decord.VideoReader(str(path), width=target[1], height=target[0], num_threads=1)
        frames = reader.get_batch(places).asnumpy()
    else:
        frames = _resized(reader.get_batch(places).asnumpy(), target)
    start = round(left * scale)
    end = min(frames.shape[2], max(start + settings.size, round(right * scale)))
    return _centre(frames[:, :, end - max(settings.size, end - start) : end], settings.size)


def _resized(frames: Frames, target: tuple[int, int]) -> Frames:
    """(N, H, W, 3) to (N, *target, 3)."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()  # (N, 3, H, W)
    resized = interpolate(pixels, target, mode="bilinear", antialias=True).round().clamp(0, 255)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).byte().numpy())


def _stored_size(path: Path) -> tuple[int, int]:
    """Height and width of the picture as it is stored, before it is turned."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError("the file has no video track")
            picture = container.streams.video[0]
            height, width = int(picture.height), int(picture.width)
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(f"the video is not decodable: {_reason(error)}") from error
    if not height or not width:
        raise MediaError("the video states no picture size")
    return height, width


def _side(crop: str | None, width: int) -> tuple[int, int]:
    if crop == "left":
        return 0, width // 2
    return (width // 2, width) if crop == "right" else (0, width)


def _frame_range(reader: Any, start: float | None, end: float | None) -> tuple[int, int]:
    """The first frame of the segment, and the one after its last."""
    if start is None and end is None:
        return 0, len(reader)
    starts = reader.get_frame_timestamp(range(len(reader)))[:, 0]
    first = 0 if start is None else int(np.searchsorted(starts, start - 1e-6))
    return first, len(reader) if end is None else int(np.searchsorted(starts, end))


def _centre(frames: Frames, size: int) -> Frames:
    top, left = (frames.shape[1] - size) // 2, (frames.shape[2] - size) // 2
    return np.ascontiguousarray(frames[:, top : top + size, left : left + size])


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[[^]]*\]\s*\S*:\s*", "", lines[0])[:200]
