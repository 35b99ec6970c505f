"""Frames of a video, all of one size."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from emorec.annotations import Pattern, PositiveCount
from emorec.media.augmentation import VideoAugmentation, generator_of
from emorec.media.decoding_process import SHARED
from emorec.media.faces import NO_FACES, FaceMisses, face_identity, find_face
from emorec.media.frames import Size
from emorec.media.resizing import Frames, resized
from emorec.media.sampling import scaled_size, shown_columns
from emorec.media.source import MediaSettings, Reader, Source

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
    assert source.path is not None
    frames = _decoded(source, settings, reader or DEFAULT_READER, missed)
    if source.change is not None:
        frames = source.change(frames, 0)
    if source.view == 0 or settings.augmentation is None:
        return frames
    return settings.augmentation.vary(frames, generator_of(source.view, source.path, source.segment))


def _decoded(source: Source, settings: VideoSettings, reader: Reader, missed: FaceMisses | None) -> Frames:
    assert source.path is not None
    decode = partial(
        (source.processes or SHARED).frames,
        source.path,
        start=source.start,
        end=source.end,
        count=settings.frames,
        crop=source.crop,
        reader=reader,
    )
    if settings.cuts_faces:
        whole, (_, width) = decode(size=None)
        left, right = shown_columns(width, source.crop)
        whole = whole[:, :, left:right]  # (N, H, W, 3)
        square = find_face(whole, str(settings.faces), settings.face_margin, f"{settings.where}.faces")
        if square is not None:
            top, start, side = square
            return resized(whole[:, top : top + side, start : start + side], (settings.size, settings.size))
        if missed is not None:
            missed.add()
    frames, shown = decode(size=settings.size)
    return _middle(frames, shown, source.crop, settings.size)


def _middle(frames: Frames, shown: Size, crop: str | None, size: int) -> Frames:
    """Scales frames that the decoder has not scaled, and cuts a square out of the middle of what is shown."""
    target = scaled_size(shown, crop, size)
    if frames.shape[1:3] != target:
        frames = resized(frames, target)
    left, right = shown_columns(shown[1], crop)
    scale = size / min(shown[0], right - left)
    start = round(left * scale)
    end = min(frames.shape[2], max(start + size, round(right * scale)))
    frames = frames[:, :, end - max(size, end - start) : end]
    top, left = ((length - size) // 2 for length in frames.shape[1:3])
    return np.ascontiguousarray(frames[:, top : top + size, left : left + size])
