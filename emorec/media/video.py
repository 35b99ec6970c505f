"""Pictures of a video as frames of one size."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emorec.errors import check_all
from emorec.media.augmentation import VideoAugmentation, generator_of
from emorec.media.faces import NO_FACES, checked_faces, count_fallback, face_identity, find_face
from emorec.media.fields import checked_count, checked_number
from emorec.media.frames import FRAME_READERS, DecodingError, FrameReader, Reader, picture_of
from emorec.media.resizing import resized
from emorec.media.source import MediaError, MediaSettings, Source

Frames = NDArray[np.uint8]
SHARE_OF_FILE = 0.8  # of a file's stated length that has to have frames, where their number is not stated
FRAMES_SECONDS = 1.0  # a frame may be shown as long as that


@dataclass(frozen=True, kw_only=True)
class VideoSettings(MediaSettings):
    """How pictures are read; every field counts in a feature's identity.

    Attributes:
        frames: how many frames, evenly spaced over the utterance; a shorter clip repeats frames.
        size: pixels of the square that is cut from the middle, after the shorter side was resized to it.
        faces: the square is cut around the largest face instead: "none", "haar" for OpenCV's cascades, or the path of
            an .onnx detector (`emorec.media.faces` says what it takes and gives).
        face_margin: share of the face's box that is added on each side of it.
        augmentation: fields of `VideoAugmentation`.
    """

    where: ClassVar[str] = "encoder.video.media"
    frames: int = 16
    size: int = 224
    faces: str | None = NO_FACES
    face_margin: float = 0.2

    def __post_init__(self) -> None:
        check_all(
            self.where,
            [
                lambda: checked_faces(self.faces, f"{self.where}.faces"),
                lambda: checked_number(self.face_margin, f"{self.where}.face_margin", low=0.0, high=2.0),
                lambda: checked_count(self.frames, f"{self.where}.frames", low=1),
                lambda: checked_count(self.size, f"{self.where}.size", low=1),
                lambda: self.variation,
            ],
        )

    @property
    def cuts_faces(self) -> bool:
        """Whether the square is cut around a face."""
        return self.faces not in (None, NO_FACES)

    @property
    def variation(self) -> VideoAugmentation | None:
        return VideoAugmentation.of(self.augmentation, f"{self.where}.augmentation")

    def identity(self, *, augmented: bool = False) -> dict[str, Any]:
        own = super().identity(augmented=augmented)
        if not self.cuts_faces:  # a margin around nothing changes nothing
            return {name: value for name, value in own.items() if name not in ("faces", "face_margin")}
        return {**own, "faces": face_identity(str(self.faces), f"{self.where}.faces")}


def read_video(source: Source, settings: VideoSettings, *, reader: Reader | None = None) -> Frames:
    """The frames of a source, RGB: (frames, size, size, 3).

    Args:
        source: what is read; the view of it that it says.
        settings: how.
        reader: "decord" or "av"; `None` for decord, then PyAV.

    Raises:
        MediaError: the video is not decodable, or has no frame in the segment.
        OSError: the file is missing or may not be read.
        UserError: faces are wanted and their detector cannot be used.
    """
    path = source.path
    assert path is not None
    with path.open("rb") as stream:  # a missing file or a refused one is no fault of the content
        if not stream.read(1):
            raise MediaError("the file is empty")
    frames = _decoded(source, settings, reader)
    variation = settings.variation if source.view else None
    return frames if variation is None else variation.vary(frames, generator_of(source.view, path, source.segment))


def _decoded(source: Source, settings: VideoSettings, reader: Reader | None) -> Frames:
    assert source.path is not None
    picture = picture_of(source.path)
    reason = ""
    for name in (reader,) if reader else FRAME_READERS:
        try:
            video = FRAME_READERS[name](source.path, picture)
            if 2 * len(video.starts) < picture.frames:
                raise MediaError(
                    f"the video is truncated: its header states {picture.frames} frames, it has {len(video.starts)}"
                )
            if picture.frames == 0 and video.starts[-1] < SHARE_OF_FILE * picture.seconds - FRAMES_SECONDS:
                raise MediaError(
                    f"the video is truncated: its header states {picture.seconds:.2f} s, its last frame is at "
                    f"{video.starts[-1]:.2f} s"
                )
            return _cut(video, source, settings)
        except DecodingError as error:
            reason = str(error)
    raise MediaError(f"the video is not decodable: {reason}")


def _cut(video: FrameReader, source: Source, settings: VideoSettings) -> Frames:
    first, last = _frame_range(video.starts, source.start, source.end)
    if last <= first:
        raise MediaError(f"the video has no frame between {source.start} and {source.end} s")
    # (N,), at the middle of N equal stretches
    places = first + ((np.arange(settings.frames) + 0.5) * (last - first) / settings.frames).astype(np.int64)
    if settings.cuts_faces:
        faces = _faces(video, places, source.crop, settings)
        if faces is not None:
            return faces
        count_fallback()
    height, width = video.size
    left, right = _side(source.crop, width)
    scale = settings.size / min(height, right - left)
    target = max(settings.size, round(height * scale)), max(settings.size, round(width * scale))  # height, width
    frames = video.read(places, target)
    start = round(left * scale)
    end = min(frames.shape[2], max(start + settings.size, round(right * scale)))
    return _centre(frames[:, :, end - max(settings.size, end - start) : end], settings.size)


def _faces(video: FrameReader, places: NDArray[np.int64], crop: str | None, settings: VideoSettings) -> Frames | None:
    """Frames cut around the face, or `None` where there is none."""
    left, right = _side(crop, video.size[1])
    frames = video.read(places)[:, :, left:right]  # (N, H, W, 3)
    square = find_face(frames, str(settings.faces), settings.face_margin, f"{settings.where}.faces")
    if square is None:
        return None
    top, start, side = square
    return resized(frames[:, top : top + side, start : start + side], (settings.size, settings.size))


def _side(crop: str | None, width: int) -> tuple[int, int]:
    if crop == "left":
        return 0, width // 2
    return (width // 2, width) if crop == "right" else (0, width)


def _frame_range(starts: NDArray[np.float64], start: float | None, end: float | None) -> tuple[int, int]:
    """The first frame of the segment, and the one after its last."""
    first = 0 if start is None else int(np.searchsorted(starts, start - 1e-6))
    return first, len(starts) if end is None else int(np.searchsorted(starts, end))


def _centre(frames: Frames, size: int) -> Frames:
    top, left = (frames.shape[1] - size) // 2, (frames.shape[2] - size) // 2
    return np.ascontiguousarray(frames[:, top : top + size, left : left + size])
