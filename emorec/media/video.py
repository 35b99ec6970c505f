"""Frames of a video, all of one size."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from emorec.annotations import Pattern, PositiveCount
from emorec.media.augmentation import VideoAugmentation, generator_of
from emorec.media.faces import NO_FACES, FaceMisses, face_identity, find_face
from emorec.media.frames import FRAME_READERS, DecodingError, FrameReader
from emorec.media.resizing import Frames, resized
from emorec.media.source import Deadline, MediaError, MediaSettings, Reader, Source, read_head
from emorec.media.video_track import read_track

DEFAULT_READER: Reader = "av"

Detector = Annotated[str, Pattern(r"none|haar|.*\.onnx", "none, haar or the path of an .onnx file")]


@dataclass(frozen=True, kw_only=True)
class VideoSettings(MediaSettings):
    """How frames are read; every field counts in a feature's identity.

    Attributes:
        frames: number of frames, evenly spaced over the utterance; a shorter clip repeats frames.
        size: pixels of the square that is cut from the middle, after the shorter side was resized to it.
        faces: "none", or a detector: the square is then cut around the largest face. "haar" for OpenCV's cascades, or
            the path of an .onnx model (see `emorec.media.faces`).
        face_margin: share of the face's box that is added on each side of it.
        augmentation: how views differ.
    """

    where: ClassVar[str] = "encoder.video.media"
    frames: PositiveCount = 16
    size: PositiveCount = 224
    faces: Detector | None = NO_FACES
    face_margin: Annotated[float, Ge(0), Le(2)] = 0.2
    augmentation: VideoAugmentation | None = None

    @property
    def cuts_faces(self) -> bool:
        """Whether the square is cut around a face."""
        return self.faces not in (None, NO_FACES)

    def identity(self, *, augmented: bool = False) -> dict[str, Any]:
        own = super().identity(augmented=augmented)
        if self.cuts_faces:
            return {**own, "faces": face_identity(str(self.faces), f"{self.where}.faces")}
        return {name: value for name, value in own.items() if name not in ("faces", "face_margin")}


def read_video(
    source: Source, settings: VideoSettings, *, reader: Reader | None = None, missed: FaceMisses | None = None
) -> Frames:
    """The frames of a source, or of the view that it names, RGB: (frames, size, size, 3).

    The `reader` is `None` for PyAV. A clip in which no face was found is counted in `missed`.

    Raises:
        MediaError: the video is not decodable, or has no frame in the segment.
        OSError: the file is missing or may not be read.
        UserError: the face detector cannot be used.
    """
    path = source.path
    assert path is not None
    read_head(path)
    frames = _decoded(source, settings, reader, missed)
    if source.view == 0 or settings.augmentation is None:
        return frames
    return settings.augmentation.vary(frames, generator_of(source.view, path, source.segment))


def _decoded(source: Source, settings: VideoSettings, reader: Reader | None, missed: FaceMisses | None) -> Frames:
    assert source.path is not None
    deadline = Deadline(source.seconds)
    track = read_track(source.path, deadline)
    reason = ""
    for opened in FRAME_READERS[reader or DEFAULT_READER]:
        try:
            return _cut(opened(source.path, track, deadline), source, settings, missed)
        except DecodingError as error:
            reason = str(error)
    raise MediaError(f"the video is not decodable: {reason}")


def _cut(video: FrameReader, source: Source, settings: VideoSettings, missed: FaceMisses | None) -> Frames:
    starts, half = video.starts, video.tick / 2  # the ends of a segment are rounded to ticks, as by FFmpeg
    first = 0 if source.start is None else int(np.searchsorted(starts, source.start - half))
    last = len(starts) if source.end is None else int(np.searchsorted(starts, source.end - half))
    if last <= first:
        raise MediaError(f"the video has no frame between {source.start} and {source.end} s")
    # (N,), at the middle of N equal stretches
    indices = first + ((np.arange(settings.frames) + 0.5) * (last - first) / settings.frames).astype(np.int64)
    height, width = video.size
    halves: dict[str | None, tuple[int, int]] = {"left": (0, width // 2), "right": (width // 2, width)}
    left, right = halves.get(source.crop, (0, width))  # the first column that is shown, and the one after the last
    if settings.cuts_faces:
        whole = video.read(indices)[:, :, left:right]  # (N, H, W, 3)
        square = find_face(whole, str(settings.faces), settings.face_margin, f"{settings.where}.faces")
        if square is not None:
            top, start, side = square
            return resized(whole[:, top : top + side, start : start + side], (settings.size, settings.size))
        if missed is not None:
            missed.add()
    scale = settings.size / min(height, right - left)
    target = max(settings.size, round(height * scale)), max(settings.size, round(width * scale))  # height, width
    frames = video.read(indices, target)
    start = round(left * scale)
    end = min(frames.shape[2], max(start + settings.size, round(right * scale)))
    frames = frames[:, :, end - max(settings.size, end - start) : end]
    top, left = ((length - settings.size) // 2 for length in frames.shape[1:3])
    return np.ascontiguousarray(frames[:, top : top + settings.size, left : left + settings.size])
